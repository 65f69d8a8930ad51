"""The client that is shipped, against the platform: outcomes learned, events followed, over outages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal

import grpc
import pytest

from tests.contract.oms.clients import OverRest
from tests.integration.oms.orders import orders_of
from tests.integration.oms.platform import OmsPlatform, kill_workers
from tests.support import eventually
from trade2026.client import OmsClient, OutcomeUnknown, RiskClient, exact, new_order
from trade2026.oms.v1 import order_pb2
from trade2026.risk.v1 import risk_pb2
from trade2026.type.v1 import order_pb2 as type_pb2


@pytest.fixture
async def client(platform: OmsPlatform) -> AsyncIterator[OmsClient]:
    async with OmsClient(platform.addresses["oms"]["grpc"]) as client:
        yield client


async def test_an_order_is_submitted_seen_and_canceled(client: OmsClient, account: str) -> None:
    order = new_order(account, "BTCUSDT", "sell", Decimal("0.1"), price=52_000)
    answer = await client.submit(order)
    assert answer.status == order_pb2.SUBMIT_STATUS_SUBMITTED
    assert answer.client_order_id == order.client_order_id != ""
    assert (await client.submit(order)).order_id == answer.order_id
    canceled = await client.cancel(answer.order_id)
    assert canceled.state == type_pb2.ORDER_STATE_PENDING_CANCEL

    async def ended() -> bool:
        return (await client.order(answer.order_id)).state == type_pb2.ORDER_STATE_CANCELED

    await eventually(ended, within_sec=10)
    with pytest.raises(grpc.aio.AioRpcError) as ended_before:
        await client.cancel(answer.order_id)
    assert ended_before.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_group_is_submitted_once_however_often_it_is_asked_for(
    client: OmsClient, account: str
) -> None:
    quantity = Decimal("0.1")
    orders = [
        new_order(account, "BTCUSDT", "buy", quantity),
        new_order(account, "BTCUSDT", "sell", quantity, price=52_000),
        new_order(account, "BTCUSDT", "sell", quantity, type="stop", stop_price=40_000),
    ]
    first = await client.submit_group("bracket", orders)
    assert [one.status for one in first] == [order_pb2.SUBMIT_STATUS_SUBMITTED] * 3

    async def working() -> bool:
        exits = [await client.order(one.order_id) for one in first[1:]]
        return all(one.state == type_pb2.ORDER_STATE_NEW for one in exits)

    await eventually(working, within_sec=10)
    assert await client.submit_group("bracket", orders) == first
    assert len(await client.cancel_all(account)) == 2


async def test_an_order_is_amended_and_canceled_with_all_others(client: OmsClient, account: str) -> None:
    order = new_order(account, "BTCUSDT", "sell", Decimal("0.1"), price=52_000)
    order_id = (await client.submit(order)).order_id

    async def in_state(state: type_pb2.OrderState.ValueType) -> order_pb2.Order:
        async def reached() -> order_pb2.Order:
            held = await client.order(order_id)
            assert held.state == state, held
            return held

        held: order_pb2.Order = await eventually(reached, within_sec=10)
        return held

    await in_state(type_pb2.ORDER_STATE_NEW)
    asked = await client.replace(order_id, quantity=Decimal("0.2"))
    assert (asked.state, asked.revision) == (type_pb2.ORDER_STATE_PENDING_REPLACE, 1)
    assert (await in_state(type_pb2.ORDER_STATE_NEW)).quantity.value == "0.2"
    assert await client.cancel_all(account) == [order_id]
    await in_state(type_pb2.ORDER_STATE_CANCELED)


async def test_the_outcome_is_learned_over_a_kill_of_the_workers(
    platform: OmsPlatform, client: OmsClient, oms: OverRest, account: str
) -> None:
    async def one(number: int) -> order_pb2.SubmitOrderResponse:
        order = new_order(account, "BTCUSDT", "buy", Decimal("0.01"), client_order_id=f"learn-{number}")
        return await client.submit(order)

    tasks = [asyncio.create_task(one(number)) for number in range(60)]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    kill_workers(platform.oms)
    answers = await asyncio.gather(*tasks)
    submitted = {answer.client_order_id: answer.order_id for answer in answers if answer.order_id}
    for answer in answers:
        # What died between its reservation and its sending never reached the venue.
        if not answer.order_id:
            assert answer.reason == type_pb2.DENIAL_REASON_NOT_PUBLISHED, answer

    async def booked() -> bool:
        positions = await client.positions(account)
        orders = await orders_of(oms, account)
        assert len({order["client_order_id"] for order in orders}) == len(orders) == 60
        filled = 0
        for order in orders:
            assert order["state"] in ("filled", "canceled"), order
            if order["client_order_id"] in submitted:
                assert order["order_id"] == submitted[order["client_order_id"]]
            else:
                assert order["state"] == "canceled", order
            filled += order["state"] == "filled"
        assert Decimal(positions["BTCUSDT"].quantity.value) == filled * Decimal("0.01")
        return True

    await eventually(booked, within_sec=40, every_sec=0.5)


async def test_an_outcome_that_stays_unknown_is_told_as_such(
    platform: OmsPlatform, client: OmsClient, account: str
) -> None:
    platform.nats.kill()
    with pytest.raises(OutcomeUnknown) as unknown:
        await client.submit(new_order(account, "BTCUSDT", "buy", 1, client_order_id="dark"), within_sec=1.5)
    assert unknown.value.client_order_id == "dark"


async def test_events_are_followed_without_gap_over_a_kill_of_the_workers(
    platform: OmsPlatform, client: OmsClient, account: str
) -> None:
    seen: list[int] = []

    async def follow() -> None:
        stream = client.executions(account, heartbeat_sec=1)
        while True:
            seen.append((await anext(stream)).sequence)

    following = asyncio.create_task(follow())
    try:
        for number in range(3):
            answer = await client.submit(new_order(account, "BTCUSDT", "buy", Decimal("0.01")))
            assert answer.status == order_pb2.SUBMIT_STATUS_SUBMITTED
            if number == 1:
                kill_workers(platform.oms)
        await eventually(lambda: len(seen) >= 8, within_sec=30)
        assert seen == list(range(1, len(seen) + 1))
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_a_check_is_evaluated(platform: OmsPlatform, account: str) -> None:
    request = risk_pb2.CheckRequest(
        account=account, symbol="BTCUSDT", side=type_pb2.SIDE_BUY, quantity=exact(Decimal("0.1"))
    )
    async with RiskClient(platform.addresses["risk"]["grpc"]) as risk:
        assert (await risk.check(request)).approved


def test_a_binary_float_is_no_exact_number() -> None:
    with pytest.raises(TypeError):
        exact(0.1)  # type: ignore[arg-type]
