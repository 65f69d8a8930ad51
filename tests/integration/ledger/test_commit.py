"""Commits on the real Valkey: idempotency, indexes, expiry, copies, and servers that must be refused."""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal

import pytest
import redis

from services.ledger.account import Account
from services.ledger.commands import Approved, Effect, Outcome, ReportKind, RequestCancel
from services.ledger.continuity import NoJournal
from services.ledger.errors import ForeignLedger, LedgerUnavailable, UnsafeValkey
from services.ledger.keys import AccountKeys
from services.ledger.ledger import Ledger, LedgerOptions
from services.ledger.order import Order, OrderState
from services.ledger.registry import MemoryAccountRegistry
from services.runtime.clock import SystemClock
from services.runtime.local_stack import ValkeyServer
from tests.integration.ledger.conftest import OpenLedger
from tests.support import eventually
from tests.unit.ledger.making import (
    abandon,
    amend,
    fill,
    hold_price,
    make_order,
    refuse,
    report,
    request_cancel,
    reserve,
)

DAY_MS = 24 * 3600 * 1000


async def test_order_lives_through_two_workers(open_ledger: OpenLedger) -> None:
    risk, oms = await open_ledger(), await open_ledger()
    order = make_order("acc", "1")
    assert (await risk.execute(reserve(order))).state is OrderState.PENDING_NEW
    assert (await oms.execute(report(ReportKind.ACCEPTED, order, 1))).state is OrderState.NEW
    assert (await oms.execute(fill(order, 2, "0.4"))).state is OrderState.PARTIALLY_FILLED
    assert (await risk.execute(fill(order, 3, "0.6"))).state is OrderState.FILLED
    account = await risk.account("acc", fresh=True)
    assert account is not None
    assert account.position("BTCUSDT").quantity == 1
    assert account.position("BTCUSDT").open_buy == 0
    assert (account.open_orders, account.applied_seq) == (0, 3)


async def test_a_rehearsal_tells_the_outcome_and_leaves_nothing(
    open_ledger: OpenLedger, raw: redis.Redis
) -> None:
    ledger = await open_ledger()
    await ledger.account("acc")
    before = set(raw.keys())
    held = await ledger.rehearse(reserve(make_order("acc", "1")), Decimal(100_000))
    denied = await ledger.rehearse(reserve(make_order("acc", "1"), refuse), Decimal(100_000))
    assert (held.state, denied.state) == (OrderState.PENDING_NEW, OrderState.DENIED)
    assert set(raw.keys()) == before
    assert await ledger.account("acc") is None
    assert ledger.known_absent("acc")
    first = await ledger.execute(reserve(make_order("acc", "1")))
    assert first.effect is Effect.DONE
    assert not ledger.known_absent("acc")


async def test_same_client_id_on_another_worker_repeats_or_conflicts(open_ledger: OpenLedger) -> None:
    one, two = await open_ledger(), await open_ledger()
    first = await one.execute(reserve(make_order("acc", client_order_id="c")))
    again = await two.execute(reserve(make_order("acc", client_order_id="c")))
    other = await two.execute(reserve(make_order("acc", client_order_id="c", digest="other")))
    assert first.order is not None
    assert again.order is not None
    assert (again.effect, again.order.order_id) == (Effect.REPEATED, first.order.order_id)
    assert other.effect is Effect.CONFLICT
    account = await two.account("acc", fresh=True)
    assert account is not None
    assert account.open_orders == 1


async def test_hundred_concurrent_orders_with_one_client_id_reserve_once(open_ledger: OpenLedger) -> None:
    workers = [await open_ledger() for _ in range(3)]
    outcomes = await asyncio.gather(
        *(workers[i % 3].execute(reserve(make_order("acc", client_order_id="c"))) for i in range(100))
    )
    assert sum(outcome.effect is Effect.DONE for outcome in outcomes) == 1
    assert len({outcome.order.order_id for outcome in outcomes if outcome.order}) == 1
    account = await workers[0].account("acc", fresh=True)
    assert account is not None
    assert account.open_orders == 1


