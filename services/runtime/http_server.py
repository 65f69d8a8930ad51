"""HTTP in the worker's own event loop: uvicorn on a socket that is bound here, without its signal
handlers."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from services.runtime.http_direct import DirectProtocol, Find
from services.runtime.liveness import progress
from services.runtime.telemetry import get_logger

BACKLOG: Final = 4096
ACCEPTED_A_TURN: Final = 32
"""Connections that are accepted in one turn of the loop at most."""
KEEP_ALIVE_SEC: Final = 75
AT_ONCE_BYTES: Final = 65_536
"""Bytes of a response that do not wait for the end of a turn."""
SILENT_PEER_SEC: Final = 20
"""A connection whose peer confirms nothing of what was sent for so long is dead: its event stream ends."""

_log = get_logger("http")


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the worker, which stops its servers in order."""
        yield


class JoinedWrites:
    """A transport that sends in one piece what is written to it in one turn of the loop.

    The library writes head and body of a response one after the other: two system calls, and a peer that is
    woken twice.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._written: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        """Has `data` sent at the end of this turn, or at once when much is waiting: a writer that goes on and
        on has to hear from the transport that its peer does not read."""
        if not self._written:
            self._loop.call_soon(self._send)
        self._written.append(data)
        self._size += len(data)
        if self._size >= AT_ONCE_BYTES:
            self._send()

    def close(self) -> None:
        """Sends what was written, then closes."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        written, self._written, self._size = self._written, [], 0
        # The connection may have broken in between; a closed transport refuses to be written to.
        if written and not self._transport.is_closing():
            self._transport.write(written[0] if len(written) == 1 else b"".join(written))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Protocol(HttpToolsProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins a connection."""
        super().connection_made(JoinedWrites(cast(asyncio.Transport, transport), self.loop))  # type: ignore[arg-type]


class HttpServer:
    """A running HTTP server."""

    def __init__(self, server: _Server, task: asyncio.Task[None], port: int, grace_sec: float) -> None:
        self._server = server
        self._task = task
        self._grace_sec = grace_sec
        self.port = port
        """The TCP port it listens on."""

    async def stop(self) -> None:
        """Stops accepting, lets open requests finish (up to the grace), closes the connections."""
        self._server.should_exit = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._grace_sec + 1):
                await self._task


async def serve(
    app: Any,
    host: str,
    port: int,
    reuse_port: bool = False,
    *,
    direct: Find | None = None,
    grace_sec: float = 10.0,
    on_failure: Callable[[BaseException], None] | None = None,
) -> HttpServer:
    """Serves the ASGI application `app`; returns when it accepts connections.

    `reuse_port`: several workers share the port. `direct` finds what answers a small request without ASGI;
    what it begins, nothing interrupts. `on_failure` is told if the server ends without `stop` (use
    `context.fail`). Raises `OSError` when the port is taken.
    """
    listener = bind(host, port, reuse_port)
    config = uvicorn.Config(
        _counting_as_progress(app),
        http=_Accepting(listener, _Protocol if direct is None else _direct_protocols(direct)),  # type: ignore[arg-type]
        loop="none",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SEC,
        timeout_graceful_shutdown=max(1, round(grace_sec)),
    )
    server = _Server(config)
    task = asyncio.get_running_loop().create_task(server.serve([listener]), name=f"http {port}")

    def ended(done: asyncio.Task[None]) -> None:
        listener.close()
        if done.cancelled() or server.should_exit or on_failure is None:
            return
        on_failure(done.exception() or RuntimeError("the HTTP server ended"))

    task.add_done_callback(ended)
    while not server.started:
        if task.done():
            task.result()
            raise OSError(f"HTTP cannot listen on {host}:{port}")
        await asyncio.sleep(0.001)
    return HttpServer(server, task, listener_port(listener, port), grace_sec)


class _Accepting:
    """Makes the protocols of connections that the loop accepts, and accepts what waits behind each of them.

    uvloop accepts one connection of a socket a turn, and the turns of a busy loop are long.
    """

    def __init__(self, listener: socket.socket, make: Callable[..., asyncio.Protocol]) -> None:
        self._listener = listener
        self._make = make
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[Any]] = set()
        self._asked = False

    def __call__(self, **server: Any) -> asyncio.Protocol:
        if not self._asked:
            self._asked = True
            self._loop.call_soon(self._accept, partial(self._make, **server))
        return self._make(**server)

    def _accept(self, make: Callable[[], asyncio.Protocol]) -> None:
        self._asked = False
        for _ in range(ACCEPTED_A_TURN - 1):
            try:
                connection, _ = self._listener.accept()
            except OSError:
                # None waits, or the server was stopped; of anything else the accepting of the loop tells.
                return
            connection.setblocking(False)
            task = self._loop.create_task(self._loop.connect_accepted_socket(make, connection))
            self._opening.add(task)
            task.add_done_callback(self._opened)

    def _opened(self, task: "asyncio.Task[Any]") -> None:
        self._opening.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.debug("a connection ended before it was open", error=str(error))


def _direct_protocols(find: Find) -> Callable[..., DirectProtocol]:
    running: set[asyncio.Task[None]] = set()

    def make(*, server_state: ServerState, **others: Any) -> DirectProtocol:
        library = partial(_Protocol, server_state=server_state, **others)
        return DirectProtocol(find, library, server_state, running, KEEP_ALIVE_SEC)

    return make


def _counting_as_progress(app: Any) -> Any:
    async def begin(scope: Any, receive: Any, send: Any) -> None:
        progress()
        await app(scope, receive, send)

    return begin


def bind(host: str, port: int, reuse_port: bool) -> socket.socket:
    """A bound socket that does not listen yet. Raises `OSError` when the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # Connections that are accepted inherit it.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_PEER_SEC * 1000)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def listener_port(listener: socket.socket, port: int) -> int:
    """The port that the system chose when `port` was 0."""
    return port or int(listener.getsockname()[1])
