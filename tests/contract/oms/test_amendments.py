"""ReplaceOrder and CancelAllOrders, as a client is promised them."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from services.runtime.errors import Code
from tests.contract.oms.clients import OmsClient, Refusal
from tests.contract.oms.test_drop_copy import collect
from tests.integration.oms.orders import limit_buy, market_buy, orders_of, resting, until_state
from tests.support import eventually


async def working(oms: OmsClient, account: str, **fields: Any) -> str:
    """Id of a sell of 0.1 at 52,000 that rests at the venue."""
    order_id: str = (await oms.call("SubmitOrder", resting(account, **fields)))["order_id"]
    await until_state(oms, order_id, "new")
    return order_id


async def until_revision(oms: OmsClient, order_id: str, revision: int) -> dict[str, Any]:
    """The order once the venue has answered that amendment."""

    async def answered() -> dict[str, Any]:
        order: dict[str, Any] = (await oms.call("GetOrder", {"order_id": order_id}))["order"]
        assert (order["revision"], order["state"] != "pending_replace") == (revision, True), order
        return order

    return await eventually(answered, within_sec=10)


async def test_an_amended_order_works_under_its_new_terms(oms: OmsClient, account: str) -> None:
    order_id = await working(oms, account)
    asked = {"order_id": order_id, "quantity": 0.2, "price": 51000}
    answer = (await oms.call("ReplaceOrder", asked))["order"]
    assert (answer["state"], answer["revision"]) == ("pending_replace", 1)
    order = await until_revision(oms, order_id, 1)
    assert (order["state"], order["quantity"], order["price"]) == ("new", Decimal("0.2"), 51000)
    positions = await oms.call("GetPositions", {"account": account})
    assert positions["BTCUSDT"]["open_sell_quantity"] == Decimal("0.2")
    (requested, replaced) = (await collect(oms, 6, account=account))[4:]
    assert requested["event"]["kind"] == "replace_requested"
    assert [requested["event"][name] for name in ("revision", "quantity", "price")] == [
        1,
        Decimal("0.2"),
        51000,
    ]
    assert (replaced["event"]["kind"], replaced["event"]["revision"]) == ("replaced", 1)


async def test_an_order_amended_to_the_mark_is_filled(oms: OmsClient, account: str) -> None:
    order_id = await working(oms, account)
    await oms.call("ReplaceOrder", {"order_id": order_id, "price": 43000})
    order = await until_state(oms, order_id, "filled")
    assert (order["cumulative_quantity"], order["price"]) == (Decimal("0.1"), 43000)


async def test_a_repeated_amendment_is_not_made_twice(oms: OmsClient, account: str) -> None:
    order_id = await working(oms, account)
    asked = {"order_id": order_id, "quantity": 0.2}
    await asyncio.gather(*(oms.call("ReplaceOrder", asked) for _ in range(2)), return_exceptions=True)
    await until_revision(oms, order_id, 1)
    again = (await oms.call("ReplaceOrder", asked))["order"]
    assert (again["state"], again["revision"], again["quantity"]) == ("new", 1, Decimal("0.2"))


async def test_an_amendment_beyond_a_limit_is_denied_with_its_numbers_and_the_old_terms_stand(
    oms: OmsClient, account: str
) -> None:
    order_id = await working(oms, account)
    with pytest.raises(Refusal) as refused:
        await oms.call("ReplaceOrder", {"order_id": order_id, "quantity": 5})
    assert (refused.value.code, refused.value.reason) == (Code.FAILED_PRECONDITION, "ORDER_SIZE_LIMIT")
    assert refused.value.metadata["reason"] == "order_size_limit"
    assert "100,000" in refused.value.message or "100000" in refused.value.message
    order = (await oms.call("GetOrder", {"order_id": order_id}))["order"]
    assert (order["state"], order["quantity"], order["revision"]) == ("new", Decimal("0.1"), 0)


async def test_an_ended_order_is_not_amended(oms: OmsClient, account: str) -> None:
    order_id = (await oms.call("SubmitOrder", market_buy(account)))["order_id"]
    await until_state(oms, order_id, "filled")
    for fields in ({"quantity": 1}, {"price": 1}):
        with pytest.raises(Refusal) as refused:
            await oms.call("ReplaceOrder", {"order_id": order_id, **fields})
        assert (refused.value.code, refused.value.fields) == (Code.INVALID_ARGUMENT, list(fields))
    order_id = (await oms.call("SubmitOrder", limit_buy(account)))["order_id"]
    await until_state(oms, order_id, "filled")
    with pytest.raises(Refusal) as refused:
        await oms.call("ReplaceOrder", {"order_id": order_id, "quantity": 1})
    assert (refused.value.code, refused.value.reason) == (Code.FAILED_PRECONDITION, "ORDER_ENDED")
    assert refused.value.metadata["state"] == "filled"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "quantity"),
        ({"quantity": 0}, "quantity"),
        ({"price": -1}, "price"),
        ({"stop_price": 1}, "stop_price"),
    ],
)
async def test_a_malformed_amendment_names_its_field(
    oms: OmsClient, account: str, fields: dict[str, Any], field: str
) -> None:
    order_id = await working(oms, account)
    with pytest.raises(Refusal) as refused:
        await oms.call("ReplaceOrder", {"order_id": order_id, **fields})
    assert (refused.value.code, refused.value.fields) == (Code.INVALID_ARGUMENT, [field])
    order = (await oms.call("GetOrder", {"order_id": order_id}))["order"]
    assert (order["state"], order["revision"]) == ("new", 0)


async def test_an_unknown_order_is_not_amended(oms: OmsClient, account: str) -> None:
    for order_id in ("nonsense", f"{account}-01M82EZKQ7EJAM4DB9ET4N1CJX"):
        with pytest.raises(Refusal) as refused:
            await oms.call("ReplaceOrder", {"order_id": order_id, "quantity": 1})
        assert refused.value.code is Code.NOT_FOUND


async def test_all_open_orders_of_an_account_are_canceled(oms: OmsClient, account: str) -> None:
    batch = [resting(account, quantity=0.01) for _ in range(100)]
    for _ in range(3):  # more than are recorded together
        answer = await oms.call("BatchSubmitOrders", {"requests": batch})
        assert all("response" in result for result in answer["results"])
    open_ids = [order["order_id"] for order in await orders_of(oms, account)]
    assert len(open_ids) == 300
    answer = await oms.call("CancelAllOrders", {"account": account})
    assert answer["order_ids"] == sorted(open_ids)

    async def canceled() -> bool:
        return {order["state"] for order in await orders_of(oms, account)} == {"canceled"}

    await eventually(canceled, within_sec=20, every_sec=0.2)
    assert (await oms.call("CancelAllOrders", {"account": account}))["order_ids"] == []


async def test_orders_of_one_symbol_alone_are_canceled(oms: OmsClient, account: str) -> None:
    kept = await working(oms, account)
    other = await working(oms, account, symbol="ETHUSDT", price=2700)
    answer = await oms.call("CancelAllOrders", {"account": account, "symbol": "ETHUSDT"})
    assert answer["order_ids"] == [other]
    await until_state(oms, other, "canceled")
    assert (await oms.call("GetOrder", {"order_id": kept}))["order"]["state"] == "new"


async def test_an_unknown_account_has_nothing_to_cancel(oms: OmsClient, account: str) -> None:
    assert (await oms.call("CancelAllOrders", {"account": account}))["order_ids"] == []


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"account": ""}, "account"), ({"account": "a b"}, "account"), ({"symbol": "DOGEUSDT"}, "symbol")],
)
async def test_a_malformed_cancel_of_all_names_its_field(
    oms: OmsClient, account: str, fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(Refusal) as refused:
        await oms.call("CancelAllOrders", {"account": account, **fields})
    assert (refused.value.code, refused.value.fields) == (Code.INVALID_ARGUMENT, [field])
