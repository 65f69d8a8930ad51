"""Ended orders leave Valkey once they are stored, and nobody who asks for them notices."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis.asyncio

from services.ledger.keys import AccountKeys
from services.oms.retention import INTERVAL_SEC
from services.runtime.errors import Code
from tests.contract.oms.clients import OverRest, Refusal
from tests.integration.oms.orders import limit_buy, market_buy, resting, until_state
from tests.integration.oms.platform import OmsPlatform
from tests.support import eventually


async def held(platform: OmsPlatform, *order_ids: str) -> int:
    """How many of these orders have a record in Valkey."""
    async with redis.asyncio.Redis.from_url(platform.valkey.url) as client:
        keys = AccountKeys(order_ids[0].rpartition("-")[0])
        return int(await client.exists(*(keys.order_prefix + order_id for order_id in order_ids)))


async def until_gone(platform: OmsPlatform, *order_ids: str) -> None:
    async def gone() -> bool:
        return not await held(platform, *order_ids)

    await eventually(gone, within_sec=30, every_sec=0.2)


async def listed(oms: OverRest, account: str, size: int, **only: Any) -> list[str]:
    """Ids of the account's orders, page by page."""
    seen: list[str] = []
    token = ""
    while True:
        request = {"account": account, "page_size": size, **only, **({"page_token": token} if token else {})}
        page = await oms.call("ListOrders", request)
        seen += [order["order_id"] for order in page["orders"]]
        token = page["next_page_token"]
        if not token:
            return seen


async def test_an_order_that_has_left_is_told_exactly_as_before(
    platform: OmsPlatform, oms: OverRest, account: str
) -> None:
    sent = limit_buy(account, client_order_id="mine", time_in_force="gtc")
    answer = await oms.call("SubmitOrder", sent)
    order_id = answer["order_id"]
    before = await until_state(oms, order_id, "filled")
    await until_gone(platform, order_id)
    assert (await oms.call("GetOrder", {"order_id": order_id}))["order"] == before
    by_client = await oms.call("ListOrders", {"account": account, "client_order_id": "mine"})
    assert by_client["orders"] == [before]
    assert await oms.call("SubmitOrder", sent) == answer
    with pytest.raises(Refusal) as reused:
        await oms.call("SubmitOrder", {**sent, "quantity": 0.2})
    assert reused.value.code is Code.ALREADY_EXISTS
    with pytest.raises(Refusal) as ended:
        await oms.call("CancelOrder", {"order_id": order_id})
    assert ended.value.code is Code.FAILED_PRECONDITION


async def test_a_denial_that_has_left_is_answered_again_with_its_reason(
    platform: OmsPlatform, oms: OverRest, account: str
) -> None:
    denied = limit_buy(account, quantity=5, client_order_id="large")
    answer = await oms.call("SubmitOrder", denied)
    assert (answer["status"], answer["reason"]) == ("rejected", "order_size_limit")
    (order,) = (await oms.call("ListOrders", {"account": account}))["orders"]
    await until_gone(platform, order["order_id"])
    assert await oms.call("SubmitOrder", denied) == answer


async def test_pages_go_on_from_the_ledger_into_the_table_of_ended_orders(
    platform: OmsPlatform, oms: OverRest, account: str
) -> None:
    async def send(order: dict[str, Any]) -> str:
        return str((await oms.call("SubmitOrder", order))["order_id"])

    # Old and young orders that work lie between ended ones that have left and ended ones that have not.
    working = [await send(resting(account, quantity=0.01))]
    gone = [await send(market_buy(account, quantity=0.01)) for _ in range(12)]
    working.append(await send(resting(account, quantity=0.01)))
    for order_id in gone:
        await until_state(oms, order_id, "filled")
    await until_gone(platform, *gone)
    young = [await send(market_buy(account, quantity=0.01)) for _ in range(3)]
    for order_id in young:
        await until_state(oms, order_id, "filled")
    everything = sorted([*working, *gone, *young], reverse=True)
    for size in (1, 4, 100):
        assert await listed(oms, account, size) == everything
    assert await listed(oms, account, 5, state="filled") == sorted([*gone, *young], reverse=True)
    assert await listed(oms, account, 1, state="new") == sorted(working, reverse=True)


async def test_while_questdb_is_away_ended_orders_stay_and_leave_when_it_is_back(
    platform: OmsPlatform, oms: OverRest, account: str
) -> None:
    platform.questdb.kill()
    answer = await oms.call("SubmitOrder", market_buy(account))
    order = await until_state(oms, answer["order_id"], "filled")

    async def kept_waiting() -> bool:
        for _ in range(4):
            if not platform.metric("oms_orders_to_retire"):
                return False
            await asyncio.sleep(INTERVAL_SEC)
        return True

    await eventually(kept_waiting, within_sec=60)
    assert await held(platform, answer["order_id"]) == 1
    await asyncio.to_thread(platform.questdb.finish_stop, 0)
    platform.questdb.start()
    await platform.questdb.until_healthy()
    await until_gone(platform, answer["order_id"])
    assert (await oms.call("GetOrder", {"order_id": answer["order_id"]}))["order"] == order


@pytest.mark.parametrize("named", [("c1", "c2"), ("c1", None)])
async def test_a_group_that_has_left_is_answered_again_whole(
    platform: OmsPlatform, oms: OverRest, account: str, named: tuple[str | None, str | None]
) -> None:
    first, second = named
    pair = {
        "kind": "oco",
        "orders": [
            resting(account, price=40000, client_order_id=first),
            resting(account, type="stop", price=None, stop_price=50000, client_order_id=second),
        ],
    }
    answer = await oms.call("SubmitOrderGroup", pair)
    ids = [one["order_id"] for one in answer["orders"]]
    await until_state(oms, ids[0], "filled")
    await until_state(oms, ids[1], "canceled")
    await until_gone(platform, *ids)
    assert await oms.call("SubmitOrderGroup", pair) == answer