async def test_orders_without_client_id_are_recognised_by_order_id(open_ledger: OpenLedger) -> None:
    one, two = await open_ledger(), await open_ledger()
    order = make_order("acc", client_order_id="")
    assert (await one.execute(reserve(order))).effect is Effect.DONE
    assert (await two.execute(reserve(order))).effect is Effect.REPEATED


async def test_late_reservation_meets_the_tombstone(open_ledger: OpenLedger) -> None:
    risk, oms = await open_ledger(), await open_ledger()
    order = make_order("acc", client_order_id="c")
    given_up = await oms.execute(abandon(order))
    late = await risk.execute(reserve(order))
    assert (given_up.state, late.effect, late.state) == (
        OrderState.DENIED,
        Effect.REPEATED,
        OrderState.DENIED,
    )
    retried = await risk.execute(reserve(make_order("acc", client_order_id="c")))
    assert (retried.effect, retried.state) == (Effect.DONE, OrderState.PENDING_NEW)


async def test_abandoned_reservation_frees_its_client_id(open_ledger: OpenLedger) -> None:
    risk, oms = await open_ledger(), await open_ledger()
    order = make_order("acc", client_order_id="c")
    await risk.execute(reserve(order))
    assert (await oms.execute(abandon(order))).state is OrderState.CANCELED
    assert (await risk.execute(reserve(order))).effect is Effect.REPEATED
    retried = await risk.execute(reserve(make_order("acc", client_order_id="c")))
    assert (retried.effect, retried.state) == (Effect.DONE, OrderState.PENDING_NEW)


async def test_late_report_on_an_abandoned_order_leaves_the_new_holder_of_its_client_id(
    open_ledger: OpenLedger,
) -> None:
    ledger = await open_ledger()
    first, second = make_order("acc", client_order_id="c"), make_order("acc", client_order_id="c")
    await ledger.execute(reserve(first))
    await ledger.execute(abandon(first))
    await ledger.execute(reserve(second))
    await ledger.execute(fill(first, 1, "1"))
    held = await ledger.order_by_client_id("acc", "c")
    assert held is not None
    assert held.order_id == second.order_id


async def test_commands_of_one_turn_become_one_commit(open_ledger: OpenLedger, raw: redis.Redis) -> None:
    ledger = await open_ledger()
    await ledger.execute(reserve(make_order("acc")))
    before = raw.xlen(AccountKeys("acc").outbox)
    await asyncio.gather(*(ledger.submit(reserve(make_order("acc"))) for _ in range(50)))
    assert raw.xlen(AccountKeys("acc").outbox) == before + 1


async def test_command_that_raises_fails_alone(open_ledger: OpenLedger) -> None:
    def broken(account: Account, order: Order) -> Approved:
        raise ZeroDivisionError("a bug in a check")

    ledger = await open_ledger()
    futures = [
        ledger.submit(reserve(make_order("acc"))),
        ledger.submit(reserve(make_order("acc"), broken)),
        ledger.submit(reserve(make_order("acc"))),
    ]
    answers = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Outcome, ZeroDivisionError, Outcome]


async def test_cancelled_caller_does_not_take_the_command_back(open_ledger: OpenLedger) -> None:
    ledger = await open_ledger()
    order = make_order("acc")
    ledger.submit(reserve(order)).cancel()
    await eventually(lambda: ledger.order(order.order_id))


async def test_order_of_another_account_is_not_found(open_ledger: OpenLedger) -> None:
    ledger = await open_ledger()
    # Both accounts are in one partition, so that the key alone would find the record.
    names = [f"acc{i}" for i in range(100)]
    mine = names[0]
    other = next(n for n in names[1:] if AccountKeys(n).partition == AccountKeys(mine).partition)
    order = make_order(other)
    await ledger.execute(reserve(order))
    await ledger.execute(reserve(make_order(mine)))
    answer = await ledger.execute(RequestCancel(mine, order.order_id, "mine?"))
    assert answer.effect is Effect.NOT_FOUND


