"""Records of orders and the indexes that lead to them: expiry, deadlines, pages."""

from __future__ import annotations

import asyncio
import time

import redis

from services.ledger.commands import Effect, ReportKind, RequestCancel
from services.ledger.keys import AccountKeys
from tests.integration.ledger.conftest import OpenLedger
from tests.unit.ledger.making import (
    make_order,
    report,
    request_cancel,
    reserve,
)

DAY_MS = 24 * 3600 * 1000


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
        await asyncio.sleep(0.002)  # a deadline is a millisecond
    soon, later = time.time_ns() + 6 * 10**9, time.time_ns() + 60 * 10**9
    entries = await ledger.due(partition, soon)
    assert [due.order_id for due in entries] == [order.order_id for order in orders]
    assert await ledger.due(partition, soon, 1, 1) == entries[1:2]
    await ledger.execute(report(ReportKind.ACCEPTED, orders[0], 1))
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
