"""Amendments while something else fails: none is lost, none is made twice, nothing stays reserved."""

from __future__ import annotations

import asyncio
import itertools
import json
from decimal import Decimal
from typing import Any

import grpc
import httpx
import pytest
from nats.aio.client import Client

from services.runtime.errors import Code
from tests.contract.oms.clients import InProcess, OverRest, Refusal
from tests.contract.oms.test_amendments import until_revision, working
from tests.integration.oms.orders import reserved_of, until_state
from tests.integration.oms.platform import OmsPlatform, freeze, kill_workers, thaw
from tests.integration.oms.test_risk_failures import SHORT
from tests.integration.oms.test_worker_death import sent
from tests.integration.oms.worker import WorkerInProcess
from tests.support import eventually
from trade2026.risk.v1 import risk_pb2, risk_service_pb2_grpc
from trade2026.type.v1 import order_pb2 as type_pb2


async def reserve_amendment_alone(platform: OmsPlatform, account: str, order_id: str, quantity: str) -> None:
    """What a worker leaves that dies between the reservation of new terms and their publication."""
    request = risk_pb2.ReserveRequest(
        account=account,
        symbol="BTCUSDT",
        side=type_pb2.SIDE_SELL,
        type=type_pb2.ORDER_TYPE_LIMIT,
        order_id=order_id,
        digest="of-a-dead-worker",
        replaces=risk_pb2.Replaces(order_id=order_id, revision=1),
    )
    request.quantity.value = quantity
    request.price.value = "52000"
    async with grpc.aio.insecure_channel(platform.addresses["risk"]["grpc"]) as channel:
        answer = await risk_service_pb2_grpc.RiskServiceStub(channel).Reserve(request)
    assert answer.approved


async def test_an_amendment_reserved_by_a_dead_worker_is_sent_and_made(
    platform: OmsPlatform, oms: OverRest, bus: Client, account: str
) -> None:
    order_id = await working(oms, account)
    await reserve_amendment_alone(platform, account, order_id, "0.2")
    repeated = (await oms.call("ReplaceOrder", {"order_id": order_id, "quantity": 0.2}))["order"]
    assert repeated["state"] == "pending_replace"
    order = await until_state(oms, order_id, "new", within_sec=15)
    assert (order["quantity"], order["revision"]) == (Decimal("0.2"), 1)
    assert await sent(bus, order_id) == [f"new:{order_id}", f"replace:{order_id}:1"]
    assert (await reserved_of(platform, account))[0] == 1


async def test_a_frozen_risk_changes_nothing_and_the_next_amendment_goes_through(
    platform: OmsPlatform, account: str
) -> None:
    async with WorkerInProcess(platform, SHORT) as worker:
        oms = InProcess(worker.service)
        order_id = await working(oms, account)
        freeze(platform.risk)
        with pytest.raises(Refusal) as refused:
            await oms.call("ReplaceOrder", {"order_id": order_id, "quantity": 0.2})
        assert (refused.value.code, refused.value.reason) == (Code.UNAVAILABLE, "RISK_TIMEOUT")
        thaw(platform.risk)

        async def amended() -> Any:
            try:
                return await oms.call("ReplaceOrder", {"order_id": order_id, "quantity": 0.3})
            except Refusal as error:
                raise AssertionError(str(error)) from error

        # The late reservation of 0.2 finds its number used, whenever risk comes to it.
        await eventually(amended, within_sec=10)
        order = await until_state(oms, order_id, "new")
        assert order["quantity"] == Decimal("0.3")
        assert order["revision"] > 1


async def test_an_amendment_in_flight_holds_both_terms_and_lets_no_second_one_in(
    platform: OmsPlatform, oms: OverRest, account: str
) -> None:
    order_id = await working(oms, account)
    freeze(platform.venue)
    await oms.call("ReplaceOrder", {"order_id": order_id, "quantity": 0.3})
    _, held = await reserved_of(platform, account)
    assert Decimal(str(held["BTCUSDT"]["open_sell"])) == Decimal("0.3")
    with pytest.raises(Refusal) as refused:
        await oms.call("ReplaceOrder", {"order_id": order_id, "quantity": 0.4})
    assert (refused.value.code, refused.value.reason) == (Code.FAILED_PRECONDITION, "AMENDMENT_IN_FLIGHT")
    thaw(platform.venue)
    assert (await until_revision(oms, order_id, 1))["quantity"] == Decimal("0.3")


async def test_a_cancel_while_an_amendment_is_in_flight_ends_the_order_and_releases_everything(
    platform: OmsPlatform, oms: OverRest, account: str
) -> None:
    order_id = await working(oms, account)
    freeze(platform.venue)
    await oms.call("ReplaceOrder", {"order_id": order_id, "quantity": 0.3})
    canceled = (await oms.call("CancelOrder", {"order_id": order_id}))["order"]
    assert canceled["state"] == "pending_cancel"
    thaw(platform.venue)
    await until_state(oms, order_id, "canceled")
    assert await reserved_of(platform, account) == (0, {})


