"""Who goes away, and what goes on all the same."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from gateway_http import create_app, local
from services.runtime.http_server import serve
from tests.contract.gateway_http.conftest import ORDERS, RISK, Served
from tests.contract.gateway_http.servicers import Bound, order_servicer, risk_servicer
from trade2026.risk.v1 import risk_pb2

CALL = b"POST /check HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Slow:
    """A behaviour that waits until it is told to go on, and remembers how it ended."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        self.outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def __call__(self, _: Any, context: Any) -> Any:
        self.entered.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.outcome.set_result("cancelled")
            raise
        self.outcome.set_result("finished")
        return risk_pb2.CheckResponse(approved=True)


async def test_a_client_that_leaves_does_not_interrupt_its_call(served: Served) -> None:
    slow = served.risk.behaviour = Slow()
    _, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(CALL)
    async with asyncio.timeout(5):
        await slow.entered.wait()
        writer.transport.abort()
        # The server has seen it once it answers somebody else.
        served.risk.behaviour = None
        assert (await served.client.post("/check", content="{}")).status_code == 200
        slow.release.set()
        assert await slow.outcome == "finished"


async def test_a_server_that_cancels_its_handler_does_not_interrupt_the_call() -> None:
    servicer, slow = risk_servicer(), Slow()
    servicer.behaviour = slow
    app = create_app([local(RISK, servicer)], title="test", health=lambda: (200, {}))

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(_: Any) -> None:
        raise AssertionError("a cancelled request is not answered")

    path = "/accounts/a/limits"
    scope = {"type": "http", "method": "PATCH", "path": path, "query_string": b"", "headers": []}
    request = asyncio.create_task(app(scope, receive, send))
    async with asyncio.timeout(5):
        await slow.entered.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        slow.release.set()
        assert await slow.outcome == "finished"


@pytest.mark.parametrize(
    ("method", "path", "outcome"),
    [
        ("PATCH", "/accounts/a/limits", "finished"),
        # Nobody minds that reading is given up; what may have changed something has gone on.
        ("GET", "/accounts/a/limits", "cancelled"),
        ("POST", "/check", "cancelled"),
    ],
)
async def test_a_cancelled_handler_leaves_nothing_counted(method: str, path: str, outcome: str) -> None:
    servicer, slow, bound = risk_servicer(), Slow(), Bound(10)
    servicer.behaviour = slow
    app = create_app([local(RISK, servicer)], title="test", health=lambda: (200, {}), admission=bound)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(_: Any) -> None:
        raise AssertionError("a cancelled request is not answered")

    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": []}
    request = asyncio.create_task(app(scope, receive, send))
    async with asyncio.timeout(5):
        await slow.entered.wait()
        assert bound.in_flight == 1
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        slow.release.set()
        assert await slow.outcome == outcome
        await app.stop(5)
    assert bound.in_flight == 0


async def test_a_stop_waits_for_running_calls_and_takes_no_new_ones() -> None:
    servicer, slow = risk_servicer(), Slow()
    servicer.behaviour = slow
    app = create_app([local(RISK, servicer)], title="test", health=lambda: (503, {"status": "unhealthy"}))
    http = await serve(app, "127.0.0.1", 0)
    async with asyncio.timeout(10), httpx.AsyncClient(base_url=f"http://127.0.0.1:{http.port}") as client:
        running = asyncio.create_task(client.post("/check", content="{}"))
        await slow.entered.wait()
        stopping = asyncio.create_task(app.stop(5))
        await asyncio.sleep(0)
        refused = await client.post("/check", content="{}")
        assert (refused.status_code, refused.json()["details"][0]["reason"]) == (503, "STOPPING")
        assert (await client.get("/health")).status_code == 503
        assert not stopping.done()
        slow.release.set()
        await stopping
        assert (await running).status_code == 200
        await http.stop()


async def test_a_stop_gives_up_after_its_grace() -> None:
    servicer, slow = risk_servicer(), Slow()
    servicer.behaviour = slow
    app = create_app([local(RISK, servicer)], title="test", health=lambda: (200, {}))
    http = await serve(app, "127.0.0.1", 0, grace_sec=1)
    async with asyncio.timeout(10), httpx.AsyncClient(base_url=f"http://127.0.0.1:{http.port}") as client:
        running = asyncio.create_task(client.post("/check", content="{}"))
        await slow.entered.wait()
        await app.stop(0.01)
        slow.release.set()
        assert (await running).status_code == 200
        await http.stop()


async def test_a_stop_ends_the_streams() -> None:
    servicer = order_servicer()

    async def silent(_: Any, __: Any) -> Any:
        await asyncio.Event().wait()
        yield

    servicer.events = silent
    app = create_app([local(ORDERS, servicer)], title="test", health=lambda: (200, {}))
    http = await serve(app, "127.0.0.1", 0)
    base = f"http://127.0.0.1:{http.port}"
    async with (
        asyncio.timeout(10),
        httpx.AsyncClient(base_url=base) as client,
        client.stream("GET", "/executions?account=a") as response,
    ):
        assert response.status_code == 200
        await app.stop(5)
        assert servicer.streams_ended.is_set()
        assert [line async for line in response.aiter_lines()] == []
    await http.stop()
