"""QuestDB away: trading goes on, fills wait, and health says so."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.runtime.errors import Code
from tests.contract.oms.clients import OverRest, Refusal
from tests.integration.oms.orders import market_buy, until_state
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