async def test_cancel_and_amend_of_an_account_never_opened_are_not_found(
    open_ledger: OpenLedger, raw: redis.Redis
) -> None:
    ledger = await open_ledger()
    order = make_order("nobody")
    assert (await ledger.execute(request_cancel(order))).effect is Effect.NOT_FOUND
    assert (await ledger.execute(amend(order, 1, "1", "1"))).effect is Effect.NOT_FOUND
    assert not raw.exists(AccountKeys("nobody").account)


async def test_cancel_right_after_a_reservation_elsewhere_finds_the_order(open_ledger: OpenLedger) -> None:
    one, two = await open_ledger(), await open_ledger()
    assert await two.account("acc") is None
    order = make_order("acc")
    await one.execute(reserve(order))
    assert (await two.execute(request_cancel(order))).effect is Effect.DONE


async def test_no_record_expires_and_the_client_id_of_an_ended_order_is_kept_for_a_day(
    open_ledger: OpenLedger, raw: redis.Redis
) -> None:
    ledger = await open_ledger()
    keys = AccountKeys("acc")
    order = make_order("acc", client_order_id="c")
    await ledger.execute(reserve(order))
    record, client = keys.order_prefix + order.order_id, f"{keys.client_prefix}c"
    assert (raw.pttl(record), raw.pttl(client)) == (-1, -1)
    assert raw.zscore(keys.open, order.order_id) == 0
    assert raw.zscore(keys.deadline, order.order_id) is not None
    await ledger.execute(report(ReportKind.CANCELED, order, 1))
    assert raw.pttl(record) == -1
    assert 0 <= DAY_MS - raw.pttl(client) < 60_000
    assert raw.zscore(keys.open, order.order_id) is None
    assert raw.zscore(keys.deadline, order.order_id) is None
    assert raw.zscore(keys.index, order.order_id) == 0


async def test_deadline_follows_the_order(open_ledger: OpenLedger) -> None:
    ledger = await open_ledger()
    partition = AccountKeys("acc").partition
    soon, later = time.time_ns() + 6 * 10**9, time.time_ns() + 120 * 10**9
    order = make_order("acc", expire_ns=time.time_ns() + 60 * 10**9)
    await ledger.execute(reserve(order))
    assert [o.order_id for o in await ledger.due(partition, soon)] == [order.order_id]
    await ledger.execute(report(ReportKind.ACCEPTED, order, 1))
    assert await ledger.due(partition, soon) == ()
    assert [o.order_id for o in await ledger.due(partition, later)] == [order.order_id]
    await ledger.execute(report(ReportKind.EXPIRED, order, 2))
    assert await ledger.due(partition, later) == ()


async def test_order_that_is_put_off_is_due_later_unless_it_has_changed_meanwhile(
    open_ledger: OpenLedger,
) -> None:
    ledger = await open_ledger()
    partition = AccountKeys("acc").partition
    orders = [make_order("acc", expire_ns=0) for _ in range(3)]
    for order in orders:
        await ledger.execute(reserve(order))
    soon, later = time.time_ns() + 6 * 10**9, time.time_ns() + 60 * 10**9
    entries = await ledger.due(partition, soon)
    assert [due.order_id for due in entries] == [order.order_id for order in orders]
    assert await ledger.due(partition, soon, 1, 1) == entries[1:2]
    await ledger.execute(report(ReportKind.ACCEPTED, orders[0], 1))
    await asyncio.sleep(0.002)  # a deadline is a millisecond
    await ledger.execute(request_cancel(orders[1]))
    assert [await ledger.put_off(partition, due, later) for due in entries] == [False, False, True]
    assert [due.order_id for due in await ledger.due(partition, later - 10**9)] == [orders[1].order_id]
    assert [due.order_id for due in await ledger.due(partition, later)] == [
        order.order_id for order in orders[1:]
    ]
    await ledger.execute(request_cancel(orders[2]))
    assert len(await ledger.due(partition, later - 10**9)) == 2


