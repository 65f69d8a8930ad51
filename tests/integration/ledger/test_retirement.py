"""Ended orders leave Valkey when they may, unless they have changed; what a repetition needs stays."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import redis

from services.ledger.commands import Effect, ReportKind
from services.ledger.groups import as_pair
from services.ledger.keys import AccountKeys
from services.ledger.ledger import EndedOrder, Ledger
from services.ledger.order import Order, OrderState
from tests.unit.ledger.making import abandon, fill, make_order, refuse, report, request_cancel, reserve

OpenLedger = Callable[..., Awaitable[Ledger]]
KEYS = AccountKeys("acc")


@pytest.fixture
async def ledger(open_ledger: OpenLedger) -> Ledger:
    return await open_ledger(remembered_denials=3)


def carried(raw: redis.Redis) -> None:
    """The relay has carried everything."""
    raw.delete(KEYS.outbox)


async def ended_order(ledger: Ledger, client_order_id: str = "c", seq: int = 1) -> Order:
    order = make_order("acc", client_order_id=client_order_id)
    await ledger.execute(reserve(order))
    held = (await ledger.execute(fill(order, seq, "1"))).order
    assert held is not None
    assert held.state is OrderState.FILLED
    return held


async def leaving(ledger: Ledger) -> tuple[EndedOrder, ...]:
    return await ledger.ended(KEYS.partition, 0)


async def test_an_order_may_go_only_after_its_events_have_left_the_outbox(
    ledger: Ledger, raw: redis.Redis
) -> None:
    order = await ended_order(ledger)
    working = make_order("acc")
    await ledger.execute(reserve(working))
    assert await leaving(ledger) == ()
    carried(raw)
    assert [one.order for one in await leaving(ledger)] == [order]
    assert await ledger.ended(KEYS.partition, 60_000) == ()


async def test_what_has_gone_leaves_no_key_but_the_client_id_that_expires(
    ledger: Ledger, raw: redis.Redis
) -> None:
    await ledger.execute(reserve(make_order("acc", client_order_id="")))
    before = {key for key in raw.scan_iter() if b"outbox" not in key}
    order = await ended_order(ledger)
    await ended_order(ledger, client_order_id="", seq=2)
    carried(raw)
    assert await ledger.retire(KEYS.partition, await leaving(ledger)) == 2
    client = f"{KEYS.client_prefix}c".encode()
    assert set(raw.scan_iter()) - before == {client}
    assert 0 < raw.pttl(client) <= 24 * 3600 * 1000
    assert raw.zcard(KEYS.index) == 1
    assert await ledger.order(order.order_id) is None


async def test_a_repeated_request_is_answered_after_its_order_has_gone(
    ledger: Ledger, raw: redis.Redis
) -> None:
    order = await ended_order(ledger)
    carried(raw)
    await ledger.retire(KEYS.partition, await leaving(ledger))
    again = await ledger.execute(reserve(make_order("acc", client_order_id="c")))
    assert again.effect is Effect.REPEATED
    assert again.order is not None
    assert (again.order.order_id, again.order.state) == (order.order_id, OrderState.FILLED)
    other = await ledger.execute(reserve(make_order("acc", client_order_id="c", digest="another")))
    assert other.effect is Effect.CONFLICT
    remembered = await ledger.order_by_client_id("acc", "c")
    assert remembered is not None
    assert (remembered.order_id, remembered.cumulative) == (order.order_id, 1)


async def test_a_denial_that_has_gone_is_told_again_with_its_reason(ledger: Ledger, raw: redis.Redis) -> None:
    await ledger.execute(reserve(make_order("acc", client_order_id="c"), refuse))
    carried(raw)
    await ledger.retire(KEYS.partition, await leaving(ledger))
    again = (await ledger.execute(reserve(make_order("acc", client_order_id="c")))).order
    assert again is not None
    assert (again.state, again.reason, again.message) == (OrderState.DENIED, "order_size_limit", "too large")
    for number in range(3):
        await ledger.execute(reserve(make_order("acc", client_order_id=f"d{number}"), refuse))
    assert await ledger.order_by_client_id("acc", "c") is None


async def test_an_order_that_changed_since_it_was_looked_at_stays(ledger: Ledger, raw: redis.Redis) -> None:
    order = await ended_order(ledger)
    carried(raw)
    looked_at = await leaving(ledger)
    late = (await ledger.execute(fill(order, 2, "1"))).order
    assert await ledger.retire(KEYS.partition, looked_at) == 0
    assert await ledger.order(order.order_id) == late
    carried(raw)
    assert [one.order for one in await leaving(ledger)] == [late]


async def test_a_late_fill_of_an_order_that_has_gone_is_booked_and_flagged(
    ledger: Ledger, raw: redis.Redis
) -> None:
    order = await ended_order(ledger)
    carried(raw)
    await ledger.retire(KEYS.partition, await leaving(ledger))
    outcome = await ledger.execute(fill(order, 2, "1"))
    assert (outcome.effect, outcome.order) == (Effect.DONE, None)
    account = await ledger.account("acc")
    assert account is not None
    assert account.position(order.symbol).quantity == 2
    assert (await ledger.execute(report(ReportKind.CANCELED, order, 3))).effect is Effect.IGNORED
    assert (await ledger.execute(request_cancel(order))).effect is Effect.NOT_FOUND


async def test_a_tombstone_waits_an_hour_for_its_reservation(ledger: Ledger, raw: redis.Redis) -> None:
    order = make_order("acc", client_order_id="c")
    await ledger.execute(abandon(order))
    carried(raw)
    assert await leaving(ledger) == ()
    assert (await ledger.execute(reserve(order))).state is OrderState.DENIED
    score = raw.zscore(KEYS.ended, order.order_id)
    assert score is not None
    raw.zadd(KEYS.ended, {order.order_id: float(score) - 3_600_001})
    await ledger.retire(KEYS.partition, await leaving(ledger))
    assert not raw.exists(KEYS.order_prefix + order.order_id)


async def test_retiring_goes_on_after_the_server_lost_its_functions(ledger: Ledger, raw: redis.Redis) -> None:
    await ended_order(ledger)
    carried(raw)
    raw.function_flush("SYNC")
    assert await ledger.retire(KEYS.partition, await leaving(ledger)) == 1


async def test_an_order_of_a_group_that_has_gone_still_names_the_others(
    ledger: Ledger, raw: redis.Redis
) -> None:
    first, second = as_pair(make_order("acc", client_order_id="c1"), make_order("acc", client_order_id="c2"))
    await ledger.execute(reserve(first))
    await ledger.execute(report(ReportKind.CANCELED, first, 1))
    carried(raw)
    await ledger.retire(KEYS.partition, await leaving(ledger))
    kept = await ledger.order_by_client_id("acc", "c1")
    assert kept is not None
    assert kept.group is not None
    assert (kept.group.group_id, kept.group.linked) == (first.order_id, (second.order_id,))
