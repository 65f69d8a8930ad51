"""Drop copies that are slow, many, or cut off by the journal's restart."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal

from nats.aio.client import Client

from tests.contract.oms.clients import OverGrpc, OverRest
from tests.integration.oms.orders import market_buy, until_state
from tests.integration.oms.platform import OmsPlatform
from tests.support import eventually

EVENTS = 2_000


async def many_fills(bus: Client, account: str, count: int = EVENTS) -> None:
    js = bus.jetstream()
    fill = {"account": account, "symbol": "BTCUSDT", "side": "buy", "quantity": 0.001, "price": 45000}
    for start in range(0, count, 100):
        await asyncio.gather(
            *(
                js.publish(f"fills.{account}", json.dumps({**fill, "fill_id": f"{account}-{n}"}).encode())
                for n in range(start, start + 100)
            )
        )


async def test_a_client_that_does_not_read_holds_up_nobody_and_misses_nothing(
    platform: OmsPlatform, oms: OverRest, oms_grpc: OverGrpc, bus: Client, account: str
) -> None:
    stream = oms_grpc.stream({"account": account, "heartbeat_interval": "1s"})
    # The stream is open once its first heartbeat is there; then nobody reads.
    first = await anext(stream)
    assert "heartbeat" in first
    await many_fills(bus, account)

    async def booked() -> bool:
        positions = await oms.call("GetPositions", {"account": account})
        assert positions["BTCUSDT"]["quantity"] == EVENTS * Decimal("0.001")
        return True

    await eventually(booked, within_sec=40, every_sec=0.2)
    other = await oms.call("SubmitOrder", market_buy(f"{account}x"))
    await until_state(oms, other["order_id"], "filled")
    seen: list[int] = []
    async with asyncio.timeout(40):
        while len(seen) < EVENTS + 2:
            message = await anext(stream)
            if "event" in message:
                seen.append(message["sequence"])
    assert seen == list(range(1, EVENTS + 3))
    await stream.aclose()


async def test_a_drop_copy_goes_on_over_a_restart_of_nats(
    platform: OmsPlatform, oms: OverRest, oms_grpc: OverGrpc, account: str
) -> None:
    seen: list[int] = []

    async def follow() -> None:
        stream = oms_grpc.stream({"account": account})
        while True:
            message = await anext(stream)
            if "event" in message:
                seen.append(message["sequence"])

    following = asyncio.create_task(follow())
    one = await oms.call("SubmitOrder", market_buy(account))
    await until_state(oms, one["order_id"], "filled")
    await eventually(lambda: len(seen) == 4, within_sec=10)
    platform.nats.kill()
    platform.nats.start()
    await platform.nats.until_healthy()
    await eventually(lambda: _healthy(oms), within_sec=10)
    two = await oms.call("SubmitOrder", market_buy(account))
    await until_state(oms, two["order_id"], "filled", within_sec=20)
    await eventually(lambda: seen == [1, 2, 3, 4, 5, 6], within_sec=20)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def _healthy(oms: OverRest) -> bool:
    return (await oms._client.get("/health")).status_code == 200


async def test_many_drop_copies_of_one_account_all_see_every_event(
    platform: OmsPlatform, oms: OverRest, oms_grpc: OverGrpc, account: str
) -> None:
    async def follow() -> list[int]:
        seen: list[int] = []
        stream = oms_grpc.stream({"account": account})
        while len(seen) < 4:
            message = await anext(stream)
            if "event" in message:
                seen.append(message["sequence"])
        await stream.aclose()
        return seen

    following = [asyncio.create_task(follow()) for _ in range(50)]
    order = await oms.call("SubmitOrder", market_buy(account))
    await until_state(oms, order["order_id"], "filled")
    async with asyncio.timeout(30):
        assert await asyncio.gather(*following) == [[1, 2, 3, 4]] * 50
    await eventually(lambda: platform.metric("oms_drop_copies") == 0, within_sec=10)
