"""QuestDB away: trading goes on, fills wait, and health says so."""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal
from typing import Any

import pytest
import redis.asyncio
from ulid import ULID

from services.ledger.partition import partition_of
from services.runtime.errors import Code
from tests.contract.oms.clients import OverRest, Refusal
from tests.integration.oms.orders import market_buy, reserve_alone, until_state
from tests.integration.oms.platform import OmsPlatform
from tests.support import eventually


async def test_without_questdb_orders_are_filled_and_the_fills_are_stored_later(
    platform: OmsPlatform, oms: OverRest, account: str
) -> None:
    platform.questdb.kill()
    answer = await oms.call("SubmitOrder", market_buy(account))
    assert answer["status"] == "submitted"
    await until_state(oms, answer["order_id"], "filled")
    with pytest.raises(Refusal) as refused:
        await oms.call("ListFills", {"account": account})
    assert refused.value.code is Code.UNAVAILABLE

    async def degraded() -> bool:
        response = await oms._client.get("/health")
        assert (response.status_code, response.json()) == (
            200,
            {"status": "degraded", "degraded": ["questdb"]},
        )
        return True

    await eventually(degraded, within_sec=10)
    await asyncio.to_thread(platform.questdb.finish_stop, 0)
    platform.questdb.start()
    await platform.questdb.until_healthy()

    async def stored() -> Any:
        try:
            return (await oms.call("ListFills", {"account": account}))["fills"]
        except Refusal as error:
            raise AssertionError(str(error)) from error

    (fill,) = await eventually(stored, within_sec=40, every_sec=0.3)
    assert fill["order_id"] == answer["order_id"]


async def test_fills_are_listed_in_pages_newest_first(oms: OverRest, account: str) -> None:
    for _ in range(5):
        answer = await oms.call("SubmitOrder", market_buy(account))
        await until_state(oms, answer["order_id"], "filled")

    async def all_stored() -> bool:
        assert len((await oms.call("ListFills", {"account": account}))["fills"]) == 5
        return True

    await eventually(all_stored, within_sec=20, every_sec=0.2)
    seen: list[str] = []
    token = ""
    while True:
        request = {"account": account, "page_size": 2, **({"page_token": token} if token else {})}
        page = await oms.call("ListFills", request)
        seen += [fill["order_id"] for fill in page["fills"]]
        token = page["next_page_token"]
        if not token:
            break
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) == 5


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"page_token": "nonsense"}, "page_token"),
        ({"page_size": 2000}, "page_size"),
        ({"symbol": "btc"}, "symbol"),
        ({"account": ""}, "account"),
    ],
)
async def test_a_malformed_listing_of_fills_names_its_field(
    oms: OverRest, account: str, changed: dict[str, Any], field: str
) -> None:
    with pytest.raises(Refusal) as refused:
        await oms.call("ListFills", {"account": account, **changed})
    assert (refused.value.code, refused.value.fields) == (Code.INVALID_ARGUMENT, [field])


async def test_an_order_that_the_ledger_has_forgotten_is_told_from_the_log_of_orders(
    platform: OmsPlatform, oms: OverRest, account: str
) -> None:
    warm = await oms.call("SubmitOrder", market_buy(account))
    await until_state(oms, warm["order_id"], "filled")
    an_hour_and_more = 4_000
    ulid = str(ULID.from_timestamp(time.time() - an_hour_and_more))
    order_id = await reserve_alone(platform, account, f"{account}-{ulid}")
    await until_state(oms, order_id, "canceled", within_sec=20)
    async with redis.asyncio.Redis.from_url(platform.valkey.url) as client:
        assert await client.unlink(f"order:{{p{partition_of(account)}}}:{order_id}") == 1

    async def logged() -> dict[str, Any]:
        try:
            found: dict[str, Any] = (await oms.call("GetOrder", {"order_id": order_id}))["order"]
        except Refusal as error:
            raise AssertionError(f"{error.code}: {error.message}") from error
        assert found["state"] == "canceled"
        return found

    order = await eventually(logged, within_sec=20, every_sec=0.2)
    assert (order["account"], order["symbol"], order["side"]) == (account, "BTCUSDT", "buy")
    assert (order["quantity"], order["price"]) == (Decimal("0.1"), 45000)
    assert (order["cumulative_quantity"], order["leaves_quantity"]) == (0, 0)
