"""SIGKILL of every part in the middle of traffic: nothing is lost, nothing is doubled."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import httpx
import pytest

from tests.e2e.clients import every_page, until_answered
from tests.e2e.platform import RAISED_LIMITS, Platform
from tests.support import eventually, unique_account

ORDERS: Final = 2_000
ACCOUNTS: Final = 5
IN_FLIGHT: Final = 32
OPEN_STATES: Final = {"pending_new", "new", "partially_filled", "pending_cancel", "pending_replace"}
PARTS: Final = ("valkey", "nats", "questdb", "market-data", "live-gateway", "risk", "oms")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform whose limits let every order pass."""
    with Platform(tmp_path_factory.mktemp("killed"), RAISED_LIMITS) as running:
        yield running


@dataclass(frozen=True, slots=True)
class Sent:
    """An order as the client knows it: what it asked for and what it was told."""

    client_order_id: str
    account: str
    side: str
    quantity: Decimal
    status: str
    order_id: str
    cancel_asked: bool


def traffic(seed: int, accounts: list[str]) -> list[dict[str, Any]]:
    """Mostly limits that fill at once; some stops rest far from the market, half of these get canceled."""
    choose = random.Random(seed)
    orders: list[dict[str, Any]] = []
    for number in range(ORDERS):
        order: dict[str, Any] = {
            "account": accounts[number % ACCOUNTS],
            "symbol": "BTCUSDT",
            "side": choose.choice(("buy", "sell")),
            "quantity": choose.choice((0.01, 0.02, 0.05)),
            "client_order_id": f"order-{number}",
        }
        if choose.random() < 0.1:
            # Triggers that the replayed day does not reach.
            order |= {"type": "stop", "stop_price": 52_000 if order["side"] == "buy" else 38_000}
        else:
            order |= {"type": "limit", "price": 45_000 + choose.randrange(1_000)}
        orders.append(order)
    return orders


async def send(client: httpx.AsyncClient, order: dict[str, Any], cancel: bool) -> Sent:
    status, answer = await until_answered(client, "POST", "/orders", order)
    assert status == 200, (order, status, answer)
    order_id = answer.get("order_id", "")
    if cancel and order_id:
        status, told = await until_answered(client, "DELETE", f"/orders/{order_id}")
        assert status == 200 or told["code"] == 9, (order_id, told)
    return Sent(
        order["client_order_id"],
        order["account"],
        order["side"],
        Decimal(str(order["quantity"])),
        answer["status"],
        order_id,
        cancel and bool(order_id),
    )


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", PARTS)
async def test_killed_in_the_middle_of_a_run_loses_and_doubles_nothing(platform: Platform, part: str) -> None:
    accounts = [unique_account("killed") for _ in range(ACCOUNTS)]
    orders = traffic(sum(map(ord, part)), accounts)
    turn = asyncio.Semaphore(IN_FLIGHT)
    killed_pid = platform.part_pid(part)
    assert killed_pid is not None
    answered = 0

    async with httpx.AsyncClient(base_url=platform.url("oms"), timeout=5) as client:

        async def one(order: dict[str, Any]) -> Sent:
            nonlocal answered
            async with turn:
                sent = await send(client, order, cancel=order["type"] == "stop" and answered % 2 == 0)
            answered += 1
            if answered == ORDERS // 3:
                os.kill(killed_pid, signal.SIGKILL)
            return sent

        sent = await asyncio.gather(*(one(order) for order in orders))

        def back() -> bool:
            pid = platform.part_pid(part)
            assert not platform.unhealthy()
            return pid is not None and pid != killed_pid

        await eventually(back, within_sec=60, every_sec=0.5)
        told = {status: sum(order.status == status for order in sent) for status in ("submitted", "rejected")}
        print(f"{part}: {told}")
        # A client may be told `rejected` while its part is away, but most orders come through.
        assert told["submitted"] >= ORDERS // 2
        await eventually(lambda: settled(client, platform, accounts, sent), within_sec=90, every_sec=0.5)


async def settled(
    client: httpx.AsyncClient, platform: Platform, accounts: list[str], sent: list[Sent]
) -> bool:
    """Everything that must hold once the dust has settled; an AssertionError says what does not (yet)."""
    venue = await platform.connect_nats()
    try:
        for account in accounts:
            orders = await every_page(client, "/orders", "orders", account=account)
            check_orders([order for order in sent if order.account == account], orders)
            venue_open = await ask_venue(venue, "venue.orders", account)
            open_here = {order["order_id"]: order for order in orders if order["state"] in OPEN_STATES}
            assert not [o for o in open_here.values() if o["state"].startswith("pending")], "still pending"
            leaves = {order_id: order["leaves_quantity"] for order_id, order in open_here.items()}
            assert leaves == {order["order_id"]: order["leaves"] for order in venue_open["orders"]}
            position = (await client.get(f"/positions/{account}")).text
            ours = json.loads(position, parse_float=Decimal)["BTCUSDT"]
            check_position(
                platform, account, ours, orders, await ask_venue(venue, "venue.positions", account)
            )
    finally:
        await venue.close()
    return True


def check_orders(sent: list[Sent], orders: list[dict[str, Any]] | Any) -> None:
    """One order a client order id, in a state that agrees with what the client was told.

    Attempts that were given up without an outcome (the client repeated them) have executed nothing.
    """
    by_client_id: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for order in orders:
        by_client_id[order["client_order_id"]].append(order)
    for told in sent:
        attempts = by_client_id[told.client_order_id]
        assert all(gave_up(order) for order in attempts if order["order_id"] != told.order_id), attempts
        if told.status == "rejected":
            continue
        (order,) = (order for order in attempts if order["order_id"] == told.order_id)
        assert order["state"] != "denied", order
        if order["state"] == "filled":
            assert order["cumulative_quantity"] == told.quantity


def gave_up(order: dict[str, Any]) -> bool:
    """Whether an order ended without ever executing."""
    return order["state"] in {"denied", "canceled", "rejected"} and order["cumulative_quantity"] == 0


def check_position(
    platform: Platform, account: str, ours: dict[str, Any], orders: Any, at_venue: dict[str, Any]
) -> None:
    """Ledger, fill store, venue and the orders tell the same position and the same open quantities."""
    signed = {"buy": 1, "sell": -1}
    executed = sum(signed[order["side"]] * order["cumulative_quantity"] for order in orders)
    assert ours["quantity"] == executed
    rows = platform.query("SELECT fill_id, order_id, side, quantity FROM fills WHERE account = %s", account)
    assert len({row["fill_id"] for row in rows}) == len(rows)
    assert sum(signed[row["side"]] * row["quantity"] for row in rows) == executed
    assert {position["symbol"]: position["quantity"] for position in at_venue["positions"]}[
        "BTCUSDT"
    ] == executed
    for side in ("buy", "sell"):
        leaves = sum(order["leaves_quantity"] for order in orders if order["side"] == side)
        assert ours[f"open_{side}_quantity"] == leaves


async def ask_venue(client: Any, subject: str, account: str) -> dict[str, Any]:
    reply = await client.request(subject, json.dumps({"account": account}).encode(), timeout=5)
    return json.loads(reply.data, parse_float=Decimal)  # type: ignore[no-any-return]
