"""One order under one client order id, whichever worker is asked and however often."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import redis

from services.ledger.commands import Effect
from services.ledger.groups import as_pair
from services.ledger.keys import AccountKeys
from services.ledger.order import OrderState
from tests.integration.ledger.conftest import OpenLedger
from tests.unit.ledger.making import (
    abandon,
    abandon_group,
    fill,
    make_order,
    refuse,
    reserve,
    reserve_group,
)


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


@pytest.mark.parametrize("reserved", [False, True], ids=["tombstone", "released"])
@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "retired"])
async def test_earlier_attempt_that_was_held_up_repeats_the_one_that_was_given_up_after_it(
    open_ledger: OpenLedger, raw: redis.Redis, reserved: bool, recorded: bool
) -> None:
    """Its client was told that nothing is traded."""
    slow, quick = await open_ledger(), await open_ledger()
    held_up, given_up, retried = (make_order("acc", client_order_id="c") for _ in range(3))
    if reserved:
        await quick.execute(reserve(given_up))
    await quick.execute(abandon(given_up))
    if not recorded:
        raw.delete(AccountKeys("acc").order_prefix + given_up.order_id)
    assert (await slow.execute(reserve(given_up))).effect is Effect.REPEATED
    late = await slow.execute(reserve(held_up))
    other = await slow.execute(reserve(replace(held_up, digest="other")))
    late_too = await quick.execute(abandon(held_up))
    assert [outcome.effect for outcome in (late, other, late_too)] == [
        Effect.REPEATED,
        Effect.CONFLICT,
        Effect.REPEATED,
    ]
    assert late.order is not None
    assert (late.order.order_id, late.order.is_open) == (given_up.order_id, False)
    found = await slow.order_by_client_id("acc", "c")
    assert found is not None
    assert found.order_id == given_up.order_id
    assert (await slow.execute(reserve(retried))).effect is Effect.DONE
    assert (await quick.execute(reserve(held_up))).effect is Effect.REPEATED
    account = await quick.account("acc", fresh=True)
    assert account is not None
    assert account.open_orders == 1


async def test_held_up_attempt_and_a_new_one_that_are_asked_for_together_are_told_apart(
    open_ledger: OpenLedger,
) -> None:
    slow, quick = await open_ledger(), await open_ledger()
    held_up, given_up, retried = (make_order("acc", client_order_id="c") for _ in range(3))
    await quick.execute(abandon(given_up))
    late, new = await asyncio.gather(slow.execute(reserve(held_up)), slow.execute(reserve(retried)))
    assert (late.effect, new.effect) == (Effect.REPEATED, Effect.DONE)


async def test_earlier_attempt_at_a_group_that_was_given_up_after_it_repeats_that(
    open_ledger: OpenLedger,
) -> None:
    slow, quick = await open_ledger(), await open_ledger()
    held_up, given_up, retried = (
        as_pair(make_order("acc", client_order_id="one"), make_order("acc", client_order_id="two"))
        for _ in range(3)
    )
    await quick.execute(abandon_group(given_up))
    late = await slow.execute(reserve_group(held_up))
    assert late.order is not None
    assert (late.effect, late.order.order_id) == (Effect.REPEATED, given_up[0].order_id)
    assert (await slow.execute(reserve_group(retried))).effect is Effect.DONE
    account = await quick.account("acc", fresh=True)
    assert account is not None
    assert account.open_orders == 2


async def test_client_id_of_an_order_that_was_given_up_is_kept_for_an_hour(
    open_ledger: OpenLedger, raw: redis.Redis
) -> None:
    ledger = await open_ledger()
    await ledger.execute(abandon(make_order("acc", client_order_id="c")))
    assert 3_590_000 < raw.pttl(AccountKeys("acc").client_prefix + "c") <= 3_600_000


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


async def test_client_id_whose_order_is_gone_is_free(open_ledger: OpenLedger, raw: redis.Redis) -> None:
    ledger = await open_ledger()
    order = make_order("acc", client_order_id="c")
    await ledger.execute(reserve(order, refuse))
    raw.delete(AccountKeys("acc").order_prefix + order.order_id)
    assert (await ledger.execute(reserve(make_order("acc", client_order_id="c")))).effect is Effect.DONE
    assert (await ledger.execute(reserve(make_order("acc", client_order_id="c")))).effect is Effect.REPEATED