async def test_good_till_cancelled_order_is_not_due_once_it_works(open_ledger: OpenLedger) -> None:
    ledger = await open_ledger()
    order = make_order("acc", expire_ns=0)
    await ledger.execute(reserve(order))
    await ledger.execute(report(ReportKind.ACCEPTED, order, 1))
    assert await ledger.due(AccountKeys("acc").partition, time.time_ns() + 10**18) == ()


async def test_client_ids_of_the_oldest_denials_beyond_the_cap_are_forgotten(
    open_ledger: OpenLedger, raw: redis.Redis
) -> None:
    ledger = await open_ledger(remembered_denials=3)
    orders = [make_order("acc", client_order_id=f"c{i}") for i in range(5)]
    for order in orders:
        assert (await ledger.execute(reserve(order, refuse))).state is OrderState.DENIED
    held = [await ledger.order_by_client_id("acc", order.client_order_id) for order in orders]
    assert [order is not None for order in held] == [False, False, True, True, True]
    page = await ledger.orders("acc")
    assert {order.order_id for order in page.orders} == {order.order_id for order in orders}
    forgotten = await ledger.execute(reserve(make_order("acc", client_order_id="c0")))
    remembered = await ledger.execute(reserve(make_order("acc", client_order_id="c4")))
    assert (forgotten.effect, remembered.effect) == (Effect.DONE, Effect.REPEATED)


async def test_orders_are_listed_newest_first_in_pages(open_ledger: OpenLedger, raw: redis.Redis) -> None:
    ledger = await open_ledger()
    orders = []
    for millisecond in range(7):
        order_id = f"acc-{1_700_000_000_000 + millisecond:026d}"
        orders.append(make_order("acc", order_id=order_id))
        await ledger.execute(reserve(orders[-1]))
    await ledger.execute(report(ReportKind.CANCELED, orders[3], 1))
    # An expired record leaves a gap in the index.
    raw.delete(AccountKeys("acc").order_prefix + orders[4].order_id)
    expected = [order.order_id for i, order in reversed(list(enumerate(orders))) if i != 4]
    seen: list[str] = []
    token = ""
    while True:
        page = await ledger.orders("acc", page_size=2, page_token=token)
        assert len(page.orders) <= 2
        seen += [order.order_id for order in page.orders]
        token = page.next_page_token
        if not token:
            break
    assert seen == expected
    opened = await ledger.orders("acc", open_only=True)
    assert [order.order_id for order in opened.orders] == [i for i in expected if i != orders[3].order_id]
    oldest_first = await ledger.open_orders("acc")
    assert [order.order_id for order in oldest_first] == [o.order_id for o in reversed(opened.orders)]


async def test_other_workers_change_shows_within_ten_milliseconds(open_ledger: OpenLedger) -> None:
    reader, writer = await open_ledger(), await open_ledger()
    await writer.execute(reserve(make_order("acc")))
    lags = []
    for count in range(2, 202):
        await reader.account("acc")
        await writer.execute(reserve(make_order("acc")))
        started = time.perf_counter()
        while True:
            account = await reader.account("acc")
            if account is not None and account.open_orders == count:
                break
            await asyncio.sleep(0)
        lags.append(time.perf_counter() - started)
    lags.sort()
    print(f"tracking lag: P50 {lags[100] * 1e3:.2f} ms, P99 {lags[197] * 1e3:.2f} ms")
    assert lags[197] < 0.1


