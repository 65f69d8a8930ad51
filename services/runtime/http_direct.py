"""Small requests, answered without what an HTTP server has to be ready for.

Most requests of most clients come whole in one read, on a connection that goes on, and are answered in one
piece. For them a parser and one task are enough. A connection that brings anything else (a body in pieces, a
request before the answer to the last one, a stream, an upgrade, an error) is given to the library for good,
with every byte that is not answered yet.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Protocol, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.protocols.utils import get_remote_addr
from uvicorn.server import ServerState

from services.runtime.liveness import progress

MAX_BYTES: Final = 32_768
"""A longer request is the library's."""
_UNUSUAL: Final = frozenset((b"expect", b"transfer-encoding", b"upgrade"))
_CLOSE: Final = (b"connection", b"close")

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case."""


class WholeAnswer(Protocol):
    """A response; among its headers is `content-length`."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> list[tuple[bytes, bytes]]: ...

    @property
    def body(self) -> bytes: ...


Respond = Callable[[Headers, bytes, bytes, tuple[str, int] | None], Coroutine[Any, Any, WholeAnswer]]
"""Answers a request: (headers, query, body, address of the client). Raises nothing."""

Find = Callable[[str, str], Respond | None]
"""What answers a method and a percent-encoded path; None: the library's application does."""


class DirectProtocol(asyncio.Protocol):
    """One connection."""

    def __init__(
        self,
        find: Find,
        library: Callable[[], asyncio.Protocol],
        state: ServerState,
        running: set[asyncio.Task[None]],
        keep_alive_sec: float,
    ) -> None:
        """`library` makes the protocol for connections that are none of this one's; `state` is its server's;
        `running` keeps the exchanges, which end only by themselves."""
        self._find = find
        self._library = library
        self._state = state
        self._running = running
        self._keep_alive_sec = keep_alive_sec
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport = cast(asyncio.Transport, None)
        self._client: tuple[str, int] | None = None
        self._exchange: asyncio.Task[None] | None = None
        self._early = b""
        """Read while an exchange was running."""
        self._unread = False
        """The client does not read what was written."""
        self._ending = False
        self._used = self._loop.time()
        self._idle: asyncio.TimerHandle | None = None
        # Of what is being read:
        self._begun = 0
        self._whole = False
        self._usual = True
        self._url = b""
        self._body = b""
        self._headers: list[tuple[bytes, bytes]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins."""
        self._transport = cast(asyncio.Transport, transport)
        self._client = get_remote_addr(self._transport)
        self._state.connections.add(self)  # type: ignore[arg-type] # it has what the server calls
        self._idle = self._loop.call_later(self._keep_alive_sec, self._look_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends; an exchange that is running does so by itself."""
        self._forget()

    def data_received(self, data: bytes) -> None:
        """Answers a request, or gives the connection away."""
        if self._exchange is not None:
            # It is looked at after the answer; meanwhile no more than this is taken.
            self._early += data
            self._transport.pause_reading()
            return
        respond = self._read(data)
        if respond is None:
            self._give_away(data)
            return
        progress()
        _, _, query = self._url.partition(b"?")
        exchange = self._loop.create_task(
            self._answer(respond(self._headers, query, self._body, self._client))
        )
        self._exchange = exchange
        self._running.add(exchange)
        exchange.add_done_callback(self._running.discard)

    def pause_writing(self) -> None:
        """The client does not read its answers: it is not read either."""
        self._unread = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._unread = False
        if not self._early:
            self._transport.resume_reading()

    def shutdown(self) -> None:
        """Called by the server when it stops: ends the connection after the answer that is being made."""
        if self._exchange is None:
            self._transport.close()
        self._ending = True

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._begun += 1
        self._url = self._body = b""
        self._headers = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in _UNUSUAL:
            self._usual = False
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        if not parser.should_keep_alive() or parser.get_http_version() != "1.1":
            self._usual = False

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self._whole = True

    def _read(self, data: bytes) -> Respond | None:
        """What answers `data`; None when that is more or less than one plain request, or not served here."""
        if len(data) > MAX_BYTES:
            return None
        self._begun, self._whole, self._usual = 0, False, True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            return None
        if self._begun != 1 or not self._whole or not self._usual:
            return None
        path = self._url.partition(b"?")[0]
        if not path.isascii() or b"#" in self._url:
            return None
        return self._find(self._parser.get_method().decode("ascii"), path.decode("ascii"))

    async def _answer(self, responding: Coroutine[Any, Any, WholeAnswer]) -> None:
        try:
            answer = await responding
            self._exchange = None
            self._write(answer)
        except BaseException:
            # A defect. The client must not wait for an answer that will not come.
            self._exchange = None
            self._transport.abort()
            raise

    def _write(self, answer: WholeAnswer) -> None:
        transport = self._transport
        if transport.is_closing():
            return
        headers = self._state.default_headers + answer.headers
        if self._ending and _CLOSE not in headers:
            headers.append(_CLOSE)
        parts = [STATUS_LINE[answer.status]]
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        parts += (b"\r\n", answer.body)
        transport.write(b"".join(parts))
        if _CLOSE in headers:
            transport.close()
            return
        self._used = self._loop.time()
        if self._early:
            early, self._early = self._early, b""
            transport.resume_reading()
            self._give_away(early)

    def _give_away(self, data: bytes) -> None:
        """Lets the library serve the connection, beginning with `data`."""
        self._forget()
        protocol = self._library()
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        if self._unread:
            # It was told once, and writes no more until it hears otherwise.
            protocol.pause_writing()
        protocol.data_received(data)

    def _forget(self) -> None:
        del self._parser  # they hold each other
        self._state.connections.discard(self)
        if self._idle is not None:
            self._idle.cancel()

    def _look_idle(self) -> None:
        """Closes a connection that nobody has used for as long as one is kept."""
        left = self._used + self._keep_alive_sec - self._loop.time()
        if self._exchange is None and left <= 0:
            self._transport.close()
        else:
            self._idle = self._loop.call_later(max(left, 1.0), self._look_idle)
