"""A worker that dies at any point: every order ends as the venue says, and nothing stays reserved."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Any

import httpx
from nats.aio.client import Client

from services.runtime.streams import ORDERS
from tests.contract.oms.clients import OverRest, Refusal
from tests.integration.oms.orders import (
    limit_buy,
    market_buy,
    orders_of,
    reserve_alone,
    reserved_of,
    resting,
    until_state,
)
from tests.integration.oms.platform import OmsPlatform, freeze, kill_workers, thaw, worker_pids
from tests.support import eventually

FINAL = {"filled", "canceled", "rejected", "denied", "expired"}


async def sent(bus: Client, order_id: str) -> list[str]:
    """Message ids on ORDERS that name the order."""
    js = bus.jetstream()
    state = (await js.stream_info(ORDERS)).state
    found = []
    for number in range(max(state.first_seq, state.last_seq - 300), state.last_seq + 1):
        message = await js.get_msg(ORDERS, seq=number)
        message_id = (message.headers or {}).get("Nats-Msg-Id", "")
        if order_id in message_id:
            found.append(message_id)
    return found


async def test_an_order_reserved_by_a_dead_worker_is_canceled_at_the_venue_and_released(
    platform: OmsPlatform, oms: OverRest, bus: Client, account: str
) -> None:
    warm = await oms.call("SubmitOrder", market_buy(account))
    await until_state(oms, warm["order_id"], "filled")
    order_id = await reserve_alone(platform, account)
    assert (await reserved_of(platform, account))[0] == 1
    order = await until_state(oms, order_id, "canceled", within_sec=15)
    assert order["cumulative_quantity"] == 0
    assert await reserved_of(platform, account) == (0, {})
    assert await sent(bus, order_id) == [f"cancel:{order_id}:1"]


async def test_a_new_that_arrives_after_its_cancel_is_refused_by_the_venue(
    platform: OmsPlatform, oms: OverRest, bus: Client, account: str
) -> None:
    warm = await oms.call("SubmitOrder", market_buy(account))
    await until_state(oms, warm["order_id"], "filled")
    order_id = await reserve_alone(platform, account)
    await until_state(oms, order_id, "canceled", within_sec=15)
    late = {
        "order_id": order_id,
        "client_order_id": "",
        "account": account,
        "symbol": "BTCUSDT",
        "side": "buy",
        "type": "market",
        "quantity": 0.1,
        "timestamp": 1,
    }
    await bus.jetstream().publish(f"orders.{account}.new", json.dumps(late).encode())
    # A later order shows that the late one has been looked at.
    after = await oms.call("SubmitOrder", market_buy(account))
    await until_state(oms, after["order_id"], "filled")
    order = (await oms.call("GetOrder", {"order_id": order_id}))["order"]
    assert (order["state"], order["cumulative_quantity"]) == ("canceled", 0)


async def test_a_cancel_that_the_venue_does_not_answer_is_repeated_until_it_does(
    platform: OmsPlatform, oms: OverRest, bus: Client, account: str
) -> None:
    order_id = (await oms.call("SubmitOrder", resting(account)))["order_id"]
    await until_state(oms, order_id, "new")
    freeze(platform.venue)
    await oms.call("CancelOrder", {"order_id": order_id})

    async def repeated() -> bool:
        assert f"cancel:{order_id}:2" in await sent(bus, order_id)
        return True

    await eventually(repeated, within_sec=15, every_sec=0.3)
    thaw(platform.venue)
    await until_state(oms, order_id, "canceled", within_sec=20)
    assert await reserved_of(platform, account) == (0, {})


async def test_workers_killed_under_load_lose_and_double_nothing(
    platform: OmsPlatform, oms: OverRest, account: str
) -> None:
    told: dict[str, Any] = {}

    async def one(number: int) -> None:
        name = f"killed-{number}"
        order = limit_buy(account, quantity=0.01, client_order_id=name)
        try:
            told[name] = await oms.call("SubmitOrder", order)
        except Refusal as error:
            told[name] = error
        except httpx.TransportError as error:
            told[name] = error

    async def load() -> None:
        running = set()
        for number in range(400):
            running.add(asyncio.create_task(one(number)))
            await asyncio.sleep(0.01)
        await asyncio.wait(running)

    loading = asyncio.create_task(load())
    for _ in range(2):
        await asyncio.sleep(1.2)
        kill_workers(platform.oms)
    await loading
    submitted = {name for name, answer in told.items() if isinstance(answer, dict)}
    assert {told[name]["status"] for name in submitted} <= {"submitted", "rejected"}

    async def ended() -> list[dict[str, Any]]:
        try:
            orders = await orders_of(oms, account)
        except (Refusal, httpx.TransportError) as error:
            raise AssertionError(repr(error)) from error
        open_ones = [order for order in orders if order["state"] not in FINAL]
        assert not open_ones, open_ones
        return orders

    orders = await eventually(ended, within_sec=40, every_sec=0.5)
    by_client = {order["client_order_id"]: order for order in orders}
    assert len(by_client) == len(orders)
    for name in submitted:
        if told[name]["status"] == "submitted":
            assert by_client[name]["order_id"] == told[name]["order_id"]
            assert by_client[name]["state"] == "filled"
    filled = sum(order["cumulative_quantity"] for order in orders)
    positions = await oms.call("GetPositions", {"account": account})
    assert positions["BTCUSDT"]["quantity"] == filled
    assert await reserved_of(platform, account) == (0, {})


async def test_a_stop_finishes_what_was_accepted(platform: OmsPlatform, oms: OverRest, account: str) -> None:
    warm = await oms.call("SubmitOrder", market_buy(account))
    await until_state(oms, warm["order_id"], "filled")
    tasks = [
        asyncio.create_task(
            oms.call("SubmitOrder", limit_buy(account, quantity=0.01, client_order_id=f"stop-{number}"))
        )
        for number in range(100)
    ]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for pid in worker_pids(platform.oms):
        os.kill(pid, signal.SIGTERM)
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    submitted = [answer["order_id"] for answer in answers if isinstance(answer, dict)]
    others = [answer for answer in answers if not isinstance(answer, dict)]
    assert all(isinstance(one, Refusal | httpx.TransportError) for one in others), others
    assert submitted
    for order_id in submitted:
        await until_state(oms, order_id, "filled", within_sec=20)
    orders = await orders_of(oms, account)
    # Nothing was left half done for the sweeper to find.
    assert {order["state"] for order in orders} == {"filled"}
