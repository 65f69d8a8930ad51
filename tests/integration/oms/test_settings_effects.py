"""What the keys of the configuration do, seen from outside on the running platform."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis.asyncio
from nats.aio.client import Client

from services.ledger.partition import PARTITIONS, partition_of
from services.oms.bootstrap import Worker
from services.oms.reports import ReportConsumer
from services.runtime.errors import Code
from services.runtime.settings import SettingsError
from tests.contract.oms.clients import InProcess, OverRest, Refusal
from tests.integration.oms.orders import limit_buy, market_buy, orders_of, resting, until_state
from tests.integration.oms.platform import OmsPlatform
from tests.integration.oms.worker import WorkerInProcess
from tests.support import eventually, unique_account


def key(name: str) -> str:
    return "TRADE2026_OMS__" + name.upper().replace(".", "__")


async def account_owned_by(worker: Worker) -> str:
    """An account of a partition that the worker in this process owns."""
    await eventually(lambda: len(worker.owned) == PARTITIONS // 2, within_sec=15)
    while True:
        account = unique_account("owned")
        if partition_of(account) in worker.owned:
            return account


async def test_supported_order_types_and_the_open_orders_allowed(platform: OmsPlatform, account: str) -> None:
    variables = {
        key("order_management.supported_order_types"): "[limit]",
        key("order_management.max_open_orders_per_account"): "2",
    }
    async with WorkerInProcess(platform, variables) as worker:
        oms = InProcess(worker.service)
        with pytest.raises(Refusal) as refused:
            await oms.call("SubmitOrder", market_buy(account))
        assert (refused.value.code, refused.value.fields) == (Code.INVALID_ARGUMENT, ["type"])
        for _ in range(2):
            order = await oms.call("SubmitOrder", resting(account))
            await until_state(oms, order["order_id"], "new")
        third = await oms.call("SubmitOrder", resting(account))
        assert (third["status"], third["reason"]) == ("rejected", "max_open_orders")


async def test_the_order_timeout_ends_an_order_without_time_in_force(
    platform: OmsPlatform, account: str
) -> None:
    async with WorkerInProcess(platform, {key("order_management.order_timeout_sec"): "1"}) as worker:
        oms = InProcess(worker.service)
        order = await oms.call("SubmitOrder", resting(account))
        await until_state(oms, order["order_id"], "expired")


async def test_orders_leave_under_the_prefix_and_a_prefix_without_a_stream_is_refused(
    platform: OmsPlatform, bus: Client, account: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        async with WorkerInProcess(platform, {key("nats.order_subject_prefix"): "nowhere"}):
            pass
    assert "nats.order_subject_prefix" in str(refused.value)
    await bus.jetstream().add_stream(name="DESK", subjects=["desk.orders.>"])
    try:
        async with WorkerInProcess(platform, {key("nats.order_subject_prefix"): "desk.orders"}) as worker:
            oms = InProcess(worker.service)
            answer = await oms.call("SubmitOrder", limit_buy(account))
            message = await bus.jetstream().get_last_msg("DESK", f"desk.orders.{account}.new")
            assert json.loads(message.data or b"")["order_id"] == answer["order_id"]
            await oms.call("CancelOrder", {"order_id": answer["order_id"]})
            await bus.jetstream().get_last_msg("DESK", f"desk.orders.{account}.cancel")
    finally:
        await bus.jetstream().delete_stream("DESK")


async def test_positions_are_published_under_the_prefix_and_projected_in_the_database(
    platform: OmsPlatform, oms: OverRest, bus: Client
) -> None:
    variables = {key("nats.position_subject_prefix"): "holdings", key("valkey.db"): "6"}
    async with WorkerInProcess(platform, variables) as worker:
        account = await account_owned_by(worker)
        heard: asyncio.Queue[Any] = asyncio.Queue()

        async def on_position(message: Any) -> None:
            heard.put_nowait(json.loads(message.data))

        await bus.subscribe(f"holdings.{account}", cb=on_position)
        await bus.flush()
        await oms.call("SubmitOrder", market_buy(account))
        async with asyncio.timeout(10):
            update = await heard.get()
        assert (update["account"], update["symbol"], update["quantity"]) == (account, "BTCUSDT", 0.1)
        assert set(update) == {"account", "symbol", "quantity", "price", "timestamp"}

        async def projected() -> bool:
            async with redis.asyncio.Redis.from_url(platform.valkey.url, db=6) as client:
                assert await client.hget(f"position:{account}:BTCUSDT", "quantity") == b"0.1"
            return True

        await eventually(projected, within_sec=5)
        assert await platform.projected(account, "BTCUSDT") == {}


async def test_without_realtime_positions_they_are_shown_at_the_interval(
    platform: OmsPlatform, oms: OverRest
) -> None:
    variables = {
        key("order_management.update_positions_realtime"): "false",
        key("order_management.reconcile_positions_interval_sec"): "2",
    }
    async with WorkerInProcess(platform, variables) as worker:
        account = await account_owned_by(worker)
        answer = await oms.call("SubmitOrder", market_buy(account))
        await until_state(oms, answer["order_id"], "filled")
        await platform.until_projected(account, "BTCUSDT", "0.1")


async def test_slow_submissions_are_counted_against_the_service_level(
    platform: OmsPlatform, account: str, tmp_path: Path
) -> None:
    slow = {key("performance.latency_sla_ms"): "0.001", key("performance.max_latency_ms"): "100000"}
    second = platform.another_oms(tmp_path, slow)
    second.start()
    try:
        await second.until_healthy()
        oms = OverRest(f"http://{second.addresses['rest']}")
        await oms.call("SubmitOrder", market_buy(account))
        await oms.close()

        async def counted() -> bool:
            text = await _metrics(second.environment()[key("monitoring.metrics_port")])
            assert "oms_submit_order_above_sla_total 1.0" in text
            assert "oms_submit_order_above_max_latency_total 0.0" in text
            assert "oms_submit_order_latency_ms_count 1.0" in text
            assert 'oms_submissions_total{outcome="submitted",reason=""} 1.0' in text
            return True

        await eventually(counted, within_sec=5, every_sec=0.1)
        lines = [json.loads(line) for line in second.log_path.read_text().splitlines() if line[:1] == "{"]
        (check,) = [line for line in lines if line["message"] == "risk check"]
        assert (check["account"], check["verdict"]) == (account, "approved")
        assert check["latency_ms"] > 0
        assert any(line["message"] == "submission above its service level" for line in lines)
    finally:
        second.stop()


async def _metrics(port: str) -> str:
    async with httpx.AsyncClient() as client:
        return (await client.get(f"http://127.0.0.1:{port}/metrics")).text


async def test_a_copy_of_an_account_is_shown_no_longer_than_its_time(
    platform: OmsPlatform, account: str
) -> None:
    async with WorkerInProcess(platform, {key("valkey.position_ttl_sec"): "0.5"}) as worker:
        ledger = worker.ledger
        assert ledger is not None
        await InProcess(worker.service).call("SubmitOrder", limit_buy(account, quantity=5))
        assert await ledger.account(account) is not None
        assert ledger.cached(account) is not None
        await eventually(lambda: ledger.cached(account) is None, within_sec=3)


async def test_a_start_without_nats_serves_health_that_says_what_is_missing(
    platform: OmsPlatform, tmp_path: Path
) -> None:
    second = platform.another_oms(tmp_path)
    platform.nats.kill()
    second.start()
    try:
        oms = OverRest(f"http://{second.addresses['rest']}")

        async def told() -> bool:
            try:
                response = await oms._client.get("/health")
            except httpx.TransportError as error:
                raise AssertionError(repr(error)) from error
            assert response.status_code == 503
            assert {"nats", "risk", "valkey"} <= set(response.json()["missing"])
            return True

        await eventually(told, within_sec=20, every_sec=0.1)
        with pytest.raises(Refusal) as refused:
            await oms.call("SubmitOrder", limit_buy("early"))
        assert refused.value.code is Code.UNAVAILABLE
        platform.nats.start()
        await platform.nats.until_healthy()
        await second.until_healthy(30)
        assert (await oms.call("SubmitOrder", limit_buy("early")))["status"] == "submitted"
        await oms.close()
    finally:
        second.stop()


def test_fills_of_one_account_can_be_chosen() -> None:
    def subjects(fill_subject: str) -> tuple[str, ...]:
        consumer = ReportConsumer(None, None, None, None, fill_subject=fill_subject)  # type: ignore[arg-type]
        return consumer.subjects(3)

    assert subjects("fills.>") == ("3.>",)
    assert subjects("fills.desk") == ("3.fills.desk", "3.executions.>")


async def test_health_is_unhealthy_without_valkey_and_orders_are_refused(
    platform: OmsPlatform, oms: OverRest, account: str
) -> None:
    platform.valkey.kill()

    async def missing() -> bool:
        response = await oms._client.get("/health")
        assert response.status_code == 503
        assert "valkey" in response.json()["missing"]
        return True

    await eventually(missing, within_sec=10)
    answer = await oms.call("SubmitOrder", limit_buy(account))
    assert (answer["status"], answer["reason"]) == ("rejected", "ledger_unavailable")
    platform.valkey.start()
    await platform.valkey.until_healthy()

    async def again() -> bool:
        answer = await oms.call("SubmitOrder", limit_buy(account))
        assert answer["status"] == "submitted", answer
        return True

    await eventually(again, within_sec=15, every_sec=0.2)
    assert await orders_of(oms, account)
