"""Whatever is missing, nothing is approved that cannot be judged; when it is back, so is the service."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis

from services.ledger.keys import account_keys
from services.runtime.errors import Code
from services.runtime.local_stack.part import Part
from tests.contract.risk.clients import OverGrpc, Refusal
from tests.contract.risk.test_check import check
from tests.contract.risk.test_reserve import open_orders, reserve
from tests.integration.risk.platform import RiskPlatform
from tests.support import eventually, unique_account, wait_until

UNKNOWN = {Code.DEADLINE_EXCEEDED, Code.UNAVAILABLE}


async def reason_of(risk: OverGrpc, request: dict[str, Any]) -> str:
    """Why a dry check is denied; empty when it is approved."""
    answer = await risk.call("Check", request)
    assert answer["approved"] == ("reason" not in answer)
    return str(answer.get("reason", ""))


async def not_approved(risk: OverGrpc, request: dict[str, Any], timeout: float = 0.5) -> str:
    """The denial of a reservation, or `unknown`."""
    try:
        answer = await risk.call("BatchReserve", {"requests": [request]}, timeout=timeout)
    except Refusal as error:
        assert error.code in UNKNOWN  # noqa: PT017 # an answer like another one here
        return "unknown"
    (result,) = answer["results"]
    if "error" in result:
        assert result["error"]["code"] in UNKNOWN
        return "unknown"
    assert not result["response"]["approved"]
    return str(result["response"]["reason"])


@pytest.mark.parametrize("how", ["frozen", "killed"])
async def test_without_valkey_everything_is_denied_until_it_is_back(
    platform: RiskPlatform, risk: OverGrpc, account: str, how: str
) -> None:
    await risk.call("Reserve", reserve(account))
    assert await reason_of(risk, check(account)) == ""
    platform.valkey.pause() if how == "frozen" else platform.valkey.kill()

    async def denied() -> bool:
        assert await reason_of(risk, check(account)) == "ledger_unavailable"
        assert await reason_of(risk, check(unique_account())) == "ledger_unavailable"
        return True

    await eventually(denied, within_sec=10)
    request = reserve(account)
    assert await not_approved(risk, request) in ("unknown", "ledger_unavailable")
    assert await not_approved(risk, reserve(unique_account())) in ("unknown", "ledger_unavailable")
    await eventually(
        lambda: platform.health() == (503, {"status": "unhealthy", "missing": ["valkey"]}), within_sec=10
    )

    platform.valkey.resume()
    platform.valkey.start()
    await eventually(lambda: platform.health()[0] == 200, within_sec=20)

    async def approved() -> bool:
        assert await reason_of(risk, check(account)) == ""
        return True

    await eventually(approved, within_sec=10)
    # What became of the reservation that nobody could answer is settled by asking again.
    assert (await risk.call("Reserve", request))["approved"]
    assert await open_orders(risk, account) == 2


async def test_reservation_that_meets_a_freeze_is_never_told_to_be_refused_when_it_is_held(
    platform: RiskPlatform, risk: OverGrpc, account: str
) -> None:
    await risk.call("Reserve", reserve(account))
    requests = [reserve(account) for _ in range(20)]
    platform.valkey.pause()
    answers = await asyncio.gather(*(not_approved(risk, request, 0.3) for request in requests))
    platform.valkey.resume()

    await eventually(lambda: platform.health()[0] == 200, within_sec=20)
    held = await settled_open_orders(risk, account)
    assert held - 1 <= answers.count("unknown")


async def settled_open_orders(risk: OverGrpc, account: str) -> int:
    """Open orders, once a further commit has been answered: nothing earlier can land after it."""
    await risk.call("Reserve", reserve(account, quantity=1000), timeout=10)  # denied: it only settles
    return await open_orders(risk, account)


async def test_lost_state_of_an_opened_account_is_not_taken_for_a_new_account(
    platform: RiskPlatform, risk: OverGrpc, account: str
) -> None:
    await risk.call("Reserve", reserve(account))
    with redis.Redis.from_url(platform.valkey.url) as client:
        assert client.delete(account_keys(account, 16).account) == 1

    async def denied() -> bool:
        assert await reason_of(risk, check(account)) == "ledger_unavailable"
        return True

    await eventually(denied)
    assert await not_approved(risk, reserve(account)) == "ledger_unavailable"
    assert platform.keys(account) != [account_keys(account, 16).account.encode()]


@pytest.mark.parametrize("how", ["frozen", "killed"])
async def test_without_nats_no_account_is_opened_and_marks_run_out_until_it_is_back(
    platform: RiskPlatform, risk: OverGrpc, account: str, how: str
) -> None:
    await risk.call("Reserve", reserve(account))
    platform.nats.pause() if how == "frozen" else platform.nats.kill()

    assert await not_approved(risk, reserve(unique_account()), 5) in ("unknown", "ledger_unavailable")
    assert await reason_of(risk, check(unique_account())) == "ledger_unavailable"
    await eventually(lambda: platform.health()[0] == 503, within_sec=10)
    assert platform.health()[1]["missing"] == ["nats"]

    async def no_marks() -> bool:
        assert await reason_of(risk, check(account)) == "no_reference_price"
        return True

    await eventually(no_marks, within_sec=10)
    assert await not_approved(risk, reserve(account)) == "no_reference_price"

    platform.nats.resume()
    platform.nats.start()
    await eventually(lambda: not platform.missing(), within_sec=30)
    fresh = unique_account()
    assert (await risk.call("Reserve", reserve(fresh)))["approved"]
    assert await reason_of(risk, check(account)) == ""


async def test_silent_marks_deny_what_does_not_reduce_and_degrade(
    silent: RiskPlatform, risk: OverGrpc, account: str
) -> None:
    """First with marks, to have a position; then without."""
    async with silent.ticking():
        await eventually(lambda: not silent.missing(), within_sec=20)
        assert await reason_of(risk, check(account)) == ""

    await eventually(lambda: silent.missing() == {"marks"}, within_sec=10)
    assert silent.health() == (200, {"status": "degraded", "degraded": ["marks"]})
    assert await reason_of(risk, check(account)) == "no_reference_price"
    assert await not_approved(risk, reserve(account)) == "no_reference_price"
    await silent.tick()

    async def approved() -> bool:
        assert await reason_of(risk, check(account)) == ""
        return True

    await eventually(approved)


async def test_one_wild_tick_is_not_a_mark(silent: RiskPlatform, risk: OverGrpc, account: str) -> None:
    await silent.tick()
    await silent.tick(BTCUSDT="4500000")

    async def valued() -> bool:
        answer = await risk.call("Check", check(account, explain=True))
        controls = {control["name"]: control for control in answer["explanation"]["controls"]}
        assert controls["reference_price"]["value"] == 45_000
        return True

    await eventually(valued)


async def test_without_daily_returns_nothing_is_approved_until_questdb_is_there(
    platform: RiskPlatform, risk: OverGrpc, account: str
) -> None:
    platform.risk.stop()
    platform.questdb.stop()
    with redis.Redis.from_url(platform.valkey.url, db=4) as client:
        client.flushdb()
    platform.risk.start()
    await platform.risk.until_healthy()

    async def denied() -> bool:
        assert await reason_of(risk, check(account)) == "var_data_unavailable"
        return True

    await eventually(denied, within_sec=15)
    assert await not_approved(risk, reserve(account)) == "var_data_unavailable"
    assert platform.health()[0] == 200
    assert {"history", "questdb"} <= platform.missing()

    platform.questdb.start()
    await platform.questdb.until_healthy()
    await eventually(lambda: not platform.missing(), within_sec=30)
    assert await reason_of(risk, check(account)) == ""


async def test_returns_that_risk_kept_serve_while_questdb_is_away(
    platform: RiskPlatform, risk: OverGrpc, account: str
) -> None:
    def kept() -> int:
        with redis.Redis.from_url(platform.valkey.url, db=4) as client:
            return int(client.hlen("risk:daily_returns"))

    await eventually(lambda: kept() == 3)
    platform.risk.stop()
    platform.questdb.stop()
    platform.risk.start()
    await platform.risk.until_healthy()

    async def approved() -> bool:
        assert await reason_of(risk, check(account)) == ""
        return True

    await eventually(approved, within_sec=15)
    platform.questdb.start()
    await platform.questdb.until_healthy()


@pytest.mark.parametrize("name", ["valkey", "nats"])
async def test_start_without_a_critical_server_serves_denials_and_becomes_healthy_by_itself(
    platform: RiskPlatform, risk: OverGrpc, account: str, name: str
) -> None:
    server: Part = getattr(platform, name)
    platform.risk.stop()
    server.stop()
    platform.risk.start()

    def unhealthy() -> bool:
        try:
            status, body = platform.health()
        except OSError:
            return False
        return status == 503 and name in body["missing"]

    wait_until(unhealthy, within_sec=30)
    assert await reason_of(risk, check(account)) == "ledger_unavailable"
    assert await not_approved(risk, reserve(account)) == "ledger_unavailable"
    with pytest.raises(Refusal) as caught:
        await risk.call("GetServiceInfo", {})
    assert caught.value.code is Code.UNAVAILABLE

    server.start()
    await server.until_healthy()
    await eventually(lambda: not platform.missing(), within_sec=30)
    assert await reason_of(risk, check(account)) == ""
