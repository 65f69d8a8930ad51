"""Risk that does not answer, dies, or is a foreign one: nothing stays reserved, nobody is told wrongly."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.runtime.errors import Code, ResourceExhausted
from tests.contract.oms.clients import InProcess, OverRest, Refusal
from tests.integration.oms.orders import limit_buy, market_buy, orders_of, reserved_of, until_state
from tests.integration.oms.platform import OmsPlatform, freeze, thaw
from tests.integration.oms.worker import WorkerInProcess
from tests.support import eventually

SHORT = {"TRADE2026_OMS__RISK_SERVICE__TIMEOUT_SEC": "0.05"}


async def test_a_frozen_risk_is_a_risk_timeout_and_nothing_stays_reserved(
    platform: OmsPlatform, account: str
) -> None:
    async with WorkerInProcess(platform, SHORT) as worker:
        oms = InProcess(worker.service)
        warm = await oms.call("SubmitOrder", market_buy(account))
        await until_state(oms, warm["order_id"], "filled")
        freeze(platform.risk)
        answers = await asyncio.gather(
            *(oms.call("SubmitOrder", limit_buy(account, client_order_id=f"frozen-{n}")) for n in range(10))
        )
        assert {(answer["status"], answer["reason"]) for answer in answers} == {("rejected", "risk_timeout")}
        thaw(platform.risk)
        # What reached risk is carried out now, long after its orders were given up.
        late = {order["order_id"] for order in await orders_of(oms, account)} - {warm["order_id"]}
        assert len(late) == 10
        await asyncio.gather(*(_seen_late(platform, order_id) for order_id in list(late)[:1]))
        orders = [order for order in await orders_of(oms, account) if order["order_id"] in late]
        assert {(order["state"], order["reason"]) for order in orders} <= {
            ("denied", "risk_timeout"),
            ("canceled", "risk_timeout"),
        }
        assert await reserved_of(platform, account) == (0, {})
        again = await oms.call("SubmitOrder", limit_buy(account, client_order_id="frozen-0"))
        assert again["status"] == "submitted"


async def _seen_late(platform: OmsPlatform, order_id: str) -> None:
    """Returns when risk has answered some order after its thaw, or when it never got one."""

    def answered() -> bool:
        return any(
            line["message"] == "check request" and line.get("order_id") == order_id
            for line in platform.log("risk")
        )

    try:
        await eventually(answered, within_sec=3)
    except AssertionError:
        return


async def test_more_than_risk_can_check_is_refused_early_and_what_was_taken_is_carried_out(
    platform: OmsPlatform, account: str
) -> None:
    async with WorkerInProcess(platform, {"TRADE2026_OMS__RISK_SERVICE__TIMEOUT_SEC": "20"}) as worker:
        oms = InProcess(worker.service)
        await oms.call("SubmitOrder", market_buy(account))
        freeze(platform.risk)
        # More than may be at risk at a time, so that some wait here.
        taken = [asyncio.create_task(oms.call("SubmitOrder", market_buy(account))) for _ in range(200)]

        def refused() -> bool:
            try:
                worker.service._desk.submitter.require_ready()
            except ResourceExhausted:
                return True
            return False

        await eventually(refused, within_sec=5)
        with pytest.raises(Refusal) as refusal:
            await oms.call("SubmitOrder", limit_buy(account, client_order_id="too-much"))
        assert refusal.value.code is Code.RESOURCE_EXHAUSTED
        assert refusal.value.retry_sec > 0
        thaw(platform.risk)
        answers = await asyncio.gather(*taken)
        assert {answer["status"] for answer in answers} == {"submitted"}
        again = await oms.call("SubmitOrder", limit_buy(account, client_order_id="too-much"))
        assert again["status"] == "submitted"
        orders = await orders_of(oms, account)
        assert len({order["order_id"] for order in orders}) == len(orders) == 202


async def test_a_killed_risk_is_a_risk_error_until_it_is_back(
    platform: OmsPlatform, oms: OverRest, account: str
) -> None:
    warm = await oms.call("SubmitOrder", market_buy(account))
    assert warm["status"] == "submitted"
    platform.risk.kill()

    async def refused() -> None:
        answer = await oms.call("SubmitOrder", limit_buy(account))
        assert (answer["status"], answer["reason"]) == ("rejected", "risk_error")

    await refused()
    await eventually(lambda: _health(oms, "unhealthy"), within_sec=10)
    await refused()
    assert await reserved_of_after_restart(platform, account) == (0, {})

    async def recovered() -> bool:
        answer = await oms.call("SubmitOrder", market_buy(account))
        return bool(answer["status"] == "submitted")

    await eventually(recovered, within_sec=15, every_sec=0.2)
    await eventually(lambda: _health(oms, "healthy"), within_sec=10)


async def reserved_of_after_restart(platform: OmsPlatform, account: str) -> object:
    platform.risk.start()
    await platform.risk.until_healthy()
    return await reserved_of(platform, account)


async def _health(oms: OverRest, status: str) -> bool:
    response = await oms._client.get("/health")
    body = response.json()
    if status == "unhealthy":
        return response.status_code == 503 and body["missing"] == ["risk"]
    return response.status_code == 200 and body["status"] == status


async def test_a_risk_on_another_ledger_is_refused(
    platform: OmsPlatform, tmp_path: Path, account: str
) -> None:
    other = OmsPlatform(tmp_path)
    foreign = other.risk
    foreign._environment.update(
        {
            name: value
            for name, value in platform.risk.environment().items()
            if name.endswith(("URL",)) or "RISK_CHECKS" in name
        }
    )
    foreign._environment["TRADE2026_RISK__LEDGER__DB"] = "3"
    foreign.start()
    try:
        # Not healthy: the journal at hand is not that of its empty ledger. It serves all the same.
        await eventually(lambda: foreign.probe().detail == "unhealthy: ledger", within_sec=20)
        target = {"TRADE2026_OMS__RISK_SERVICE__GRPC_TARGET": other.addresses["risk"]["grpc"]}
        async with WorkerInProcess(platform, target) as worker:
            oms = InProcess(worker.service)
            answer = await oms.call("SubmitOrder", limit_buy(account))
            assert (answer["status"], answer["reason"]) == ("rejected", "risk_error")
            assert "another ledger" in answer["message"]
            assert worker.board.status() == ("unhealthy", ["risk"])
            assert await orders_of(oms, account) == []
    finally:
        foreign.stop()


@pytest.mark.parametrize("broken", ["frozen", "killed"])
async def test_without_fail_closed_an_unanswered_order_is_reserved_unchecked(
    platform: OmsPlatform, account: str, broken: str
) -> None:
    open_door = {**SHORT, "TRADE2026_OMS__RISK_SERVICE__FAIL_CLOSED": "false"}
    async with WorkerInProcess(platform, open_door) as worker:
        oms = InProcess(worker.service)
        denied = await oms.call("SubmitOrder", limit_buy(account, quantity=5))
        assert denied["reason"] == "order_size_limit"
        if broken == "frozen":
            freeze(platform.risk)
        else:
            platform.risk.kill()
        answer = await oms.call("SubmitOrder", limit_buy(account, quantity=5, client_order_id="open-door"))
        assert answer["status"] == "submitted"
        await until_state(oms, answer["order_id"], "filled")
        assert worker.board.status()[0] == "degraded"
        assert "risk_checks" in worker.board.status()[1]


async def test_with_risk_switched_off_orders_pass_unchecked_and_health_says_so(
    platform: OmsPlatform, account: str
) -> None:
    off = {
        "TRADE2026_OMS__RISK_SERVICE__ENABLED": "false",
        "TRADE2026_OMS__ORDER_MANAGEMENT__MAX_OPEN_ORDERS_PER_ACCOUNT": "2",
    }
    async with WorkerInProcess(platform, off) as worker:
        oms = InProcess(worker.service)
        assert worker.board.status() == ("degraded", ["risk_checks"])
        answer = await oms.call("SubmitOrder", limit_buy(account, quantity=5, client_order_id="off"))
        assert answer["status"] == "submitted"
        assert await oms.call("SubmitOrder", limit_buy(account, quantity=5, client_order_id="off")) == answer
        await until_state(oms, answer["order_id"], "filled")
        for number in range(2):
            await oms.call("SubmitOrder", limit_buy(account, price=30000, client_order_id=f"rests-{number}"))
        third = await oms.call("SubmitOrder", limit_buy(account, price=30000))
        assert (third["status"], third["reason"]) == ("rejected", "max_open_orders")
