"""Two workers: partitions are shared, taken over when one dies, and given up at once when one stops."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from pathlib import Path

from nats.aio.client import Client

from services.ledger.partition import PARTITIONS
from services.runtime.local_stack.assembly import ServicePart
from tests.contract.oms.clients import InProcess, OmsClient, OverRest
from tests.integration.oms.orders import market_buy, until_state
from tests.integration.oms.platform import OmsPlatform, kill_workers
from tests.integration.oms.worker import WorkerInProcess
from tests.support import eventually, unique_account


async def test_partitions_of_a_dead_worker_are_taken_over_and_no_fill_is_lost_or_doubled(
    platform: OmsPlatform, oms: OverRest, bus: Client, tmp_path: Path
) -> None:
    accounts = [unique_account("owned") for _ in range(20)]
    second = platform.another_oms(tmp_path)
    second.start()
    try:
        await second.until_healthy()
        await eventually(lambda: acquired(second) == PARTITIONS // 2, within_sec=15)
        for round_ in range(10):
            await _fills(bus, accounts, round_)
        second.kill()
        for round_ in range(10, 20):
            await _fills(bus, accounts, round_)
    finally:
        second.stop()

    async def booked() -> bool:
        for account in accounts:
            positions = await oms.call("GetPositions", {"account": account})
            assert positions.get("BTCUSDT", {}).get("quantity") == Decimal("0.2"), account
        return True

    await eventually(booked, within_sec=20, every_sec=0.3)
    for account in accounts:
        await platform.until_projected(account, "BTCUSDT", "0.2")


def acquired(oms: ServicePart) -> int:
    """Partitions that an oms has come to own since its start."""
    return oms.log_path.read_text().count("partition acquired")


async def _fills(bus: Client, accounts: list[str], round_: int) -> None:
    js = bus.jetstream()
    fill = {"symbol": "BTCUSDT", "side": "buy", "quantity": 0.01, "price": 45000}
    await asyncio.gather(
        *(
            js.publish(
                f"fills.{account}",
                json.dumps({**fill, "account": account, "fill_id": f"{account}-{round_}"}).encode(),
            )
            for account in accounts
        )
    )


async def test_a_worker_that_stops_gives_up_its_partitions_at_once(platform: OmsPlatform) -> None:
    async with WorkerInProcess(platform) as one:
        await eventually(lambda: len(one.owned) == PARTITIONS // 2, within_sec=15)
        async with WorkerInProcess(platform) as two:
            await eventually(lambda: len(two.owned) >= PARTITIONS // 3 - 1, within_sec=15)
        await eventually(lambda: len(one.owned) == PARTITIONS // 2, within_sec=2)


async def test_orders_through_any_worker_end_alike(
    platform: OmsPlatform, oms: OverRest, account: str
) -> None:
    async with WorkerInProcess(platform) as worker:
        beside = InProcess(worker.service)
        order = market_buy(account, client_order_id="either")
        first = await oms.call("SubmitOrder", order)
        assert await beside.call("SubmitOrder", order) == first
        await until_state(beside, first["order_id"], "filled")
        assert await beside.call("SubmitOrder", order) == first
        ways: list[OmsClient] = [oms, beside]
        both = [
            await way.call("SubmitOrder", market_buy(account, client_order_id=f"way-{number}"))
            for number, way in enumerate(ways * 5)
        ]
        for answer in both:
            await until_state(oms, answer["order_id"], "filled")
        held = (await beside.call("GetPositions", {"account": account}))["BTCUSDT"]
        assert held["quantity"] == Decimal("1.1")


async def test_the_owner_can_be_killed_while_orders_are_under_way(
    platform: OmsPlatform, oms: OverRest, account: str
) -> None:
    async with WorkerInProcess(platform) as worker:
        beside = InProcess(worker.service)
        await eventually(lambda: len(worker.owned) == PARTITIONS // 2, within_sec=15)
        accounts = [f"{account}-{number}" for number in range(16)]
        answers = []
        for number, one in enumerate(accounts):
            if number == 8:
                kill_workers(platform.oms)
            answers.append(await beside.call("SubmitOrder", market_buy(one)))
        assert {answer["status"] for answer in answers} == {"submitted"}
        for answer in answers:
            await until_state(beside, answer["order_id"], "filled", within_sec=20)
