"""The gateway over real HTTP, in front of servicers in this process or behind a real gRPC server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import httpx
import pytest
import pytest_asyncio

from gateway_http import Binding, Gateway, create_app, local, remote
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

    def fresh(self) -> Served:
        """Without a trace of earlier tests."""
        self.risk.forget()
        self.orders.forget()
        return self


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["in_process", "remote"])
async def _served(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    async with serving(through_grpc=request.param == "remote") as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _in_process() -> AsyncIterator[Served]:
    async with serving(through_grpc=False) as one:
        yield one


@pytest.fixture
def served(_served: Served) -> Served:
    """Every test that takes it runs against both targets. One server a module, forgetful between tests."""
    return _served.fresh()


@pytest.fixture
def in_process(_in_process: Served) -> Served:
    """For what does not depend on the target. One server a module, forgetful between tests."""
    return _in_process.fresh()


@asynccontextmanager
async def serving(*, through_grpc: bool) -> AsyncIterator[Served]:
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
        http = await serve(app, "127.0.0.1", 0, grace_sec=1)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{http.port}", timeout=10) as client:
            yield Served(app, http.port, client, risk, orders, through_grpc)
        await app.stop(1)
        await http.stop()
    await server.stop(None)
