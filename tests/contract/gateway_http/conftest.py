"""The gateway over real HTTP, in front of servicers in this process or behind a real gRPC server, and with
small requests answered directly."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpcore
import httpx
import pytest
import pytest_asyncio

from gateway_http import Binding, Gateway, create_app, local, remote
from services.runtime.http_direct import Respond
from services.runtime.http_server import serve
from tests.contract.gateway_http.servicers import OrderServicer, RiskServicer, order_servicer, risk_servicer
from trade2026.oms.v1 import order_service_pb2, order_service_pb2_grpc
from trade2026.risk.v1 import risk_service_pb2, risk_service_pb2_grpc

RISK = risk_service_pb2.DESCRIPTOR.services_by_name["RiskService"]
ORDERS = order_service_pb2.DESCRIPTOR.services_by_name["OrderService"]


@dataclass(slots=True)
class Served:
    """A gateway and what is behind it."""

    app: Gateway
    port: int
    client: httpx.AsyncClient
    risk: RiskServicer
    orders: OrderServicer
    remote: bool
    direct: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of what was answered without ASGI."""

    def fresh(self) -> Served:
        """Without a trace of earlier tests."""
        self.risk.forget()
        self.orders.forget()
        self.direct.clear()
        return self


class _WholeRequests(httpcore.AsyncNetworkStream):
    """Sends in one piece what is written before an answer is read."""

    def __init__(self, below: httpcore.AsyncNetworkStream) -> None:
        self._below = below
        self._written = b""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._written += buffer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        written, self._written = self._written, b""
        if written:
            await self._below.write(written, timeout)
        return await self._below.read(max_bytes, timeout)

    async def aclose(self) -> None:
        await self._below.aclose()

    def get_extra_info(self, info: str) -> Any:
        return self._below.get_extra_info(info)


class _WholeRequestsBackend(httpcore.AnyIOBackend):
    async def connect_tcp(self, *args: Any, **kwargs: Any) -> httpcore.AsyncNetworkStream:
        return _WholeRequests(await super().connect_tcp(*args, **kwargs))


def _whole_requests() -> httpx.AsyncHTTPTransport:
    transport = httpx.AsyncHTTPTransport()
    transport._pool = httpcore.AsyncConnectionPool(network_backend=_WholeRequestsBackend())
    return transport


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["in_process", "remote", "direct"])
async def _served(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    async with serving(through_grpc=request.param == "remote", direct=request.param == "direct") as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _in_process() -> AsyncIterator[Served]:
    async with serving(through_grpc=False) as one:
        yield one


@pytest.fixture
def served(_served: Served) -> Served:
    """Every test that takes it runs against both targets, and with direct answers. One server a module,
    forgetful between tests."""
    return _served.fresh()


@pytest.fixture
def in_process(_in_process: Served) -> Served:
    """For what does not depend on the target. One server a module, forgetful between tests."""
    return _in_process.fresh()


@asynccontextmanager
async def serving(*, through_grpc: bool, direct: bool = False) -> AsyncIterator[Served]:
    risk, orders = risk_servicer(), order_servicer()
    server = grpc.aio.server()
    risk_service_pb2_grpc.add_RiskServiceServicer_to_server(risk, server)
    order_service_pb2_grpc.add_OrderServiceServicer_to_server(orders, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        bindings: list[Binding] = (
            [remote(RISK, channel), remote(ORDERS, channel)]
            if through_grpc
            else [local(RISK, risk), local(ORDERS, orders)]
        )
        app = create_app(bindings, title="test", health=lambda: (200, {"status": "healthy"}))
        answered: list[tuple[str, str]] = []

        def find(method: str, path: str) -> Respond | None:
            respond = app.direct(method, path)
            if respond is not None:
                answered.append((method, path))
            return respond

        http = await serve(app, "127.0.0.1", 0, direct=find if direct else None, grace_sec=1)
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{http.port}",
            timeout=10,
            transport=_whole_requests() if direct else None,
        ) as client:
            yield Served(app, http.port, client, risk, orders, through_grpc, answered)
        await app.stop(1)
        await http.stop()
    await server.stop(None)
