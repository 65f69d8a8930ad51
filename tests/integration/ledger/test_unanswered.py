"""Commits whose answer never came: late writes, lost answers, a frozen server, a caller without time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.ledger.account import Account
from services.ledger.commands import Approved, Effect, Refused, ReportKind
from services.ledger.errors import CommitUnknown, LedgerUnavailable
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


async def _reads(ledger: object) -> bool:
    from services.ledger.ledger import Ledger

    assert isinstance(ledger, Ledger)
    try:
        return await ledger.account("acc") is not None
    except LedgerUnavailable:
        return False
