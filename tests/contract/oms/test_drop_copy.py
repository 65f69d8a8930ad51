"""StreamExecutions: every event of an account once, in order, from anywhere."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from services.runtime.errors import Code
from tests.contract.oms.clients import OmsClient, Refusal
from tests.integration.oms.orders import limit_buy, market_buy, resting, until_state


async def collect(oms: OmsClient, count: int, **request: Any) -> list[Any]:
    """The first `count` events, heartbeats left out."""
    events: list[Any] = []
    async with asyncio.timeout(20):
        async for message in oms.stream(request):
            if "event" in message:
                events.append(message)
                if len(events) == count:
                    break
    return events


async def test_the_drop_copy_tells_an_orders_life_from_the_first_event(oms: OmsClient, account: str) -> None:
    answer = await oms.call("SubmitOrder", market_buy(account, client_order_id="seen"))
    order_id = answer["order_id"]
    await until_state(oms, order_id, "filled")
    events = await collect(oms, 4, account=account)
    assert [event["sequence"] for event in events] == [1, 2, 3, 4]
    assert [event["event"]["kind"] for event in events] == ["opened", "registered", "reserved", "filled"]
    reserved, filled = events[2]["event"], events[3]["event"]
    assert (reserved["order_id"], reserved["client_order_id"], reserved["state"]) == (
        order_id,
        "seen",
        "pending_new",
    )
    assert reserved["order"]["quantity"] == Decimal("0.1")
    assert filled["fill"]["order_id"] == order_id
    assert filled["fill"]["quantity"] == Decimal("0.1")


async def test_a_drop_copy_resumes_after_any_event_without_gap_or_double(
    oms: OmsClient, account: str
) -> None:
    for number in range(8):
        answer = await oms.call("SubmitOrder", market_buy(account, client_order_id=f"n{number}"))
        await until_state(oms, answer["order_id"], "filled")
    whole = await collect(oms, 18, account=account)
    assert [event["sequence"] for event in whole] == list(range(1, 19))
    for after in (1, 2, 7, 16, 17):
        rest = await collect(oms, 18 - after, account=account, after_sequence=after)
        assert rest == whole[after:]


async def test_a_live_drop_copy_begins_with_the_next_event(oms: OmsClient, account: str) -> None:
    await oms.call("SubmitOrder", market_buy(account))
    await collect(oms, 4, account=account)
    following = asyncio.create_task(
        collect(oms, 2, account=account, live_only="true" if _is_rest(oms) else True)
    )
    await asyncio.sleep(0)
    second: dict[str, Any] = {}
    while not following.done():
        # Orders until the stream is surely there: which one it begins with is not promised.
        second = await oms.call("SubmitOrder", limit_buy(account))
        await asyncio.wait({following}, timeout=0.3)
    events = following.result()
    assert events[0]["sequence"] > 4
    assert events[1]["sequence"] == events[0]["sequence"] + 1
    assert second


async def test_a_silent_drop_copy_sends_heartbeats_with_the_last_number(oms: OmsClient, account: str) -> None:
    answer = await oms.call("SubmitOrder", resting(account))
    await until_state(oms, answer["order_id"], "new")
    seen: list[Any] = []
    async with asyncio.timeout(20):
        async for message in oms.stream({"account": account, "heartbeat_interval": "1s"}):
            seen.append(message)
            if "heartbeat" in message:
                break
    assert seen[-1]["sequence"] == seen[-2]["sequence"] == 4
    assert "time" in seen[-1]["heartbeat"]


async def test_a_drop_copy_of_an_unknown_account_waits_for_its_first_event(
    oms: OmsClient, account: str
) -> None:
    following = asyncio.create_task(collect(oms, 1, account=account))
    await asyncio.wait({following}, timeout=0.2)
    await oms.call("SubmitOrder", limit_buy(account, quantity=5))
    (opened,) = await following
    assert (opened["sequence"], opened["event"]["kind"]) == (1, "opened")


@pytest.mark.parametrize(
    ("request_fields", "code"),
    [
        ({"account": "a b"}, Code.INVALID_ARGUMENT),
        ({"heartbeat_interval": "0.5s"}, Code.INVALID_ARGUMENT),
        ({"heartbeat_interval": "61s"}, Code.INVALID_ARGUMENT),
        ({"after_sequence": 5}, Code.FAILED_PRECONDITION),
    ],
)
async def test_a_drop_copy_that_cannot_begin_is_refused(
    oms: OmsClient, account: str, request_fields: dict[str, Any], code: Code
) -> None:
    with pytest.raises(Refusal) as refused:
        await collect(oms, 1, **{"account": account, **request_fields})
    assert refused.value.code is code


def _is_rest(oms: OmsClient) -> bool:
    return type(oms).__name__ == "OverRest"
