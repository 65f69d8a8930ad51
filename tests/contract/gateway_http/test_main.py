"""`python -m gateway_http`: a process of its own in front of a gRPC address."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import httpx
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from gateway_http.__main__ import _arguments
from tests.contract.gateway_http.servicers import order_servicer, risk_servicer
from tests.support import eventually
from trade2026.oms.v1 import order_service_pb2_grpc
from trade2026.risk.v1 import risk_service_pb2_grpc


@asynccontextmanager
async def running(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, httpx.AsyncClient]]:
    """The process, and a client of the port that it chose."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway_http", "--port", "0", *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            async for line in process.stdout:
                record = json.loads(line)
                if record["message"] == "gateway ready":
                    port = record["port"]
                    break
            else:
                raise AssertionError("the process ended before it was ready")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            yield process, client
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_it_serves_both_services_and_follows_the_health_of_its_target() -> None:
    risk, orders, board = risk_servicer(), order_servicer(), health.aio.HealthServicer()
    server = grpc.aio.server()
    risk_service_pb2_grpc.add_RiskServiceServicer_to_server(risk, server)
    order_service_pb2_grpc.add_OrderServiceServicer_to_server(orders, server)
    health_pb2_grpc.add_HealthServicer_to_server(board, server)
    await board.set("", health_pb2.HealthCheckResponse.SERVING)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with running("--target", f"127.0.0.1:{port}") as (process, client):
        assert (await client.post("/check", content='{"quantity":0.10}')).content == b'{"approved":true}'
        assert risk.requests[0].quantity.value == "0.10"
        submitted = await client.post("/orders", content="{}")
        assert submitted.content == b'{"status":"submitted","order_id":"a-1"}'
        assert (await client.post("/reconcile", content="{}")).status_code == 501
        assert (await client.get("/health")).json() == {"status": "healthy"}
        await server.stop(None)

        async def unhealthy() -> bool:
            return (await client.get("/health")).status_code == 503

        await eventually(unhealthy, within_sec=15)
        assert (await client.post("/check", content="{}")).status_code == 503
        assert (await client.get("/live")).status_code == 200
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(15):
            assert await process.wait() == 0


def test_targets_may_be_named() -> None:
    arguments = _arguments(["--target", "risk=h:1", "--target", "oms=[::1]:2", "--port", "8080"])
    assert arguments.target == [("risk", "h:1"), ("oms", "[::1]:2")]
    assert _arguments(["--target", "h:1", "--port", "1"]).target == [("", "h:1")]


@pytest.mark.parametrize("words", [[], ["--target", "other=h:1"], ["--target", "risk="], ["--target", "h:1"]])
def test_wrong_arguments_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        _arguments([*words, *([] if words == ["--target", "h:1"] else ["--port", "1"])])
