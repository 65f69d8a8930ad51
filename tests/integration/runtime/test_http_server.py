"""The HTTP server in the worker's loop, called by a real client."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from services.runtime.http_server import (
    ACCEPTED_A_TURN,
    AT_ONCE_BYTES,
    SILENT_PEER_SEC,
    HttpServer,
    JoinedWrites,
    bind,
    serve,
)
from services.runtime.local_stack import free_ports
from tests.support import eventually

HOST = "127.0.0.1"


class App:
    """An application with a request that waits for the test."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        self.asgi = Starlette(
            routes=[Route("/now", self.now), Route("/wait", self.wait), Route("/broken", self.broken)]
        )

    async def now(self, request: Request) -> JSONResponse:
        return JSONResponse({"ok": True})

    async def wait(self, request: Request) -> JSONResponse:
        self.entered.set()
        await self.release.wait()
        return JSONResponse({"ok": True})

    async def broken(self, request: Request) -> JSONResponse:
        raise KeyError("password=hunter2")


@pytest.fixture
async def app() -> App:
    return App()


@pytest.fixture
async def server(app: App) -> AsyncIterator[HttpServer]:
    one = await serve(app.asgi, HOST, 0)
    yield one
    await one.stop()


@pytest.fixture
async def client(server: HttpServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://{HOST}:{server.port}", timeout=5) as one:
        yield one


async def test_a_request_is_answered_as_soon_as_serve_returns(client: httpx.AsyncClient) -> None:
    response = await client.get("/now")
    assert (response.status_code, response.json()) == (200, {"ok": True})


async def test_an_exception_of_the_application_is_500_without_its_text(client: httpx.AsyncClient) -> None:
    response = await client.get("/broken")
    assert response.status_code == 500
    assert "hunter2" not in response.text
    assert (await client.get("/now")).status_code == 200


async def test_signals_stay_with_the_worker(client: httpx.AsyncClient) -> None:
    assert (await client.get("/now")).status_code == 200
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def test_stopping_lets_an_open_request_finish_and_takes_no_new_one(
    app: App, server: HttpServer, client: httpx.AsyncClient
) -> None:
    request = asyncio.create_task(client.get("/wait"))
    await app.entered.wait()
    stopping = asyncio.create_task(server.stop())

    async def refused() -> bool:
        try:
            async with httpx.AsyncClient() as other:
                await other.get(f"http://{HOST}:{server.port}/now", timeout=1)
        except httpx.TransportError:
            return True
        return False

    await eventually(refused)
    assert not stopping.done()
    app.release.set()
    assert (await request).status_code == 200
    await asyncio.wait_for(stopping, 5)


async def test_a_request_that_outlasts_the_grace_does_not_hold_up_the_stop(app: App) -> None:
    server = await serve(app.asgi, HOST, 0, grace_sec=1)
    async with httpx.AsyncClient() as client:
        request = asyncio.create_task(client.get(f"http://{HOST}:{server.port}/wait", timeout=20))
        await app.entered.wait()
        await asyncio.wait_for(server.stop(), 4)
        outcome = await asyncio.gather(request, return_exceptions=True)
    assert not isinstance(outcome[0], httpx.Response) or outcome[0].status_code >= 500


async def test_a_taken_port_is_an_error(app: App, server: HttpServer) -> None:
    with pytest.raises(OSError, match="in use"):
        await serve(app.asgi, HOST, server.port)


async def test_several_workers_share_a_port(app: App) -> None:
    (port,) = free_ports(1)
    servers = [await serve(app.asgi, HOST, port, reuse_port=True) for _ in range(2)]
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"http://{HOST}:{port}/now")).status_code == 200
    for one in servers:
        await one.stop()


def test_a_busy_loop_accepts_many_connections_a_turn() -> None:
    """On the loop that the services use, which accepts one connection of a socket a turn."""

    async def turns_until_answered(count: int) -> int:
        server = await serve(App().asgi, HOST, 0)
        connections = [socket.create_connection((HOST, server.port)) for _ in range(count)]
        for connection in connections:
            connection.setblocking(False)
            connection.send(b"GET /now HTTP/1.1\r\nHost: here\r\n\r\n")
        turns = 0
        waiting = set(connections)
        while waiting:
            turns += 1
            await asyncio.sleep(0)
            for connection in tuple(waiting):
                with contextlib.suppress(BlockingIOError):
                    assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
                    waiting.discard(connection)
        for connection in connections:
            connection.close()
        await server.stop()
        return turns

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        alone = runner.run(turns_until_answered(1))
        assert runner.run(turns_until_answered(ACCEPTED_A_TURN * 4)) < alone + ACCEPTED_A_TURN


async def test_a_server_that_dies_tells_its_owner(app: App) -> None:
    failures: list[BaseException] = []
    server = await serve(app.asgi, HOST, 0, on_failure=failures.append)
    await server.stop()
    assert failures == []

    server = await serve(app.asgi, HOST, 0, on_failure=failures.append)
    server._server.on_tick = _fail_tick  # type: ignore[method-assign]
    await eventually(lambda: len(failures) == 1)
    assert isinstance(failures[0], ValueError)


async def _fail_tick(counter: int) -> bool:
    raise ValueError("boom")


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system has no such option")
def test_accepted_connection_ends_when_its_peer_confirms_nothing() -> None:
    with bind(HOST, 0, False) as listener:
        listener.listen()
        listener.setblocking(True)
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            told = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert told == SILENT_PEER_SEC * 1000


class Recording(asyncio.Transport):
    """Notes what happens to it."""

    def __init__(self) -> None:
        super().__init__({"peername": ("peer", 1)})
        self.happened: list[bytes | str] = []
        self.broken = False

    def is_closing(self) -> bool:
        return self.broken

    def write(self, data: Any) -> None:
        self.happened.append(bytes(data))

    def close(self) -> None:
        self.happened.append("closed")


async def test_what_is_written_in_one_turn_is_sent_in_one_piece() -> None:
    below = Recording()
    transport = JoinedWrites(below, asyncio.get_running_loop())
    transport.write(b"head")
    transport.write(b"body")
    assert below.happened == []
    await asyncio.sleep(0)
    transport.write(b"next")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert below.happened == [b"headbody", b"next"]
    assert transport.get_extra_info("peername") == ("peer", 1)


async def test_what_was_written_is_sent_before_the_connection_is_closed() -> None:
    below = Recording()
    transport = JoinedWrites(below, asyncio.get_running_loop())
    transport.write(b"answer")
    transport.close()
    await asyncio.sleep(0)
    assert below.happened == [b"answer", "closed"]


async def test_nothing_is_written_to_a_connection_that_broke_meanwhile() -> None:
    below = Recording()
    transport = JoinedWrites(below, asyncio.get_running_loop())
    transport.write(b"answer")
    below.broken = True
    await asyncio.sleep(0)
    assert below.happened == []


async def test_much_is_sent_at_once_so_that_a_writer_hears_of_a_peer_that_does_not_read() -> None:
    below = Recording()
    transport = JoinedWrites(below, asyncio.get_running_loop())
    transport.write(b"head")
    transport.write(bytes(AT_ONCE_BYTES))
    assert below.happened == [b"head" + bytes(AT_ONCE_BYTES)]
    transport.write(b"more")
    await asyncio.sleep(0)
    assert below.happened[1:] == [b"more"]
