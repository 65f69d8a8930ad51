"""Orders that belong together: in process, over gRPC, over REST."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from services.runtime.errors import Code
from tests.contract.oms.clients import OmsClient, Refusal
from tests.integration.oms.orders import limit_buy, market_buy, orders_of, resting, until_state
from tests.support import eventually

QUANTITY = Decimal("0.1")


def profit(account: str, **fields: Any) -> dict[str, Any]:
    """A sell that the mark does not reach."""
    return resting(account, **fields)


def loss(account: str, **fields: Any) -> dict[str, Any]:
    """A stop that the mark does not reach."""
    return resting(account, **{"type": "stop", "price": None, "stop_price": 40000, **fields})


def group(kind: str, *orders: dict[str, Any]) -> dict[str, Any]:
    return {"kind": kind, "orders": list(orders)}


async def submitted(oms: OmsClient, request: dict[str, Any]) -> list[str]:
    """Order ids of a group that was taken."""
    answer = await oms.call("SubmitOrderGroup", request)
    assert {one["status"] for one in answer["orders"]} == {"submitted"}, answer
    return [one["order_id"] for one in answer["orders"]]


async def until_open(
    oms: OmsClient,
    account: str,
    buy: Decimal | int,
    sell: Decimal | int,
    held: Decimal | int | None = None,
) -> None:
    """Returns when the account's open quantities are these, and its position is `held` where that is given.

    What positions tell may lag an order by milliseconds.
    """

    async def reached() -> bool:
        position = (await oms.call("GetPositions", {"account": account})).get("BTCUSDT", {})
        assert (position.get("open_buy_quantity", 0), position.get("open_sell_quantity", 0)) == (buy, sell)
        assert held is None or position.get("quantity") == held
        return True

    await eventually(reached)


async def test_pair_rests_under_one_group_id_and_holds_the_larger_leg(oms: OmsClient, account: str) -> None:
    ids = await submitted(oms, group("oco", profit(account), loss(account, quantity=0.2)))
    orders = [await until_state(oms, order_id, "new") for order_id in ids]
    assert [order["group_id"] for order in orders] == [ids[0], ids[0]]
    await until_open(oms, account, 0, Decimal("0.2"))


async def test_pair_of_which_both_can_execute_executes_one(oms: OmsClient, account: str) -> None:
    both = group("oco", profit(account, price=40000), loss(account, stop_price=50000))
    ids = await submitted(oms, both)
    filled = await until_state(oms, ids[0], "filled")
    canceled = await until_state(oms, ids[1], "canceled")
    assert (filled["cumulative_quantity"], canceled["cumulative_quantity"]) == (QUANTITY, 0)
    assert canceled["reason"] == "sibling_executed"
    await until_open(oms, account, 0, 0, held=-QUANTITY)


async def test_canceled_leg_leaves_the_other_one_working(oms: OmsClient, account: str) -> None:
    ids = await submitted(oms, group("oco", profit(account), loss(account, quantity=0.2)))
    for order_id in ids:
        await until_state(oms, order_id, "new")
    await oms.call("CancelOrder", {"order_id": ids[1]})
    await until_state(oms, ids[1], "canceled")
    await until_open(oms, account, 0, QUANTITY)
    assert (await until_state(oms, ids[0], "new"))["leaves_quantity"] == QUANTITY
    await oms.call("CancelOrder", {"order_id": ids[0]})
    await until_state(oms, ids[0], "canceled")
    await until_open(oms, account, 0, 0)


async def test_bracket_whose_entry_is_filled_has_working_exits(oms: OmsClient, account: str) -> None:
    ids = await submitted(oms, group("bracket", market_buy(account), profit(account), loss(account)))
    await until_state(oms, ids[0], "filled")
    exits = [await until_state(oms, order_id, "new") for order_id in ids[1:]]
    assert [order["quantity"] for order in exits] == [QUANTITY, QUANTITY]
    await until_open(oms, account, 0, QUANTITY)


async def test_bracket_that_is_closed_by_an_exit_is_flat(oms: OmsClient, account: str) -> None:
    at_once = profit(account, price=40000)
    ids = await submitted(oms, group("bracket", market_buy(account), at_once, loss(account)))
    await until_state(oms, ids[1], "filled")
    assert (await until_state(oms, ids[2], "canceled"))["reason"] == "sibling_executed"
    await until_open(oms, account, 0, 0, held=0)


async def test_exits_wait_for_an_entry_that_rests_and_end_with_it(oms: OmsClient, account: str) -> None:
    entry = limit_buy(account, price=38000)
    ids = await submitted(oms, group("bracket", entry, profit(account), loss(account)))
    await until_state(oms, ids[0], "new")
    for order_id in ids[1:]:
        assert (await until_state(oms, order_id, "waiting"))["group_id"] == ids[0]
    await until_open(oms, account, QUANTITY, 0)
    waiting = await oms.call("ListOrders", {"account": account, "state": "waiting"})
    assert {order["order_id"] for order in waiting["orders"]} == set(ids[1:])
    canceled = (await oms.call("CancelOrder", {"order_id": ids[1]}))["order"]
    assert (canceled["state"], canceled["reason"]) == ("canceled", "client_request")
    await oms.call("CancelOrder", {"order_id": ids[0]})
    await until_state(oms, ids[0], "canceled")
    assert (await until_state(oms, ids[2], "canceled"))["reason"] == "entry_unfilled"
    await until_open(oms, account, 0, 0)


async def test_repeated_group_is_answered_as_the_first_time(oms: OmsClient, account: str) -> None:
    request = group("oco", profit(account, client_order_id="up"), loss(account, client_order_id="down"))
    first = await oms.call("SubmitOrderGroup", request)
    for one in first["orders"]:
        await until_state(oms, one["order_id"], "new")
    assert await oms.call("SubmitOrderGroup", request) == first
    assert len(await orders_of(oms, account)) == 2
    with pytest.raises(Refusal) as caught:
        await oms.call(
            "SubmitOrderGroup",
            group("oco", profit(account, client_order_id="up"), loss(account, stop_price=39000)),
        )
    assert caught.value.code is Code.ALREADY_EXISTS


async def test_denied_group_is_rejected_whole(oms: OmsClient, account: str) -> None:
    answer = await oms.call("SubmitOrderGroup", group("oco", profit(account), loss(account, quantity=5)))
    assert [(one["status"], one["reason"]) for one in answer["orders"]] == [
        ("rejected", "order_size_limit"),
        ("rejected", "order_size_limit"),
    ]
    assert {order["state"] for order in await orders_of(oms, account)} == {"denied"}


WRONG: list[tuple[str, Any, str]] = [
    ("no kind", lambda a: {"orders": [profit(a), loss(a)]}, "kind"),
    ("one order", lambda a: group("oco", profit(a)), "orders"),
    ("three orders", lambda a: group("oco", profit(a), loss(a), loss(a)), "orders"),
    ("no exit", lambda a: group("bracket", market_buy(a)), "orders"),
    ("three exits", lambda a: group("bracket", market_buy(a), *[loss(a)] * 3), "orders"),
    ("account", lambda a: group("oco", profit(a), loss(f"{a}-2")), "orders[1].account"),
    ("symbol", lambda a: group("oco", profit(a), loss(a, symbol="ETHUSDT")), "orders[1].symbol"),
    ("market leg", lambda a: group("oco", market_buy(a), loss(a)), "orders[0].type"),
    ("ioc leg", lambda a: group("oco", profit(a), loss(a, time_in_force="ioc")), "orders[1].time_in_force"),
    ("no quantity", lambda a: group("oco", profit(a), loss(a, quantity=0)), "orders[1].quantity"),
    (
        "same client order id",
        lambda a: group("oco", profit(a, client_order_id="x"), loss(a, client_order_id="x")),
        "orders[1].client_order_id",
    ),
    (
        "exit on the entry's side",
        lambda a: group("bracket", limit_buy(a), loss(a), profit(a, side="buy")),
        "orders[2].side",
    ),
    (
        "exit larger than the entry",
        lambda a: group("bracket", limit_buy(a), loss(a, quantity=0.2)),
        "orders[1].quantity",
    ),
    ("market exit", lambda a: group("bracket", limit_buy(a), market_buy(a, side="sell")), "orders[1].type"),
]


@pytest.mark.parametrize(("wrong", "request_of", "field"), WRONG, ids=[case[0] for case in WRONG])
async def test_wrong_group_is_refused_with_the_field_and_nothing_is_written(
    oms: OmsClient, account: str, wrong: str, request_of: Any, field: str
) -> None:
    with pytest.raises(Refusal) as caught:
        await oms.call("SubmitOrderGroup", request_of(account))
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.fields == [field]
    assert await orders_of(oms, account) == []


async def test_drop_copy_tells_of_the_group(oms: OmsClient, account: str) -> None:
    ids = await submitted(oms, group("bracket", market_buy(account), profit(account), loss(account)))
    for order_id in ids[1:]:
        await until_state(oms, order_id, "new")
    told: list[tuple[str, str, str]] = []

    async def follow() -> bool:
        async for message in oms.stream({"account": account}):
            event = message.get("event")
            if event is not None:
                told.append((event["kind"], event.get("order_id", ""), event.get("state", "")))
            if len([one for one in told if one[0] == "acknowledged"]) == 2:
                return True
        return False

    await eventually(follow)
    assert [one for one in told if one[0] == "reserved"] == [
        ("reserved", ids[0], "pending_new"),
        ("reserved", ids[1], "waiting"),
        ("reserved", ids[2], "waiting"),
    ]
    assert [one for one in told if one[0] == "activated"] == [
        ("activated", ids[1], "pending_new"),
        ("activated", ids[2], "pending_new"),
    ]
