"""Small requests answered without ASGI, and every other one by the library, over real connections."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.runtime import http_server
from services.runtime.http_direct import MAX_BYTES, DirectProtocol, Headers, Respond
from services.runtime.http_server import HttpServer, serve
from tests.support import eventually

HOST = "127.0.0.1"


@dataclass
class Answer:
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


@dataclass
class Site:
    """Answers POST /direct directly, and everything as an application; each answer says by whom."""

    begun: list[bytes] = field(default_factory=list)
    seen: list[tuple[Headers, bytes, Any]] = field(default_factory=list)
    gate: asyncio.Event | None = None
    defect: bool = False
    ended: int = 0

    def find(self, method: str, path: str) -> Respond | None:
        return self.respond if (method, path) == ("POST", "/direct") else None

    async def respond(self, headers: Headers, query: bytes, body: bytes, client: Any) -> Answer:
        self.begun.append(body)
        self.seen.append((headers, query, client))
        if self.gate is not None:
            await self.gate.wait()
        if self.defect:
            raise KeyError("defect")
        self.ended += 1
        return whole(b"direct " + body)

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        answer = whole(b"library " + body)
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await send({"type": "http.response.body", "body": answer.body})


def whole(body: bytes) -> Answer:
    return Answer(200, [(b"content-length", b"%d" % len(body))], body)


def post(body: bytes, path: str = "/direct", headers: str = "", version: str = "1.1") -> bytes:
    head = f"POST {path} HTTP/{version}\r\nHost: here\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[bytes, bytes]:
        """Head and body of the next response."""
        async with asyncio.timeout(5):
            head = await self._reader.readuntil(b"\r\n\r\n")
            (length,) = (
                int(line.partition(b":")[2])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length:")
            )
            return head, await self._reader.readexactly(length)

    async def body(self) -> bytes:
        return (await self.answer())[1]

    async def closed(self) -> None:
        """Returns when the server has closed the connection, without another byte."""
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionResetError):
                assert await self._reader.read() == b""


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
async def server(site: Site) -> AsyncIterator[HttpServer]:
    one = await serve(site.asgi, HOST, 0, direct=site.find, grace_sec=1)
    yield one
    await one.stop()


@pytest.fixture
async def client(server: HttpServer) -> AsyncIterator[Client]:
    one = Client(*await asyncio.open_connection(HOST, server.port))
    yield one
    one.writer.close()


async def test_whole_requests_are_answered_directly_one_after_the_other(client: Client, site: Site) -> None:
    for number in range(3):
        client.send(post(b"%d" % number, "/direct?a=1&b=%20", "X-Name: Value\r\n"))
        head, body = await client.answer()
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\ndate: " in head
        assert body == b"direct %d" % number
    headers, query, address = site.seen[-1]
    assert (b"x-name", b"Value") in headers
    assert query == b"a=1&b=%20"
    assert address == client.writer.get_extra_info("sockname")


@pytest.mark.parametrize(
    "request_",
    [
        post(b"x", "/elsewhere"),
        post(b"x", "http://here/direct"),
        post(b"x", "/direct#part"),
        post(b"x", headers="Expect: 200-maybe\r\n"),
        post(b"x", headers="Connection: close\r\n"),
        post(b"x", headers="Connection: upgrade\r\nUpgrade: other\r\n"),
        post(b"x", version="1.0"),
        post(b"x" * MAX_BYTES),
        b"POST /direct HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    ],
)
async def test_anything_unusual_is_the_librarys(client: Client, site: Site, request_: bytes) -> None:
    client.send(request_)
    assert (await client.body()).startswith(b"library ")
    assert site.begun == []


async def test_a_request_that_comes_in_pieces_is_the_librarys_and_the_connection_with_it(
    client: Client, site: Site, server: HttpServer
) -> None:
    client.send(post(b"before"))
    assert await client.body() == b"direct before"
    (protocol,) = server._server.server_state.connections
    assert isinstance(protocol, DirectProtocol)
    request = post(b"pieces")
    client.send(request[:20])
    await eventually(lambda: protocol not in server._server.server_state.connections)
    client.send(request[20:])
    assert await client.body() == b"library pieces"
    client.send(post(b"after"))
    assert await client.body() == b"library after"
    assert site.begun == [b"before"]


async def test_requests_that_come_together_are_answered_in_their_order(client: Client) -> None:
    client.send(post(b"1") + post(b"2") + post(b"3", "/elsewhere"))
    assert [await client.body() for _ in range(3)] == [b"library 1", b"library 2", b"library 3"]


async def test_a_request_before_the_answer_waits_for_it(client: Client, site: Site) -> None:
    site.gate = asyncio.Event()
    client.send(post(b"1"))
    await eventually(lambda: site.begun == [b"1"])
    second, third = post(b"2"), post(b"3")
    client.send(second[:30])
    await client.writer.drain()
    await asyncio.sleep(0.01)
    client.send(second[30:] + third)
    await asyncio.sleep(0.01)
    site.gate.set()
    assert [await client.body() for _ in range(3)] == [b"direct 1", b"library 2", b"library 3"]
    assert site.begun == [b"1"]


async def test_what_is_no_http_is_refused(client: Client, site: Site) -> None:
    client.send(b"this is no request\r\n\r\n")
    head, _ = await client.answer()
    assert head.startswith(b"HTTP/1.1 400 ")
    await client.closed()
    assert site.begun == []


async def test_a_client_that_leaves_does_not_end_what_it_began(client: Client, site: Site) -> None:
    site.gate = asyncio.Event()
    client.send(post(b"1"))
    await eventually(lambda: site.begun == [b"1"])
    client.writer.transport.abort()
    await asyncio.sleep(0.01)
    site.gate.set()
    await eventually(lambda: site.ended == 1)


async def test_a_defect_ends_the_connection_and_is_reported(client: Client, site: Site) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
    site.defect = True
    client.send(post(b"1"))
    await client.closed()
    await eventually(lambda: len(reported) == 1)
    assert isinstance(reported[0]["exception"], KeyError)


async def test_a_stop_lets_an_answer_leave_and_closes_idle_connections(
    client: Client, site: Site, server: HttpServer
) -> None:
    idle = Client(*await asyncio.open_connection(HOST, server.port))
    idle.send(post(b"idle"))
    assert await idle.body() == b"direct idle"
    site.gate = asyncio.Event()
    client.send(post(b"1"))
    await eventually(lambda: len(site.begun) == 2)
    stopping = asyncio.create_task(server.stop())
    await idle.closed()
    assert not stopping.done()
    site.gate.set()
    head, body = await client.answer()
    assert body == b"direct 1"
    assert b"\r\nconnection: close\r\n" in head
    await client.closed()
    await asyncio.wait_for(stopping, 5)
    idle.writer.close()


async def test_a_stop_interrupts_nothing_that_was_begun(
    client: Client, site: Site, server: HttpServer
) -> None:
    site.gate = asyncio.Event()
    client.send(post(b"1"))
    await eventually(lambda: site.begun == [b"1"])
    await asyncio.wait_for(server.stop(), 5)
    site.gate.set()
    await eventually(lambda: site.ended == 1)


async def test_a_connection_that_nobody_uses_is_closed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "KEEP_ALIVE_SEC", 1)
    server = await serve(site.asgi, HOST, 0, direct=site.find, grace_sec=1)
    client = Client(*await asyncio.open_connection(HOST, server.port))
    site.gate = asyncio.Event()
    client.send(post(b"1"))
    # One that is being answered is in use, however long that takes.
    await asyncio.sleep(1.5)
    site.gate.set()
    assert await client.body() == b"direct 1"
    await client.closed()
    client.writer.close()
    await server.stop()


async def test_a_client_that_does_not_read_is_not_read_either(site: Site, server: HttpServer) -> None:
    # The limit makes the client's transport stop reading.
    _, writer = await asyncio.open_connection(HOST, server.port, limit=1024)
    request = post(b"x" * 20_000)

    async def send_on() -> None:
        while True:
            writer.write(request)
            begun = len(site.begun)
            # One after the other, so that each comes whole.
            await eventually(lambda: len(site.begun) > begun, within_sec=2, every_sec=0.001)  # noqa: B023

    async with asyncio.timeout(60):
        with pytest.raises(AssertionError, match="not true within"):
            await send_on()
    assert 1 < len(site.begun) == site.ended
    writer.transport.abort()


async def test_a_connection_that_is_given_away_is_known_to_be_unread(site: Site, server: HttpServer) -> None:
    client = Client(*await asyncio.open_connection(HOST, server.port))
    client.send(post(b"1"))
    assert await client.body() == b"direct 1"
    (protocol,) = server._server.server_state.connections
    assert isinstance(protocol, DirectProtocol)
    protocol.pause_writing()
    protocol.data_received(post(b"2") + post(b"3"))
    (library,) = server._server.server_state.connections
    assert isinstance(library, HttpToolsProtocol)
    assert library.flow.write_paused
    library.resume_writing()
    library.transport.resume_reading()
    assert [await client.body() for _ in range(2)] == [b"library 2", b"library 3"]
    client.writer.close()


async def test_an_answer_that_cannot_be_written_ends_the_connection(
    client: Client, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
    monkeypatch.setitem(whole.__globals__, "whole", lambda body: Answer(999, [], body))
    client.send(post(b"1"))
    await client.closed()
    await eventually(lambda: len(reported) == 1)
