"""Commits whose answer never came: late writes, lost answers, a frozen server, a caller without time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import redis

from services.ledger.account import Account
from services.ledger.commands import Approved, Effect, Outcome, Refused, ReportKind
from services.ledger.errors import CommitUnknown, LedgerUnavailable
from services.ledger.ledger import Ledger
from services.ledger.order import Order, OrderState
from services.runtime.local_stack import ValkeyServer
from tests.integration.ledger.conftest import OpenLedger
from tests.integration.ledger.proxy import Faults, FaultyProxy, faulty_proxy
from tests.support import eventually
from tests.unit.ledger.making import abandon, amend, hold_price, make_order, report, request_cancel, reserve


@pytest.fixture
async def proxy(empty_valkey: ValkeyServer) -> AsyncIterator[FaultyProxy]:
    async with faulty_proxy("127.0.0.1", empty_valkey.port, seed=7) as made:
        yield made


async def test_lost_answer_is_settled_by_committing_again(
    open_ledger: OpenLedger, proxy: FaultyProxy
) -> None:
    ledger, direct = await open_ledger(url=proxy.url), await open_ledger()
    await ledger.execute(reserve(make_order("acc")))
    proxy.faults = Faults(lose_answer=1.0)
    order = make_order("acc")
    waiting = ledger.submit(reserve(order), timeout=30)
    await eventually(lambda: direct.order(order.order_id))
    proxy.faults = Faults()
    # The first commit did it; the second one found it done.
    outcome = await waiting
    assert (outcome.effect, outcome.state) == (Effect.REPEATED, OrderState.PENDING_NEW)
    account = await direct.account("acc", fresh=True)
    assert account is not None
    assert account.open_orders == 2


async def test_commit_that_stays_unanswered_is_unknown_and_abandon_settles_it(
    open_ledger: OpenLedger, proxy: FaultyProxy
) -> None:
    ledger, direct = await open_ledger(url=proxy.url), await open_ledger()
    await ledger.execute(reserve(make_order("acc")))
    proxy.faults = Faults(deliver_late=1.0, longest=0.5)
    order = make_order("acc")
    with pytest.raises(CommitUnknown):
        await ledger.execute(reserve(order), timeout=0.3)
    settled = await direct.execute(abandon(order))
    assert settled.state in (OrderState.DENIED, OrderState.CANCELED)
    await asyncio.sleep(0.7)  # the longest that the proxy keeps a write back
    stored = await direct.order(order.order_id)
    assert stored is not None
    assert not stored.is_open


async def test_write_that_comes_after_the_answer_to_its_repetition_is_refused(
    open_ledger: OpenLedger, proxy: FaultyProxy
) -> None:
    """The second try changes nothing itself; it must nevertheless keep the first from landing."""
    ledger, direct = await open_ledger(url=proxy.url), await open_ledger()
    order = make_order("acc")
    await ledger.execute(reserve(order))
    await ledger.execute(report(ReportKind.ACCEPTED, order, 1))
    tries: list[int] = []

    def first_yes_then_no(account: Account, candidate: Order) -> Approved | Refused:
        tries.append(1)
        if len(tries) > 1:
            return Refused("position_limit", "the mark has moved")
        proxy.faults = Faults(deliver_late=1.0, longest=0.0)
        proxy.hold = asyncio.Event()
        return hold_price(account, candidate)

    waiting = ledger.submit(amend(order, 1, "5", "100", first_yes_then_no), timeout=30)
    await eventually(lambda: proxy.done.late >= 1)
    proxy.faults = Faults()
    outcome = await waiting
    assert (outcome.effect, len(tries)) == (Effect.REFUSED, 2)
    assert proxy.hold is not None
    proxy.hold.set()
    await eventually(lambda: proxy.released >= 1)
    stored = await direct.order(order.order_id)
    assert stored is not None
    assert (stored.state, stored.replacement) == (OrderState.NEW, None)


async def test_answer_that_changes_nothing_is_never_given_from_a_stale_copy(
    open_ledger: OpenLedger, proxy: FaultyProxy
) -> None:
    ledger, direct = await open_ledger(url=proxy.url, socket_timeout=5.0), await open_ledger()
    order = make_order("acc")
    await ledger.execute(reserve(order))
    await ledger.execute(report(ReportKind.ACCEPTED, order, 1))
    await ledger.execute(request_cancel(order))
    proxy.talking.clear()
    await direct.execute(report(ReportKind.CANCEL_REJECTED, order, 2))
    # The invalidation is on its way: the copy at hand still says that a cancel is pending.
    waiting = ledger.submit(request_cancel(order), timeout=5)
    await asyncio.sleep(0.05)
    assert ledger.cached("acc") is not None
    proxy.talking.set()
    outcome = await waiting
    assert (outcome.effect, outcome.state) == (Effect.DONE, OrderState.PENDING_CANCEL)


async def report_in_hand_of_a_server_that_is_away(
    open_ledger: OpenLedger, proxy: FaultyProxy
) -> tuple[Ledger, Order, asyncio.Future[Outcome]]:
    ledger = await open_ledger(url=proxy.url)
    order = make_order("acc")
    await ledger.execute(reserve(order))
    proxy.refusing = True
    proxy.break_all()
    await eventually(lambda: ledger.cached("acc") is None)
    reported = ledger.submit(report(ReportKind.ACCEPTED, order, 1), timeout=86_400)
    await asyncio.sleep(0)  # the report is in hand
    return ledger, order, reported


async def test_report_without_a_deadline_keeps_no_command_behind_it_waiting_while_the_server_is_away(
    open_ledger: OpenLedger, proxy: FaultyProxy
) -> None:
    ledger, order, reported = await report_in_hand_of_a_server_that_is_away(open_ledger, proxy)
    behind = [ledger.submit(request_cancel(order), timeout=seconds) for seconds in (0.1, 0.2)]
    _, waiting = await asyncio.wait(behind, timeout=5)
    assert not waiting
    assert [type(one.exception()) for one in behind] == [LedgerUnavailable] * 2
    assert not reported.done()
    proxy.refusing = False
    assert (await asyncio.wait_for(reported, 10)).state is OrderState.NEW
    assert (await ledger.execute(request_cancel(order))).effect is Effect.DONE


async def test_report_without_a_deadline_keeps_no_command_behind_it_waiting_while_the_server_is_busy(
    open_ledger: OpenLedger, raw: redis.Redis
) -> None:
    """A server that is loading its data refuses with the same patience as one that runs a long script."""
    ledger = await open_ledger()
    order = make_order("acc")
    await ledger.execute(reserve(order))
    (usual,) = raw.config_get("busy-reply-threshold").values()
    raw.config_set("busy-reply-threshold", 1)
    endless = asyncio.create_task(asyncio.to_thread(_run_endless_script, raw))
    await eventually(lambda: _refuses(ledger))
    try:
        reported = ledger.submit(report(ReportKind.ACCEPTED, order, 1), timeout=86_400)
        await asyncio.sleep(0)  # the report is in hand
        behind = ledger.submit(request_cancel(order), timeout=0.1)
        await asyncio.wait([behind], timeout=5)
        assert isinstance(behind.exception(), LedgerUnavailable)
        assert not reported.done()
    finally:
        raw.script_kill()
        await endless
        raw.config_set("busy-reply-threshold", str(usual))
    assert (await asyncio.wait_for(reported, 10)).state is OrderState.NEW


def _run_endless_script(raw: redis.Redis) -> None:
    with contextlib.suppress(redis.ResponseError):
        raw.eval("while true do end", 0)


async def _refuses(ledger: Ledger) -> bool:
    try:
        await ledger.ping()
    except LedgerUnavailable:
        return True
    return False


async def test_close_ends_although_a_report_without_a_deadline_cannot_be_committed(
    open_ledger: OpenLedger, proxy: FaultyProxy
) -> None:
    ledger, order, reported = await report_in_hand_of_a_server_that_is_away(open_ledger, proxy)
    behind = ledger.submit(request_cancel(order), timeout=86_400)
    async with asyncio.timeout(10):
        await ledger.close()
    assert isinstance(reported.exception(), LedgerUnavailable)
    assert isinstance(behind.exception(), LedgerUnavailable)


async def test_close_tells_of_a_commit_on_its_way_that_its_outcome_is_unknown(
    open_ledger: OpenLedger, proxy: FaultyProxy
) -> None:
    ledger = await open_ledger(url=proxy.url, socket_timeout=60)
    await ledger.execute(reserve(make_order("acc")))
    proxy.talking.clear()
    order = make_order("acc")
    on_its_way = ledger.submit(reserve(order), timeout=86_400)
    async with asyncio.timeout(10):
        await ledger.close()
    assert isinstance(on_its_way.exception(), CommitUnknown)


async def test_frozen_server_breaks_the_connection_and_drops_the_copies(
    open_ledger: OpenLedger, valkey_server: ValkeyServer
) -> None:
    ledger = await open_ledger(socket_timeout=0.2)
    await ledger.execute(reserve(make_order("acc")))
    assert ledger.cached("acc") is not None
    valkey_server.pause()
    try:
        # Nobody asks anything: the connection is probed all the same, because no invalidation could come.
        await eventually(lambda: ledger.cached("acc") is None)
        with pytest.raises(LedgerUnavailable):
            await ledger.account("acc")
        with pytest.raises(LedgerUnavailable):
            await ledger.ping()
    finally:
        valkey_server.resume()
    await eventually(lambda: _reads(ledger))


async def _reads(ledger: Ledger) -> bool:
    try:
        return await ledger.account("acc") is not None
    except LedgerUnavailable:
        return False
