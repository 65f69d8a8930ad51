"""risk as a process, and two of them on one account."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import psutil
import pytest
import redis
from grpc_health.v1 import health_pb2

from services.risk.bootstrap import Worker
from services.runtime.service import WorkerContext
from services.runtime.settings import SettingsError
from tests.contract.risk.clients import InProcess, OverGrpc, OverRest, Refusal, RiskClient
from tests.contract.risk.test_check import check
from tests.contract.risk.test_reserve import open_orders, reserve
from tests.integration.risk.platform import RiskPlatform
from tests.support import eventually


@asynccontextmanager
async def worker(platform: RiskPlatform, **variables: str) -> AsyncIterator[Worker]:
    """A second risk in this process, with marks and history."""
    prefixed = {f"TRADE2026_RISK__{key}": value for key, value in variables.items()}
    context = WorkerContext(platform.settings(**prefixed), 0, 1, asyncio.Event())
    made = Worker(context)
    await made.start()

    async def whole() -> bool:
        await made.health.probe_once()
        return made.health.status()[0] == "healthy"

    try:
        await eventually(whole, within_sec=20)
        yield made
    finally:
        context.stop.set()
        async with asyncio.timeout(20):
            await made.stop()


async def test_the_way_of_a_reservation_is_rehearsed_and_leaves_nothing(platform: RiskPlatform) -> None:
    def commits() -> float:
        with redis.Redis.from_url(platform.valkey.url) as client:
            assert not client.keys("*rehearsal*")
            stats: dict[str, Any] = client.info("commandstats")
        return float(stats.get("cmdstat_fcall", {}).get("calls", 0))

    before = commits()
    async with worker(platform) as rehearsing:
        await eventually(lambda: commits() >= before + 100, within_sec=20)
        assert rehearsing.health.status()[0] == "healthy"
    assert commits() > before


async def test_two_services_on_one_account_never_exceed_its_limits_together(
    platform: RiskPlatform, risk: OverGrpc, account: str
) -> None:
    async with worker(platform) as second:
        clients: list[RiskClient] = [risk, InProcess(second.servicer)]
        calls = [
            clients[number % 2].call("BatchReserve", {"requests": [reserve(account, quantity=0.1)]})
            for number in range(40)
        ]
        answers = await asyncio.gather(*calls)
    approved = [answer["results"][0]["response"]["approved"] for answer in answers]
    assert sum(approved) == 5  # 5 × 4,500 ≤ 25 % of 100,000
    assert await open_orders(risk, account) == 5


async def test_dry_check_of_another_process_follows_a_reservation(
    platform: RiskPlatform, risk: OverGrpc, account: str
) -> None:
    async with worker(platform) as second:
        other = InProcess(second.servicer)
        request = check(account, quantity=0.3)
        assert (await other.call("Check", request))["approved"]  # never opened, and remembered as such
        await risk.call("Reserve", reserve(account, quantity=0.3))

        async def followed() -> bool:
            return not (await other.call("Check", request))["approved"]

        await eventually(followed, within_sec=2)


@pytest.mark.parametrize(
    ("variables", "reads"),
    [
        ({}, False),
        ({"PERFORMANCE__CACHE_POSITIONS": "false"}, True),
        ({"PERFORMANCE__CACHE_LIMITS": "false"}, True),
    ],
)
async def test_checks_read_valkey_only_when_copies_may_not_be_used(
    platform: RiskPlatform, account: str, variables: dict[str, str], reads: bool
) -> None:
    def loads() -> int:
        with redis.Redis.from_url(platform.valkey.url) as client:
            stats: Any = client.info("commandstats")
            return int(stats.get("cmdstat_hgetall", {}).get("calls", 0))

    async with worker(platform, **variables) as made:
        client = InProcess(made.servicer)
        await client.call("Reserve", reserve(account))
        await client.call("Check", check(account))
        before = loads()
        for _ in range(50):
            assert (await client.call("Check", check(account)))["approved"]
        done = loads() - before
    assert done >= 50 if reads else done < 50


async def test_opening_cash_is_the_configured_one(platform: RiskPlatform, account: str) -> None:
    async with worker(platform, RISK_CHECKS__INITIAL_BUYING_POWER_USD="1000") as made:
        client = InProcess(made.servicer)
        assert (await client.call("GetAccountRisk", {"account": account}))["cash"] == 1000
        assert (await client.call("Check", check(account)))["reason"] == "concentration_limit"
        await client.call("Reserve", reserve(account, quantity=0.001))
        assert (await client.call("GetAccountRisk", {"account": account}))["cash"] == 1000


async def test_lookback_that_history_does_not_cover_is_missing_data(
    platform: RiskPlatform, account: str
) -> None:
    prefixed = {"TRADE2026_RISK__RISK_CHECKS__VAR_LOOKBACK_DAYS": "400"}
    context = WorkerContext(platform.settings(**prefixed), 0, 1, asyncio.Event())
    made = Worker(context)
    await made.start()

    async def denied() -> bool:
        answer = await InProcess(made.servicer).call("Check", check(account))
        assert answer.get("reason") == "var_data_unavailable"
        return True

    await eventually(denied)
    context.stop.set()
    await made.stop()


async def test_last_mark_is_used_at_any_age_only_when_configured(silent: RiskPlatform, account: str) -> None:
    async with silent.ticking(), worker(silent, MARKS__FALLBACK="last", MARKS__MAX_AGE_SEC="0.5") as made:
        client = InProcess(made.servicer)
        assert (await client.call("Check", check(account)))["approved"]

    async with silent.ticking(), worker(silent, MARKS__MAX_AGE_SEC="0.5") as strict:
        denying = InProcess(strict.servicer)
        assert (await denying.call("Check", check(account)))["approved"]
        silent.nats.pause()

        async def denied() -> bool:
            answer = await denying.call("Check", check(account))
            assert answer.get("reason") == "no_reference_price"
            return True

        await eventually(denied)
        silent.nats.resume()


async def test_other_number_of_partitions_than_the_data_has_stops_the_start(platform: RiskPlatform) -> None:
    variables = {"TRADE2026_RISK__LEDGER__PARTITIONS": "8"}
    context = WorkerContext(platform.settings(**variables), 0, 1, asyncio.Event())
    made = Worker(context)
    with pytest.raises(SettingsError, match="partitions"):
        await made.start()
    context.stop.set()
    await made.stop()


async def test_slow_checks_are_logged_and_counted(
    platform: RiskPlatform, risk: OverGrpc, account: str
) -> None:
    """The thresholds of this platform are so low that every check is slow."""
    start = platform.risk.log_path.stat().st_size
    names = ("risk_check_sla_breaches_total", "risk_check_latency_alerts_total")
    before = [platform.metric(name) for name in names]
    await risk.call("Check", check(account))

    await eventually(lambda: [platform.metric(name) for name in names] == [count + 1 for count in before])

    def lines(message: str) -> list[dict[str, Any]]:
        found = [line for line in platform.log(start) if line.get("account") == account]
        return [line for line in found if line["message"] == message]

    await eventually(lambda: lines("slow check"))
    assert lines("slow check")[0]["level"] == "WARNING"
    assert lines("slow check")[0]["latency_sla_ms"] == 0.001
    # The dry check itself is a DEBUG line.
    assert [line["level"] for line in lines("check request")] == ["DEBUG"]


async def test_grpc_health_follows_the_critical_servers(platform: RiskPlatform) -> None:
    async with grpc.aio.insecure_channel(platform.addresses["risk"]["grpc"]) as channel:
        check_health: Any = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )

        async def status(name: str) -> int:
            answer = await check_health(health_pb2.HealthCheckRequest(service=name))
            return int(answer.status)

        names = ("", "trade2026.risk.v1.RiskService")
        assert [await status(name) for name in names] == [health_pb2.HealthCheckResponse.SERVING] * 2
        platform.valkey.kill()

        async def stopped() -> bool:
            return [await status(name) for name in names] == [health_pb2.HealthCheckResponse.NOT_SERVING] * 2

        await eventually(stopped, within_sec=10)
        platform.valkey.start()


async def test_live_answers_whatever_is_missing(platform: RiskPlatform) -> None:
    rest = OverRest(f"http://{platform.addresses['risk']['rest']}")
    platform.valkey.pause()
    response = await rest._client.get("/live")
    platform.valkey.resume()
    assert response.status_code == 200
    await rest.close()


async def test_questdb_address_that_does_not_answer_degrades(platform: RiskPlatform) -> None:
    for variable in ("QUESTDB__HTTP_URL", "QUESTDB__PG_URL"):
        wrong = "http://127.0.0.1:1" if "HTTP" in variable else "postgresql://admin:quest@127.0.0.1:1/qdb"
        context = WorkerContext(
            platform.settings(**{f"TRADE2026_RISK__{variable}": wrong}), 0, 1, asyncio.Event()
        )
        made = Worker(context)
        await made.start()
        await made.health.probe_once()
        status, names = made.health.status()
        assert "questdb" in names
        assert status in ("degraded", "unhealthy")
        context.stop.set()
        await made.stop()


async def test_sigterm_ends_the_service_in_order(
    platform: RiskPlatform, risk: OverGrpc, account: str
) -> None:
    await risk.call("Reserve", reserve(account))
    platform.risk.request_stop()
    await eventually(lambda: not platform.risk.running, within_sec=20)
    assert platform.risk.exit_reason() == "ended with status 0"


async def test_only_configured_instruments_are_taken(platform: RiskPlatform, account: str) -> None:
    only = "[{symbol: BTCUSDT, price_increment: 1, quantity_increment: 0.1}]"
    async with worker(platform, INSTRUMENTS=only) as made:
        client = InProcess(made.servicer)
        assert (await client.call("Check", check(account)))["approved"]
        for fields, named in (
            ({"symbol": "ETHUSDT", "price": 2300}, "symbol"),
            ({"price": 45000.5}, "price"),
            ({"quantity": 0.15}, "quantity"),
        ):
            with pytest.raises(Refusal) as caught:
                await client.call("Check", check(account, **fields))
            assert caught.value.fields == [named]


async def test_size_of_a_jump_is_the_configured_one(silent: RiskPlatform, account: str) -> None:
    async with silent.ticking(), worker(silent, MARKS__JUMP_PCT="100000") as made:
        client = InProcess(made.servicer)

        async def jumped() -> bool:
            await silent.tick(BTCUSDT="60000")
            answer = await client.call("Check", check(account, explain=True))
            controls = {control["name"]: control for control in answer["explanation"]["controls"]}
            return bool(controls["reference_price"].get("value") == 60_000)

        await eventually(jumped)


async def test_pool_of_its_own_data_is_as_large_as_configured(platform: RiskPlatform) -> None:
    async with worker(platform, VALKEY__MAX_CONNECTIONS="3") as made:
        assert made._valkey.connection_pool.max_connections == 3


async def test_two_workers_share_the_ports_and_a_killed_one_comes_back(
    platform: RiskPlatform, risk: OverGrpc, account: str
) -> None:
    variables = platform.risk.variables
    platform.risk.variables = {**variables, "TRADE2026_RISK__SERVICE__WORKERS": "2"}
    platform.risk.stop()
    platform.risk.start()
    await platform.risk.until_healthy()

    def workers() -> list[psutil.Process]:
        return psutil.Process(platform.risk.pid).children()

    await eventually(lambda: len(workers()) == 2)
    first = workers()[0]
    first.kill()
    await eventually(lambda: len(workers()) == 2 and first not in workers(), within_sec=20)
    await eventually(lambda: not platform.missing(), within_sec=20)

    async def served() -> bool:
        rest = OverRest(f"http://{platform.addresses['risk']['rest']}")
        try:
            return bool((await rest.call("Check", check(account)))["approved"])
        finally:
            await rest.close()

    for _ in range(20):
        await eventually(served)
    platform.risk.stop()
    platform.risk.variables = variables
