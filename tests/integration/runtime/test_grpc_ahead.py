"""How calls are taken: many at a time, making way for urgent ones, or refused at the door."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2

from services.runtime import urgency
from services.runtime.errors import ResourceExhausted, ServiceError
from services.runtime.grpc_engine import GrpcService, Taking, open_server
from services.runtime.grpc_grpcio import CALLS_AHEAD
from services.runtime.health import HealthBoard
from tests.integration.runtime.grpc_server import (
    RISK,
    SERVING,
    Oms,
    Risk,
    Running,
    failure,
    running,
    settings,
    status_of_call,
)
from trade2026.risk.v1 import risk_pb2, risk_service_pb2_grpc

FEW = 32
"""Calls that are surely requested together, while the library alone needs several turns for each."""


class Begun(Risk):
    """Keeps what it was asked to check."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[risk_pb2.CheckRequest] = []

    async def Check(self, request: risk_pb2.CheckRequest, context: Any) -> risk_pb2.CheckResponse:
        self.requests.append(request)
        return risk_pb2.CheckResponse(approved=True)


@pytest.fixture
def risk() -> Begun:
    return Begun()  # type: ignore[abstract] # the other methods are not called


def serving(risk: Risk, engine: str = "grpcio", **ahead: Taking) -> AbstractAsyncContextManager[Running]:
    oms = Oms()  # type: ignore[abstract] # is not called
    return running(engine, risk, oms, HealthBoard(10), ahead={"Check": Taking(), **ahead})


@pytest.fixture
async def server(risk: Begun) -> AsyncIterator[Running]:
    async with serving(risk) as one:
        yield one


async def turns_until_begun(server: Running, risk: Begun, count: int) -> int:
    """Turns of a busy loop until `count` calls that arrived together have begun; all are answered."""
    before = len(risk.requests)
    with grpc.insecure_channel(f"127.0.0.1:{server.server.port}") as channel:
        stub = risk_service_pb2_grpc.RiskServiceStub(channel)
        calls = [stub.Check.future(risk_pb2.CheckRequest()) for _ in range(count)]
        turns = 0
        while len(risk.requests) < before + count:
            # Long enough for the library's threads to do all that they were asked for.
            time.sleep(0.05)  # noqa: ASYNC251
            await asyncio.sleep(0)
            turns += 1
        answers = await asyncio.to_thread(lambda: [call.result(timeout=10) for call in calls])
    assert [answer.approved for answer in answers] == [True] * count
    return turns


def requesting() -> int:
    return sum(task.get_name().startswith("grpc requests") for task in asyncio.all_tasks())


async def test_calls_that_arrived_together_begin_together(server: Running, risk: Begun) -> None:
    assert await turns_until_begun(server, risk, FEW) < FEW


async def test_calls_make_way_while_urgent_ones_come(risk: Begun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urgency, "QUIET_SEC", 60.0)
    async with serving(risk, Reserve=Taking(urgent=True)) as server:
        await server.risk.Reserve(risk_pb2.ReserveRequest())
        # What was requested before is still taken.
        await turns_until_begun(server, risk, CALLS_AHEAD)
        assert await turns_until_begun(server, risk, FEW) > FEW
        stopping = time.monotonic()
        await server.server.stop(0)
        assert time.monotonic() - stopping < 30  # nobody waits for quiet


async def test_calls_are_taken_together_again_some_time_after_the_last_urgent_one(
    risk: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urgency, "QUIET_SEC", 0.05)
    async with serving(risk, Reserve=Taking(urgent=True)) as server:
        await server.risk.Reserve(risk_pb2.ReserveRequest())
        await turns_until_begun(server, risk, CALLS_AHEAD)
        await asyncio.sleep(0.2)
        assert await turns_until_begun(server, risk, FEW) < FEW


async def test_with_an_unknown_version_of_the_library_calls_are_taken_one_at_a_time(
    risk: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc, "__version__", "1.99.0")
    async with serving(risk) as server:
        assert requesting() == 0
        assert await turns_until_begun(server, risk, FEW) > FEW


async def test_a_stop_ends_the_requests_for_calls(server: Running) -> None:
    assert requesting() == CALLS_AHEAD - 1
    await server.server.stop(0)
    assert requesting() == 0


@pytest.mark.parametrize("name", ["Nothing", "check"])
async def test_only_methods_that_exist_are_taken_ahead(risk: Begun, name: str) -> None:
    add = risk_service_pb2_grpc.add_RiskServiceServicer_to_server
    with pytest.raises(TypeError, match=f"{RISK}/{name}"):
        await open_server(settings(), [GrpcService(RISK, add, risk, {name: Taking()})], HealthBoard(10))


@pytest.mark.parametrize("engine", ["grpcio", "native"])
async def test_a_closed_door_refuses_every_call_before_it_begins(risk: Begun, engine: str) -> None:
    refusals: list[ServiceError] = [
        ResourceExhausted("too much waits; nothing was done", retry_after_sec=0.5)
    ]

    def door() -> ServiceError | None:
        return refusals[0] if refusals else None

    async with serving(risk, engine, Check=Taking(door=door)) as server:
        # More than are requested at a time, so that every way in which a call is taken is gone.
        errors = await asyncio.gather(
            *(failure(server.risk.Check(risk_pb2.CheckRequest())) for _ in range(2 * CALLS_AHEAD))
        )
        for error in errors:
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            status = status_of_call(error)
            assert status.message == error.details() == "too much waits; nothing was done"
            retry = error_details_pb2.RetryInfo()
            assert any(detail.Unpack(retry) for detail in status.details)
            assert retry.retry_delay.ToMilliseconds() == 500
        assert not risk.requests
        refusals.clear()
        assert (await server.risk.Check(risk_pb2.CheckRequest())).approved
    assert len(risk.requests) == 1


async def test_a_request_that_is_refused_at_the_door_is_not_read(risk: Begun) -> None:
    refusal = ResourceExhausted("too much waits; nothing was done")
    async with serving(risk, Check=Taking(door=lambda: refusal)) as server:
        call: Any = server.channel.unary_unary(f"/{RISK}/Check")
        errors = await asyncio.gather(*(failure(call(b"\xff no message")) for _ in range(CALLS_AHEAD)))
    # All but those few that came by the library's own request.
    assert Counter(error.code() for error in errors)[grpc.StatusCode.RESOURCE_EXHAUSTED] > CALLS_AHEAD / 2


@pytest.mark.parametrize("engine", ["grpcio", "native"])
async def test_a_door_that_fails_costs_its_call_alone(risk: Begun, engine: str) -> None:
    def door() -> ServiceError | None:
        raise KeyError("a defect")

    async with serving(risk, engine, Check=Taking(door=door)) as server:
        errors = await asyncio.gather(
            *(failure(server.risk.Check(risk_pb2.CheckRequest(), timeout=10)) for _ in range(2 * CALLS_AHEAD))
        )
        assert {(error.code(), error.details()) for error in errors} == {
            (grpc.StatusCode.INTERNAL, "internal error")
        }
        check = health_pb2.HealthCheckRequest(service=RISK)
        assert (await server.health.Check(check, timeout=10)).status == SERVING