async def test_an_amendment_that_a_silent_venue_does_not_answer_is_sent_again_and_made_once(
    platform: OmsPlatform, oms: OverRest, bus: Client, account: str
) -> None:
    order_id = await working(oms, account)
    freeze(platform.venue)
    await oms.call("ReplaceOrder", {"order_id": order_id, "quantity": 0.2})
    before = platform.metric("oms_repeated_amendments_total")
    await eventually(
        lambda: platform.metric("oms_repeated_amendments_total") > before, within_sec=15, every_sec=0.3
    )
    thaw(platform.venue)
    order = await until_revision(oms, order_id, 1)
    assert (order["state"], order["quantity"]) == ("new", Decimal("0.2"))
    assert await sent(bus, order_id) == [f"new:{order_id}", f"replace:{order_id}:1"]


async def test_of_amendments_by_many_clients_at_once_each_revision_is_one_of_them(
    oms: OverRest, account: str
) -> None:
    order_id = await working(oms, account)
    made = 0
    for round_number in range(1, 6):
        asked = [{"order_id": order_id, "quantity": Decimal(f"0.{round_number}{n}")} for n in range(1, 9)]
        answers = await asyncio.gather(
            *(oms.call("ReplaceOrder", one) for one in asked), return_exceptions=True
        )
        refusals = [one for one in answers if isinstance(one, Refusal)]
        assert {one.reason for one in refusals} <= {"AMENDMENT_IN_FLIGHT", "REVISION_USED"}
        made += len(answers) - len(refusals)
        order = await until_state(oms, order_id, "new")
        assert order["revision"] == made > 0
        accepted = {one["order"]["revision"] for one in answers if isinstance(one, dict)}
        assert len(accepted) == len(answers) - len(refusals)
        assert order["quantity"] in {one["quantity"] for one in asked}


async def test_workers_killed_during_amendments_leave_every_order_as_the_venue_has_it(
    platform: OmsPlatform, oms: OverRest, bus: Client, account: str
) -> None:
    order_ids = [await working(oms, account, quantity=0.1, time_in_force="gtc") for _ in range(6)]
    over = asyncio.Event()
    codes: set[Code] = set()

    async def amend(order_id: str) -> None:
        for number in itertools.count(1):
            if over.is_set():
                return
            asked = {"order_id": order_id, "quantity": Decimal(number % 50 + 1) / 100}
            try:
                await oms.call("ReplaceOrder", asked)
            except Refusal as error:
                codes.add(error.code)
            except httpx.TransportError:
                continue

    amending = [asyncio.create_task(amend(order_id)) for order_id in order_ids]
    for _ in range(2):
        await asyncio.sleep(1)
        kill_workers(platform.oms)
    await asyncio.sleep(1)
    over.set()
    await asyncio.gather(*amending)
    assert codes <= {Code.FAILED_PRECONDITION, Code.ABORTED, Code.UNAVAILABLE}
    orders = [await until_state(oms, order_id, "new", within_sec=30) for order_id in order_ids]
    answer = await bus.request("venue.orders", json.dumps({"account": account}).encode(), timeout=5)
    at_venue = {one["order_id"]: one for one in json.loads(answer.data, parse_float=Decimal)["orders"]}
    for order in orders:
        told = at_venue[order["order_id"]]
        assert Decimal(told["quantity"]) == order["quantity"], (told, order)
    assert max(order["revision"] for order in orders) > 1
    canceled = await oms.call("CancelAllOrders", {"account": account})
    assert canceled["order_ids"] == sorted(order_ids)
    for order_id in order_ids:
        await until_state(oms, order_id, "canceled")
    assert await reserved_of(platform, account) == (0, {})


async def test_an_amendment_and_a_cancel_are_not_dropped_as_duplicates_of_their_order(
    oms: OverRest, bus: Client, account: str
) -> None:
    order_id = await working(oms, account)
    await oms.call("ReplaceOrder", {"order_id": order_id, "quantity": 0.2})
    await until_revision(oms, order_id, 1)
    await oms.call("CancelOrder", {"order_id": order_id})
    await until_state(oms, order_id, "canceled")
    kinds = [f"new:{order_id}", f"replace:{order_id}:1", f"cancel:{order_id}:1"]
    assert await sent(bus, order_id) == kinds


async def test_with_risk_switched_off_an_amendment_passes_unchecked(
    platform: OmsPlatform, account: str
) -> None:
    async with WorkerInProcess(platform, {"TRADE2026_OMS__RISK_SERVICE__ENABLED": "false"}) as worker:
        oms = InProcess(worker.service)
        order_id = await working(oms, account)
        await oms.call("ReplaceOrder", {"order_id": order_id, "quantity": 5})
        assert (await until_revision(oms, order_id, 1))["quantity"] == 5
        await oms.call("CancelOrder", {"order_id": order_id})
        await until_state(oms, order_id, "canceled")
