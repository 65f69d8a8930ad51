"""Groups while parts die: of a pair one order executes, and exits live exactly as far as their entry did."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from services.ledger.order import Order
from services.ledger.partition import partition_of
from services.oms.bootstrap import Worker
from services.oms.dispatch import Dispatch
from tests.contract.oms.clients import InProcess, OverRest, Refusal
from tests.integration.oms.orders import market_buy, orders_of, reserved_of, resting, until_state
from tests.integration.oms.platform import OmsPlatform, kill_workers
from tests.integration.oms.worker import WorkerInProcess
from tests.support import eventually

FINAL = {"filled", "canceled", "rejected", "denied", "expired"}


def _bracket(account: str, take: int, **fields: Any) -> dict[str, Any]:
    """A buy at the mark, a sell at `take` or better, and a stop that the mark does not reach."""
    stop = {"type": "stop", "price": None, "stop_price": 40000}
    return {
        "kind": "bracket",
        "orders": [
            market_buy(account, quantity=0.01, **fields),
            resting(account, quantity=0.01, price=take),
            resting(account, quantity=0.01, **stop),
        ],
    }


def _pair(account: str, **fields: Any) -> dict[str, Any]:
    """Two sells that can both execute at once."""
    stop = {"type": "stop", "price": None, "stop_price": 50000}
    return {
        "kind": "oco",
        "orders": [
            resting(account, quantity=0.01, price=40000, **fields),
            resting(account, quantity=0.01, **stop),
        ],
    }


async def owned_account(worker: Worker) -> str:
    """A new account whose partition `worker` owns: it may not be the only one that runs."""
    owned = await eventually(lambda: set(worker.owned), within_sec=20)
    names = (f"account_{uuid.uuid4().hex[:12]}" for _ in range(10_000))
    return next(name for name in names if partition_of(name) in owned)


async def test_exits_activated_by_a_worker_that_dies_before_it_sends_them_are_sent_by_the_next_owner(
    platform: OmsPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.oms.stop()
    reached = asyncio.Event()

    async def hang(self: Dispatch, orders: Sequence[Order]) -> None:
        reached.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr(Dispatch, "send_activated", hang)
        async with WorkerInProcess(platform) as worker:
            oms = InProcess(worker.service)
            account = await owned_account(worker)
            answer = await oms.call("SubmitOrderGroup", _bracket(account, 52000))
            ids = [one["order_id"] for one in answer["orders"]]
            await asyncio.wait_for(reached.wait(), 20)
            # The fill is committed, the exits are reserved, and nobody has sent them.
            for order_id in ids[1:]:
                await until_state(oms, order_id, "pending_new")
    platform.mend()
    client = OverRest(f"http://{platform.addresses['oms']['rest']}")
    for order_id in ids[1:]:
        await until_state(client, order_id, "new", within_sec=15)
    await client.call("CancelOrder", {"order_id": ids[1]})
    await client.call("CancelOrder", {"order_id": ids[2]})
    for order_id in ids[1:]:
        await until_state(client, order_id, "canceled")
    assert await reserved_of(platform, account) == (0, {})
    await client.close()


async def test_exits_that_were_never_sent_are_sent_by_the_sweeper_and_not_canceled(
    platform: OmsPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.oms.stop()
    send = Dispatch.send_activated
    calls: list[list[str]] = []

    async def lose_first(self: Dispatch, orders: Sequence[Order]) -> None:
        calls.append(sorted(order.order_id for order in orders))
        if len(calls) > 1:
            await send(self, orders)

    monkeypatch.setattr(Dispatch, "send_activated", lose_first)
    async with WorkerInProcess(platform) as worker:
        oms = InProcess(worker.service)
        account = await owned_account(worker)
        answer = await oms.call("SubmitOrderGroup", _bracket(account, 52000))
        ids = [one["order_id"] for one in answer["orders"]]
        for order_id in ids[1:]:
            await until_state(oms, order_id, "new", within_sec=20)
    assert calls[0] == calls[1] == sorted(ids[1:])


async def test_workers_and_venue_killed_under_load_execute_one_of_each_pair_and_close_every_bracket(
    platform: OmsPlatform, oms: OverRest, account: str
) -> None:
    told: dict[int, list[str]] = {}

    async def one(number: int) -> None:
        make = _pair if number % 2 else _bracket
        request = (
            _pair(account, client_order_id=f"g-{number}")
            if make is _pair
            else _bracket(account, 40000, client_order_id=f"g-{number}")
        )
        try:
            answer = await oms.call("SubmitOrderGroup", request)
        except (Refusal, httpx.TransportError):
            return
        if all(order["status"] == "submitted" for order in answer["orders"]):
            told[number] = [order["order_id"] for order in answer["orders"]]

    async def load() -> None:
        running = set()
        for number in range(160):
            running.add(asyncio.create_task(one(number)))
            await asyncio.sleep(0.02)
        await asyncio.wait(running)

    loading = asyncio.create_task(load())
    await asyncio.sleep(0.8)
    kill_workers(platform.oms)
    await asyncio.sleep(0.8)
    kill_workers(platform.venue)
    await asyncio.sleep(0.8)
    kill_workers(platform.oms)
    await loading
    assert told

    async def ended() -> list[dict[str, Any]]:
        try:
            orders = await orders_of(oms, account)
        except (Refusal, httpx.TransportError) as error:
            raise AssertionError(repr(error)) from error
        left = [order for order in orders if order["state"] not in FINAL]
        assert not left, left
        return orders

    orders = await eventually(ended, within_sec=60, every_sec=0.5)
    groups: dict[str, list[dict[str, Any]]] = {}
    for order in orders:
        groups.setdefault(order["group_id"], []).append(order)
    for members in groups.values():
        sells = [order for order in members if order["side"] == "sell"]
        bought = sum(order["cumulative_quantity"] for order in members if order["side"] == "buy")
        sold = [order["cumulative_quantity"] for order in sells if order["cumulative_quantity"]]
        assert len(sold) <= 1
        if len(members) == 3:
            assert sum(sold) == bought, members
    for number, ids in told.items():
        members = groups[ids[0]]
        assert {order["order_id"] for order in members} == set(ids)
        executed = [order for order in members if order["cumulative_quantity"]]
        assert len(executed) == (1 if number % 2 else 2), members
    positions = await oms.call("GetPositions", {"account": account})
    signed = [order["cumulative_quantity"] * (1 if order["side"] == "buy" else -1) for order in orders]
    assert positions["BTCUSDT"]["quantity"] == sum(signed)
    assert await reserved_of(platform, account) == (0, {})
