"""Real gRPC servers of each engine, whose servicers do what a test wants."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from services.runtime.admission import Admission
from services.runtime.grpc_engine import GrpcServer, GrpcService, Taking, open_server
from services.runtime.health import HealthBoard
from services.runtime.settings import ServiceSettings
from trade2026.oms.v1 import order_pb2, order_service_pb2_grpc
from trade2026.risk.v1 import risk_pb2, risk_service_pb2_grpc

RISK = "trade2026.risk.v1.RiskService"
OMS = "trade2026.oms.v1.OrderService"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING

Behaviour = Callable[[Any, Any], Awaitable[Any]]


class Risk(risk_service_pb2_grpc.RiskServiceServicer):
    """Does in `Check` what a test wants."""

    def __init__(self) -> None:
        self.behaviour: Behaviour | None = None

    async def Reserve(self, request: risk_pb2.ReserveRequest, context: Any) -> risk_pb2.ReserveResponse:
        return risk_pb2.ReserveResponse(approved=True)

    async def Check(self, request: risk_pb2.CheckRequest, context: Any) -> risk_pb2.CheckResponse:
        if self.behaviour is not None:
            await self.behaviour(request, context)
        return risk_pb2.CheckResponse(approved=True)


class Oms(order_service_pb2_grpc.OrderServiceServicer):
    """Streams what a test wants."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    async def StreamExecutions(
        self, request: order_pb2.StreamExecutionsRequest, context: Any
    ) -> AsyncIterator[order_pb2.StreamExecutionsResponse]:
        yield order_pb2.StreamExecutionsResponse()
        if self.error is not None:
            raise self.error
        await asyncio.Event().wait()


class Running:
    """A server with its parts and a channel to it."""

    def __init__(self, server: GrpcServer, channel: grpc.aio.Channel, admission: Admission) -> None:
        self.server = server
        self.channel = channel
        self.admission = admission
        self.risk = risk_service_pb2_grpc.RiskServiceStub(channel)
        self.oms = order_service_pb2_grpc.OrderServiceStub(channel)
        self.health: Any = health_pb2_grpc.HealthStub(channel)


def settings(**changes: Any) -> ServiceSettings:
    return ServiceSettings(**{"name": "risk", "port": 0, "grpc_port": 0, **changes})


@asynccontextmanager
async def running(
    engine: str,
    risk: Risk,
    oms: Oms,
    board: HealthBoard,
    limit: int = 20_000,
    ahead: Mapping[str, Taking] = MappingProxyType({"Check": Taking()}),
) -> AsyncIterator[Running]:
    admission = Admission(limit)
    services = [
        GrpcService(RISK, risk_service_pb2_grpc.add_RiskServiceServicer_to_server, risk, ahead),
        GrpcService(OMS, order_service_pb2_grpc.add_OrderServiceServicer_to_server, oms),
    ]
    server = await open_server(settings(grpc_engine=engine), services, board, admission=admission)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield Running(server, channel, admission)
    await server.stop(0)


async def failure(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def status_of_call(error: Any) -> Any:
    """google.rpc.Status of a failed call."""
    status = rpc_status.from_call(error)
    assert status is not None
    return status


def raising(error: Exception) -> Behaviour:
    async def fail(request: Any, context: Any) -> None:
        raise error

    return fail
