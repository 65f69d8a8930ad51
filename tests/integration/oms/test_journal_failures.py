"""NATS gone, frozen or full: an outcome that is not known is told as unknown, never as a rejection."""

from __future__ import annotations

import asyncio
import json

import pytest
from nats.aio.client import Client

from services.runtime.errors import Code
from services.runtime.streams import EXECUTIONS, LEDGER, ORDERS
from tests.contract.oms.clients import OverRest, Refusal
from tests.integration.oms.orders import limit_buy, market_buy, orders_of, reserved_of, resting, until_state
from tests.integration.oms.platform import OmsPlatform
from tests.support import eventually


async def test_without_nats_an_order_is_unavailable_and_nothing_is_reserved(
    platform: OmsPlatform, oms: OverRest, account: str
) -> None:
    warm = await oms.call("SubmitOrder", market_buy(account))
    await until_state(oms, warm["order_id"], "filled")
    platform.nats.kill()

    async def noticed() -> bool:
        response = await oms._client.get("/health")
        return response.status_code == 503 and "nats" in response.json()["missing"]

    await eventually(noticed)
    for number in range(5):
        with pytest.raises(Refusal) as refused:
            await oms.call("SubmitOrder", limit_buy(account, client_order_id=f"gone-{number}"))
        assert refused.value.code is Code.UNAVAILABLE
        assert refused.value.retry_sec > 0
    platform.nats.start()
    await platform.nats.until_healthy()

    async def accepted() -> str:
        try:
            answer = await oms.call("SubmitOrder", limit_buy(account, client_order_id="gone-0"))
        except Refusal as error:
            raise AssertionError(str(error)) from error
        assert answer["status"] == "submitted", answer
        return str(answer["order_id"])

    order_id = await eventually(accepted, within_sec=20, every_sec=0.2)
    await until_state(oms, order_id, "filled", within_sec=20)
    assert len(await orders_of(oms, account)) == 2


async def test_an_order_that_a_frozen_nats_does_not_acknowledge_is_unknown_and_settled_later(
    platform: OmsPlatform, oms: OverRest, account: str
) -> None:
    warm = await oms.call("SubmitOrder", market_buy(account))
    await until_state(oms, warm["order_id"], "filled")
    order = limit_buy(account, client_order_id="unsure")
    platform.nats.pause()
    with pytest.raises(Refusal) as refused:
        await oms.call("SubmitOrder", order)
    assert refused.value.code is Code.UNAVAILABLE
    order_id = refused.value.metadata["order_id"]
    assert refused.value.metadata["client_order_id"] == "unsure"
    assert refused.value.retry_sec > 0
    with pytest.raises(Refusal) as again:
        await oms.call("SubmitOrder", order)
    assert again.value.code is Code.UNAVAILABLE
    platform.nats.resume()
    told = await until_state(oms, order_id, "filled", "canceled", "rejected", within_sec=30)

    async def asked() -> bool:
        try:
            answer = await oms.call("SubmitOrder", order)
        except Refusal as error:
            raise AssertionError(str(error)) from error
        return bool(answer.get("order_id", order_id) == order_id)

    await eventually(asked, within_sec=20, every_sec=0.2)
    assert len(await orders_of(oms, account)) == 2
    assert (await reserved_of(platform, account)) == (0, {}), told


async def test_an_order_that_the_full_journal_refuses_is_released_and_exhausted(
    platform: OmsPlatform, oms: OverRest, bus: Client, account: str
) -> None:
    warm = await oms.call("SubmitOrder", market_buy(account))
    await until_state(oms, warm["order_id"], "filled")
    js = bus.jetstream()
    before = (await js.stream_info(ORDERS)).config
    # Not by its bytes: that is noticed before it comes to a refusal.
    usual, before.max_msg_size = before.max_msg_size, 1
    await js.update_stream(before)
    try:
        with pytest.raises(Refusal) as refused:
            await oms.call("SubmitOrder", limit_buy(account, client_order_id="full"))
        assert refused.value.code is Code.RESOURCE_EXHAUSTED
        order = (await oms.call("GetOrder", {"order_id": refused.value.metadata["order_id"]}))["order"]
        assert (order["state"], order["reason"]) == ("canceled", "not_published")
        assert await reserved_of(platform, account) == (0, {})
    finally:
        before.max_msg_size = usual
        await js.update_stream(before)
    # Nothing was done, so the same request may be made again.
    answer = await oms.call("SubmitOrder", limit_buy(account, client_order_id="full"))
    assert answer["status"] == "submitted"