async def test_own_commit_leaves_the_copy_tracked(open_ledger: OpenLedger) -> None:
    one, two = await open_ledger(), await open_ledger()
    for count in range(1, 20):
        # The worker's own write ends the server's tracking of the key; the commit's last read renews it.
        await one.execute(reserve(make_order("acc")))
        copy = one.cached("acc")
        assert copy is not None
        assert copy.open_orders == 2 * count - 1
        await two.execute(reserve(make_order("acc")))
        await eventually(lambda: one.cached("acc") is None)


async def test_account_never_opened_is_remembered_as_such_until_somebody_opens_it(
    open_ledger: OpenLedger, registry: MemoryAccountRegistry
) -> None:
    reader, writer = await open_ledger(), await open_ledger()
    assert await reader.account("acc") is None
    registry.readable = False
    # Neither Valkey nor the registry is asked again.
    assert await reader.account("acc") is None
    registry.readable = True
    await writer.execute(reserve(make_order("acc")))
    await eventually(lambda: reader.account("acc"))


async def test_readers_of_one_account_share_a_look(open_ledger: OpenLedger, raw: redis.Redis) -> None:
    ledger = await open_ledger(cache_accounts=False)
    await ledger.execute(reserve(make_order("acc")))
    before = raw.info("commandstats")["cmdstat_hgetall"]["calls"]
    accounts = await asyncio.gather(*(ledger.account("acc") for _ in range(50)))
    after = raw.info("commandstats")["cmdstat_hgetall"]["calls"]
    assert all(account is not None for account in accounts)
    assert after == before + 1


async def test_new_opening_cash_holds_for_accounts_opened_from_then_on(open_ledger: OpenLedger) -> None:
    ledger = await open_ledger()
    await ledger.execute(reserve(make_order("acc1")))
    ledger.set_opening_cash(Decimal(7))
    await ledger.execute(reserve(make_order("acc2")))
    accounts = [await ledger.account(name) for name in ("acc1", "acc2")]
    assert [account and account.cash for account in accounts] == [100_000, 7]


async def test_client_id_whose_order_is_gone_is_free(open_ledger: OpenLedger, raw: redis.Redis) -> None:
    ledger = await open_ledger()
    order = make_order("acc", client_order_id="c")
    await ledger.execute(reserve(order, refuse))
    raw.delete(AccountKeys("acc").order_prefix + order.order_id)
    assert (await ledger.execute(reserve(make_order("acc", client_order_id="c")))).effect is Effect.DONE
    assert (await ledger.execute(reserve(make_order("acc", client_order_id="c")))).effect is Effect.REPEATED


async def test_order_that_cannot_be_written_down_fails_alone(open_ledger: OpenLedger) -> None:
    def unwritable(account: Account, order: Order) -> Approved:
        return Approved(hold_price(account, order).reservation, object())  # type: ignore[arg-type]

    ledger = await open_ledger()
    futures = [
        ledger.submit(reserve(make_order("acc"))),
        ledger.submit(reserve(make_order("acc"), unwritable)),
        ledger.submit(reserve(make_order("acc"))),
    ]
    answers = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Outcome, TypeError, Outcome]
    account = await ledger.account("acc", fresh=True)
    assert account is not None
    assert account.open_orders == 2


async def test_copy_older_than_its_bound_is_read_again(open_ledger: OpenLedger) -> None:
    ledger = await open_ledger(position_cache_ttl=0.0)
    await ledger.execute(reserve(make_order("acc")))
    await asyncio.sleep(0.001)
    assert ledger.cached("acc") is None
    uncached = await open_ledger(cache_accounts=False)
    assert await uncached.account("acc") is not None
    assert uncached.cached("acc") is None


async def test_flush_behind_the_ledgers_back_is_noticed_and_denied(
    open_ledger: OpenLedger, raw: redis.Redis
) -> None:
    ledger = await open_ledger()
    await ledger.execute(reserve(make_order("acc")))
    raw.flushall()
    with pytest.raises(LedgerUnavailable, match="was opened, but is not stored"):
        await ledger.execute(reserve(make_order("acc")))
    with pytest.raises(LedgerUnavailable, match="was opened, but is not stored"):
        await ledger.account("acc")


