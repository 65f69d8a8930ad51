"""What a client is promised of submissions, cancels and queries: in process, over gRPC, over REST."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from services.runtime.errors import Code
from tests.contract.oms.clients import OmsClient, Refusal
from tests.integration.oms.orders import limit_buy, market_buy, resting, until_state
from tests.support import eventually


async def test_a_market_order_is_submitted_filled_and_seen_in_the_position(
    oms: OmsClient, account: str
) -> None:
    answer = await oms.call("SubmitOrder", market_buy(account))
    assert answer["status"] == "submitted"
    assert answer["order_id"].startswith(f"{account}-")
    assert set(answer) == {"status", "order_id"}
    order = await until_state(oms, answer["order_id"], "filled")
    assert order["cumulative_quantity"] == Decimal("0.1")
    assert order["leaves_quantity"] == 0
    assert 40000 < order["average_price"] < 50000
    positions = await oms.call("GetPositions", {"account": account})
    assert positions["BTCUSDT"]["quantity"] == Decimal("0.1")
    assert positions["BTCUSDT"]["last_price"] == order["average_price"]
    assert positions["BTCUSDT"]["open_buy_quantity"] == 0


async def test_a_limit_order_away_from_the_mark_rests_and_shows_its_terms(
    oms: OmsClient, account: str
) -> None:
    answer = await oms.call("SubmitOrder", resting(account, client_order_id="rest-1", time_in_force="gtc"))
    order = await until_state(oms, answer["order_id"], "new")
    assert order["client_order_id"] == answer["client_order_id"] == "rest-1"
    assert (order["side"], order["type"], order["time_in_force"]) == ("sell", "limit", "gtc")
    assert (order["price"], order["quantity"]) == (52000, Decimal("0.1"))
    assert "expire_time" not in order
    positions = await oms.call("GetPositions", {"account": account})
    assert positions["BTCUSDT"]["open_sell_quantity"] == Decimal("0.1")


async def test_a_denied_order_is_rejected_with_its_reason_and_never_sent(
    oms: OmsClient, account: str
) -> None:
    answer = await oms.call("SubmitOrder", limit_buy(account, quantity=5))
    assert (answer["status"], answer["reason"]) == ("rejected", "order_size_limit")
    assert "order_id" not in answer
    assert "100,000" in answer["message"] or "100000" in answer["message"]
    (order,) = (await oms.call("ListOrders", {"account": account}))["orders"]
    assert (order["state"], order["reason"]) == ("denied", "order_size_limit")


async def test_an_unknown_account_has_no_positions(oms: OmsClient, account: str) -> None:
    assert await oms.call("GetPositions", {"account": account}) == {}


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"account": None}, "account"),
        ({"account": ""}, "account"),
        ({"account": "a b"}, "account"),
        ({"account": "é"}, "account"),
        ({"account": "x" * 65}, "account"),
        ({"symbol": None}, "symbol"),
        ({"symbol": "DOGEUSDT"}, "symbol"),
        ({"symbol": "btcusdt"}, "symbol"),
        ({"side": None}, "side"),
        ({"quantity": None}, "quantity"),
        ({"quantity": 0}, "quantity"),
        ({"quantity": -0.1}, "quantity"),
        ({"quantity": 1e-19}, "quantity"),
        ({"quantity": 1e21}, "quantity"),
        ({"quantity": 0.000001}, "quantity"),
        ({"price": 0}, "price"),
        ({"price": -1}, "price"),
        ({"price": 45000.001}, "price"),
        ({"price": None, "type": "limit"}, "price"),
        ({"type": "market"}, "price"),
        ({"type": "stop"}, "price"),
        ({"price": None, "type": "stop"}, "stop_price"),
        ({"type": "stop_limit"}, "stop_price"),
        ({"stop_price": 44000}, "stop_price"),
        ({"client_order_id": "a b"}, "client_order_id"),
        ({"client_order_id": "x" * 65}, "client_order_id"),
        ({"time_in_force": "gtd"}, "expire_time"),
        ({"time_in_force": "gtd", "expire_time": "2020-01-01T00:00:00Z"}, "expire_time"),
        ({"time_in_force": "gtc", "expire_time": "2040-01-01T00:00:00Z"}, "expire_time"),
    ],
)
async def test_a_malformed_order_names_its_field_and_writes_nothing(
    oms: OmsClient, account: str, changed: dict[str, Any], field: str
) -> None:
    with pytest.raises(Refusal) as refused:
        await oms.call("SubmitOrder", limit_buy(account, **changed))
    assert refused.value.code is Code.INVALID_ARGUMENT
    assert refused.value.fields == [field]
    assert refused.value.reason
    assert (await oms.call("ListOrders", {"account": account}))["orders"] == []
    assert await oms.call("GetPositions", {"account": account}) == {}


async def test_a_repeated_client_order_id_returns_the_original_order(oms: OmsClient, account: str) -> None:
    order = limit_buy(account, client_order_id="once")
    first = await oms.call("SubmitOrder", order)
    assert first["status"] == "submitted"
    assert await oms.call("SubmitOrder", order) == first
    same_in_other_digits = {**order, "quantity": 0.10, "price": 48000}
    assert await oms.call("SubmitOrder", same_in_other_digits) == first
    await until_state(oms, first["order_id"], "filled", "new")
    assert await oms.call("SubmitOrder", order) == first
    assert len((await oms.call("ListOrders", {"account": account}))["orders"]) == 1


async def test_the_same_client_order_id_sent_many_times_at_once_makes_one_order(
    oms: OmsClient, account: str
) -> None:
    order = limit_buy(account, client_order_id="at-once")
    answers = await asyncio.gather(*(oms.call("SubmitOrder", order) for _ in range(20)))
    assert len({answer["order_id"] for answer in answers}) == 1
    assert len((await oms.call("ListOrders", {"account": account}))["orders"]) == 1


async def test_a_client_order_id_with_another_payload_already_exists(oms: OmsClient, account: str) -> None:
    first = await oms.call("SubmitOrder", limit_buy(account, client_order_id="twice"))
    with pytest.raises(Refusal) as refused:
        await oms.call("SubmitOrder", limit_buy(account, client_order_id="twice", quantity=0.2))
    assert refused.value.code is Code.ALREADY_EXISTS
    assert [o["order_id"] for o in (await oms.call("ListOrders", {"account": account}))["orders"]] == [
        first["order_id"]
    ]


async def test_a_denial_is_remembered_under_its_client_order_id(oms: OmsClient, account: str) -> None:
    order = limit_buy(account, client_order_id="denied", quantity=5)
    first = await oms.call("SubmitOrder", order)
    assert first["reason"] == "order_size_limit"
    assert await oms.call("SubmitOrder", order) == first
    assert len((await oms.call("ListOrders", {"account": account}))["orders"]) == 1


async def test_client_order_ids_of_two_accounts_do_not_meet(oms: OmsClient, account: str) -> None:
    one = await oms.call("SubmitOrder", limit_buy(account, client_order_id="mine"))
    two = await oms.call("SubmitOrder", limit_buy(f"{account}x", client_order_id="mine", quantity=0.2))
    assert one["order_id"] != two["order_id"]


async def test_a_working_order_is_canceled_at_the_venue(oms: OmsClient, account: str) -> None:
    order_id = (await oms.call("SubmitOrder", resting(account)))["order_id"]
    await until_state(oms, order_id, "new")
    answer = await oms.call("CancelOrder", {"order_id": order_id})
    assert answer["order"]["order_id"] == order_id
    assert answer["order"]["state"] == "pending_cancel"
    order = await until_state(oms, order_id, "canceled")
    assert order["leaves_quantity"] == 0
    positions = await oms.call("GetPositions", {"account": account})
    assert positions.get("BTCUSDT", {"open_sell_quantity": 0})["open_sell_quantity"] == 0


async def test_an_order_can_be_canceled_right_after_its_submission(oms: OmsClient, account: str) -> None:
    order_id = (await oms.call("SubmitOrder", resting(account)))["order_id"]
    await oms.call("CancelOrder", {"order_id": order_id})
    await until_state(oms, order_id, "canceled")


async def test_an_ended_order_cannot_be_canceled(oms: OmsClient, account: str) -> None:
    order_id = (await oms.call("SubmitOrder", market_buy(account)))["order_id"]
    await until_state(oms, order_id, "filled")
    with pytest.raises(Refusal) as refused:
        await oms.call("CancelOrder", {"order_id": order_id})
    assert refused.value.code is Code.FAILED_PRECONDITION
    assert refused.value.metadata["state"] == "filled"


@pytest.mark.parametrize("method", ["GetOrder", "CancelOrder"])
@pytest.mark.parametrize("shape", ["{account}-01M82EZKQ7EJAM4DB9ET4N1CJX", "nonsense", "a-b", "{account}-x"])
async def test_an_unknown_order_is_not_found(oms: OmsClient, account: str, method: str, shape: str) -> None:
    with pytest.raises(Refusal) as refused:
        await oms.call(method, {"order_id": shape.format(account=account)})
    assert refused.value.code is Code.NOT_FOUND


async def test_orders_are_listed_newest_first_in_pages(oms: OmsClient, account: str) -> None:
    order_ids = [
        (await oms.call("SubmitOrder", resting(account, client_order_id=f"page-{n}")))["order_id"]
        for n in range(5)
    ]
    seen: list[str] = []
    token = ""
    while True:
        request = {"account": account, "page_size": 2, **({"page_token": token} if token else {})}
        page = await oms.call("ListOrders", request)
        seen += [order["order_id"] for order in page["orders"]]
        token = page["next_page_token"]
        if not token:
            break
    assert seen == sorted(order_ids, reverse=True)
    (found,) = (await oms.call("ListOrders", {"account": account, "client_order_id": "page-3"}))["orders"]
    assert found["client_order_id"] == "page-3"


async def test_orders_are_listed_by_state(oms: OmsClient, account: str) -> None:
    resting_id = (await oms.call("SubmitOrder", resting(account)))["order_id"]
    filled_id = (await oms.call("SubmitOrder", market_buy(account)))["order_id"]
    await until_state(oms, resting_id, "new")
    await until_state(oms, filled_id, "filled")
    for state, expected in (("new", [resting_id]), ("filled", [filled_id]), ("expired", [])):
        found = (await oms.call("ListOrders", {"account": account, "state": state}))["orders"]
        assert [order["order_id"] for order in found] == expected


@pytest.mark.parametrize(
    ("request_fields", "field"),
    [
        ({"page_size": 1001}, "page_size"),
        ({"page_token": "another-01M82EZKQ7EJAM4DB9ET4N1CJX"}, "page_token"),
        ({"client_order_id": "a b"}, "client_order_id"),
        ({"account": ""}, "account"),
    ],
)
async def test_a_malformed_listing_names_its_field(
    oms: OmsClient, account: str, request_fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(Refusal) as refused:
        await oms.call("ListOrders", {"account": account, **request_fields})
    assert (refused.value.code, refused.value.fields) == (Code.INVALID_ARGUMENT, [field])


async def test_fills_are_listed_from_the_store(oms: OmsClient, account: str) -> None:
    order_id = (await oms.call("SubmitOrder", market_buy(account)))["order_id"]

    async def stored() -> Any:
        return (await oms.call("ListFills", {"account": account}))["fills"]

    (fill,) = await eventually(stored, within_sec=15)
    assert (fill["order_id"], fill["symbol"], fill["side"]) == (order_id, "BTCUSDT", "buy")
    assert fill["quantity"] == Decimal("0.1")
    assert (await oms.call("ListFills", {"account": account, "symbol": "ETHUSDT"}))["fills"] == []


async def test_each_order_of_a_batch_is_submitted_on_its_own(oms: OmsClient, account: str) -> None:
    answer = await oms.call(
        "BatchSubmitOrders",
        {
            "requests": [
                limit_buy(account, client_order_id="first"),
                limit_buy(account, quantity=5),
                limit_buy(account, side=None),
                limit_buy(account, client_order_id="last"),
            ]
        },
    )
    first, denied, malformed, last = answer["results"]
    assert first["response"]["status"] == last["response"]["status"] == "submitted"
    assert denied["response"]["reason"] == "order_size_limit"
    assert malformed["error"]["code"] == Code.INVALID_ARGUMENT
    assert len((await oms.call("ListOrders", {"account": account}))["orders"]) == 3


@pytest.mark.parametrize("size", [0, 101])
async def test_a_batch_has_one_to_a_hundred_orders(oms: OmsClient, account: str, size: int) -> None:
    with pytest.raises(Refusal) as refused:
        await oms.call("BatchSubmitOrders", {"requests": [limit_buy(account)] * size})
    assert (refused.value.code, refused.value.fields) == (Code.INVALID_ARGUMENT, ["requests"])
    assert (await oms.call("ListOrders", {"account": account}))["orders"] == []


async def test_an_immediate_or_cancel_order_away_from_the_mark_is_canceled(
    oms: OmsClient, account: str
) -> None:
    order_id = (await oms.call("SubmitOrder", resting(account, time_in_force="ioc")))["order_id"]
    await until_state(oms, order_id, "canceled")


async def test_an_order_with_an_expiry_is_expired_by_the_venue(oms: OmsClient, account: str) -> None:
    from datetime import UTC, datetime, timedelta

    soon = (datetime.now(UTC) + timedelta(seconds=1)).isoformat().replace("+00:00", "Z")
    order = resting(account, time_in_force="gtd", expire_time=soon)
    order_id = (await oms.call("SubmitOrder", order))["order_id"]
    await until_state(oms, order_id, "expired")