@pytest.mark.parametrize("journal", [EXECUTIONS, LEDGER])
async def test_a_journal_without_room_takes_no_new_orders_and_what_works_can_be_canceled(
    platform: OmsPlatform, oms: OverRest, bus: Client, account: str, journal: str
) -> None:
    working = (await oms.call("SubmitOrder", resting(account)))["order_id"]
    await until_state(oms, working, "new")
    js = bus.jetstream()
    for number in range(100):
        # Reports of orders that nobody knows: ignored, but kept, and told in LEDGER.
        report = {"exec_id": f"x-{number}", "account": account, "order_id": "x" * 200, "kind": "accepted"}
        payload = json.dumps({**report, "reason": "x" * 500}).encode()
        await js.publish(f"executions.{account}", payload)

    async def told() -> bool:
        return (await js.stream_info(LEDGER)).state.bytes > 30_000

    await eventually(told, within_sec=20)
    info = await js.stream_info(journal)
    usual, info.config.max_bytes = info.config.max_bytes, int(info.state.bytes / 0.955)
    await js.update_stream(info.config)
    try:

        async def noticed() -> bool:
            health = await oms._client.get("/health")
            return health.status_code == 503 and health.json()["missing"] == ["journals"]

        await eventually(noticed, within_sec=10)
        with pytest.raises(Refusal) as refused:
            await oms.call("SubmitOrder", limit_buy(account, client_order_id="no-room"))
        assert refused.value.code is Code.RESOURCE_EXHAUSTED
        assert refused.value.retry_sec > 0
        await oms.call("CancelOrder", {"order_id": working})
        await until_state(oms, working, "canceled")
        assert (await reserved_of(platform, account))[0] == 0
    finally:
        info.config.max_bytes = usual
        await js.update_stream(info.config)

    async def taken() -> bool:
        try:
            answer = await oms.call("SubmitOrder", limit_buy(account, client_order_id="no-room"))
        except Refusal as refusal:
            raise AssertionError(str(refusal)) from refusal
        return bool(answer["status"] == "submitted")

    await eventually(taken, within_sec=10, every_sec=0.2)
    assert (await oms._client.get("/health")).status_code == 200


async def test_orders_and_fills_survive_a_restart_of_nats(
    platform: OmsPlatform, oms: OverRest, account: str
) -> None:
    submitted: list[str] = []
    refusals: list[Refusal] = []

    async def keep_sending() -> None:
        for number in range(60):
            try:
                answer = await oms.call(
                    "SubmitOrder", market_buy(account, client_order_id=f"through-{number}")
                )
            except Refusal as error:
                refusals.append(error)
            else:
                assert answer["status"] == "submitted", answer
                submitted.append(answer["order_id"])
            await asyncio.sleep(0.05)

    sending = asyncio.create_task(keep_sending())
    await asyncio.sleep(0.8)
    platform.nats.kill()
    await asyncio.sleep(0.3)
    platform.nats.start()
    await platform.nats.until_healthy()
    await sending
    assert len(submitted) > 10
    assert {error.code for error in refusals} <= {Code.UNAVAILABLE}

    async def settled() -> bool:
        orders = {order["order_id"]: order["state"] for order in await orders_of(oms, account)}
        assert set(submitted) <= set(orders)
        wrong = {
            one: state for one, state in orders.items() if state not in ("filled", "canceled", "rejected")
        }
        assert not wrong, wrong
        assert {orders[one] for one in submitted} == {"filled"}
        return True

    await eventually(settled, within_sec=30, every_sec=0.3)
    filled = [order for order in await orders_of(oms, account) if order["state"] == "filled"]
    positions = await oms.call("GetPositions", {"account": account})
    assert positions["BTCUSDT"]["quantity"] == sum(order["cumulative_quantity"] for order in filled)