async def test_lost_functions_are_loaded_again(open_ledger: OpenLedger, raw: redis.Redis) -> None:
    ledger = await open_ledger()
    await ledger.execute(reserve(make_order("acc")))
    raw.function_flush("SYNC")
    assert (await ledger.execute(reserve(make_order("acc")))).effect is Effect.DONE


async def test_refusal_of_the_server_is_certain_when_it_came_first(
    open_ledger: OpenLedger, raw: redis.Redis
) -> None:
    ledger = await open_ledger()
    await ledger.execute(reserve(make_order("acc")))
    raw.config_set("maxmemory", 1)
    try:
        with pytest.raises(LedgerUnavailable, match="OOM"):
            await ledger.execute(reserve(make_order("acc")))
    finally:
        raw.config_set("maxmemory", 0)
    assert (await ledger.execute(reserve(make_order("acc")))).effect is Effect.DONE
    account = await ledger.account("acc", fresh=True)
    assert account is not None
    assert account.open_orders == 2


@pytest.mark.parametrize(
    ("name", "value"), [("maxmemory-policy", "allkeys-lru"), ("appendfsync", "everysec")]
)
async def test_unsafe_server_is_refused_by_name_of_the_setting(
    open_ledger: OpenLedger, raw: redis.Redis, name: str, value: str
) -> None:
    before = raw.config_get(name)[name]
    raw.config_set(name, value)
    try:
        with pytest.raises(UnsafeValkey, match=name):
            await open_ledger()
        await open_ledger(allow_unsafe=True)
    finally:
        raw.config_set(name, str(before))


async def test_workers_see_the_same_identity_and_refuse_another_layout(open_ledger: OpenLedger) -> None:
    one, two = await open_ledger(), await open_ledger()
    assert one.identity == two.identity != ""
    with pytest.raises(ForeignLedger, match="16 partitions"):
        await open_ledger(partitions=8)


async def test_stream_that_began_anew_is_refused(open_ledger: OpenLedger) -> None:
    ledger = await open_ledger()
    await ledger.bind_stream("EXECUTIONS", "2026-01-01T00:00:00Z")
    await ledger.bind_stream("EXECUTIONS", "2026-01-01T00:00:00Z")
    with pytest.raises(ForeignLedger, match="EXECUTIONS"):
        await ledger.bind_stream("EXECUTIONS", "2026-02-02T00:00:00Z")


async def test_checkpoint_is_kept_by_partition(open_ledger: OpenLedger) -> None:
    ledger = await open_ledger()
    assert await ledger.checkpoint(3) == 0
    await ledger.set_checkpoint(3, 17, ledger.life)
    assert (await ledger.checkpoint(3), await ledger.checkpoint(4)) == (17, 0)


async def test_unreachable_server_is_named_at_the_start() -> None:
    with pytest.raises(LedgerUnavailable):
        await Ledger.open(
            LedgerOptions(url="redis://127.0.0.1:1"), MemoryAccountRegistry(), NoJournal(), SystemClock()
        )


async def test_commands_wait_for_a_server_that_comes_back(
    open_ledger: OpenLedger, valkey_server: ValkeyServer
) -> None:
    ledger = await open_ledger()
    order = make_order("acc")
    await ledger.execute(reserve(order))
    await asyncio.to_thread(valkey_server.kill)
    waiting = ledger.submit(reserve(make_order("acc")), timeout=30)
    short = ledger.submit(reserve(make_order("acc2")), timeout=0.2)
    with pytest.raises(LedgerUnavailable):
        await short
    valkey_server.start()
    assert (await waiting).effect is Effect.DONE
    assert (await ledger.order(order.order_id)) is not None
