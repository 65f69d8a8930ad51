"""`Reserve` of orders that belong together: all are held or none."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from services.runtime.errors import Code
from tests.contract.risk.clients import Refusal, RiskClient
from tests.contract.risk.test_reserve import open_orders, reserve


def group(kind: str, first: dict[str, Any], *further: dict[str, Any]) -> dict[str, Any]:
    return {**first, "group": {"kind": kind, "orders": list(further)}}


def stop(account: str, **fields: Any) -> dict[str, Any]:
    return reserve(account, **{"side": "sell", "type": "stop", "price": None, "stop_price": 44000, **fields})


async def test_bracket_is_held_by_its_entry_and_each_outcome_is_told_each_time(
    reserving: RiskClient, account: str
) -> None:
    exits = [reserve(account, side="sell", price=46000), stop(account)]
    request = group("bracket", reserve(account), *exits)
    answer = await reserving.call("Reserve", request)
    assert await reserving.call("Reserve", request) == {**answer, "repeated": True}
    assert (answer["approved"], answer["state"]) == (True, "pending_new"), answer
    assert [one["order_id"] for one in answer["group"]] == [one["order_id"] for one in exits]
    assert [one["state"] for one in answer["group"]] == ["waiting", "waiting"]
    assert answer["group"][1]["protection_price"] < 44000
    state = await reserving.call("GetAccountRisk", {"account": account})
    assert (state["open_orders"], state["symbols"][0]["open_buy"]) == (1, Decimal("0.01"))
    assert state["symbols"][0]["open_sell"] == 0


async def test_pair_of_one_side_holds_the_larger_leg(reserving: RiskClient, account: str) -> None:
    legs = reserve(account, price=44000), reserve(account, price=44500, quantity=0.02)
    assert (await reserving.call("Reserve", group("oco", *legs)))["approved"]
    state = await reserving.call("GetAccountRisk", {"account": account})
    assert (state["open_orders"], state["symbols"][0]["open_buy"]) == (2, Decimal("0.02"))


async def test_group_is_denied_whole_and_a_repetition_has_the_same_outcome(
    reserving: RiskClient, account: str
) -> None:
    request = group("oco", reserve(account), reserve(account, quantity=10))
    first = await reserving.call("Reserve", request)
    assert (first["approved"], first["reason"]) == (False, "order_size_limit")
    assert await reserving.call("Reserve", request) == {**first, "repeated": True}
    assert await open_orders(reserving, account) == 0


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"kind": None}, "group.kind"),
        ({"orders": []}, "group.orders"),
        ({"orders": [{"symbol": "ETHUSDT", "price": 2500}]}, "group.orders[0].symbol"),
        ({"orders": [{"quantity": 0}]}, "group.orders[0].quantity"),
        ({"orders": [{"time_in_force": "ioc"}]}, "group.orders[0].time_in_force"),
        ({"orders": [{"group": {"kind": "oco"}}]}, "group.orders[0].group"),
    ],
)
async def test_wrong_group_names_the_field_and_holds_nothing(
    reserving: RiskClient, account: str, changed: dict[str, Any], field: str
) -> None:
    further = [reserve(account, **one) for one in changed.get("orders", [{}])]
    request = group(changed.get("kind", "oco"), reserve(account), *further)
    if "kind" in changed:
        del request["group"]["kind"]
    with pytest.raises(Refusal) as caught:
        await reserving.call("Reserve", request)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert field in caught.value.message
    assert await open_orders(reserving, account) == 0
