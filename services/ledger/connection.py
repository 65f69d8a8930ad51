"""One pipelined connection to Valkey (RESP3), for the paths where every microsecond is paid per order.

Requests of one turn of the event loop leave in one write; while `ENOUGH` or more are not answered, what comes
gathers until fewer are. Each answer is handed to its handler *in the order of the stream*, together with the
invalidations of client-side tracking that stand between the answers, so that a copy installed by a handler is
never older than the last invalidation seen.

Nothing is ever sent twice: a connection that breaks fails what it carried with `Unanswered`, and who asked
decides. redis-py (used everywhere else) spends several times the CPU of a commit on each command.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast
from urllib.parse import unquote, urlsplit

import hiredis

from services.ledger.errors import NotConnected, RequestRefused, Unanswered

Argument: TypeAlias = str | bytes | int
Handler: TypeAlias = Callable[[Any], Any]
"""Turns an answer into the result of its request; runs in the order of the stream."""

ENOUGH: Final = 4
"""Unanswered requests while which further ones gather: the server syncs once for whatever comes together, and
both sides are woken once. Fewer than that go out at once, so a lone request never waits for others."""
_RECONNECT_WAIT: Final = 0.05
_PING: Final = hiredis.pack_command(("PING",))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a Valkey database is. Times in seconds."""

    host: str
    port: int
    db: int = 0
    username: str = "default"
    password: str = ""
    tls: bool = False
    connect_timeout: float = 1.0
    answer_timeout: float = 1.0
    """A request without an answer for so long breaks the connection."""

    @classmethod
    def parse(cls, url: str, db: int = 0, timeout: float = 1.0) -> "Endpoint":
        """Reads `redis[s]://[user:password@]host[:port]`; raises `ValueError` for anything else."""
        parts = urlsplit(url)
        if parts.scheme not in ("redis", "rediss", "valkey", "valkeys") or not parts.hostname:
            raise ValueError(f"not an address of Valkey: {url!r}")
        return cls(
            host=parts.hostname,
            port=parts.port or 6379,
            db=db,
            username=unquote(parts.username or "default"),
            password=unquote(parts.password or ""),
            tls=parts.scheme.endswith("s") and parts.scheme != "redis",
            connect_timeout=timeout,
            answer_timeout=timeout,
        )


def _pack(arguments: Sequence[Argument]) -> bytes:
    packed: bytes = hiredis.pack_command(tuple(arguments))  # type: ignore[arg-type] # any number of them
    return packed


def _noted(future: "asyncio.Future[Any]") -> None:
    """Takes note of an answer that nobody waits for, be it an error."""
    if not future.cancelled():
        future.exception()


class _Wire(asyncio.Protocol):
    """The byte stream of one connection: requests out, answers and invalidations in."""

    def __init__(
        self,
        invalidated: Callable[[Sequence[bytes] | None], None] | None,
        lost: Callable[["_Wire"], None],
    ) -> None:
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(notEnoughData=_MORE)
        self._pending: deque[tuple[asyncio.Future[Any], Handler | None, float]] = deque()
        self._out: list[bytes] = []
        """Not written yet: the last ones of `_pending`."""
        self._flushing = False
        self._invalidated = invalidated
        self._transport: asyncio.WriteTransport | None = None
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self.life = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        reader.feed(data)
        try:
            while (answer := reader.gets()) is not _MORE:
                if type(answer) is hiredis.PushNotification:
                    if answer[0] == b"invalidate" and self._invalidated is not None:
                        self._invalidated(answer[1])
                    continue
                future, handler, _ = self._pending.popleft()
                if isinstance(answer, hiredis.ReplyError):
                    if not future.done():
                        future.set_exception(RequestRefused(str(answer)))
                    continue
                try:
                    result = answer if handler is None else handler(answer)
                except Exception as error:
                    if not future.done():
                        future.set_exception(error)
                else:
                    if not future.done():
                        future.set_result(result)
        except (hiredis.ProtocolError, IndexError) as error:
            self.abort(f"the answer could not be read: {error!r}")
        self._flush_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(str(exc or "the server closed the connection"))

    def request(self, packed: bytes, handler: Handler | None) -> asyncio.Future[Any]:
        if self._transport is None or self.closed.done():
            raise NotConnected("no connection to Valkey")
        future = self._loop.create_future()
        self._pending.append((future, handler, self._loop.time()))
        self._out.append(packed)
        self._flush_soon()
        return future

    def _flush_soon(self) -> None:
        if self._out and not self._flushing and len(self._pending) - len(self._out) < ENOUGH:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        out, self._out = self._out, []
        if self._transport is not None and out:
            self._transport.write(b"".join(out))

    def oldest(self) -> float | None:
        """When the oldest unanswered request was made, in loop time."""
        return self._pending[0][2] if self._pending else None

    def abort(self, why: str) -> None:
        if self._transport is not None:
            self._transport.abort()
        self._fail(why)

    def _fail(self, why: str) -> None:
        self._transport = None
        self._out = []
        pending, self._pending = self._pending, deque()
        for future, _, _ in pending:
            if not future.done():
                future.set_exception(Unanswered(why))
                # A caller that has gone away does not read it; the loss is no news to anybody else.
                future.exception()
        if not self.closed.done():
            self.closed.set_result(None)
            self._lost(self)


_MORE: Final = object()


class Connection:
    """A connection that keeps itself up: broken ones are replaced, requests are never repeated.

    `prepare` holds the requests of each new connection (after HELLO and SELECT); `invalidated` receives the
    keys of tracking's invalidations, or None for all of them and at each loss of the connection. `life` tells
    from the answers to `prepare` in which life of its data the server is.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        prepare: Sequence[Sequence[Argument]] = (),
        invalidated: Callable[[Sequence[bytes] | None], None] | None = None,
        life: Callable[[Sequence[Any]], str] | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._prepare = prepare
        self._invalidated = invalidated
        self._life_of = life
        self.life = ""
        """Life of the server's data when the last connection was made; that connection cannot outlive it."""
        self._wire: _Wire | None = None
        self._up = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self.last_error = ""

    @property
    def connected(self) -> bool:
        return self._wire is not None

    async def open(self) -> None:
        """Connects once, raising what went wrong, and keeps the connection from then on."""
        wire = await self._connect()
        self._install(wire)
        self._keeper = asyncio.get_running_loop().create_task(self._keep(wire), name="valkey connection")

    async def close(self) -> None:
        """Ends the connection; requests on their way fail with `Unanswered`."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        if self._wire is not None:
            self._wire.abort("closed")

    async def wait_connected(self, timeout: float) -> bool:
        """Waits at most `timeout` seconds for a usable connection; False when there is none."""
        if self._wire is None:
            try:
                await asyncio.wait_for(self._up.wait(), max(0.0, timeout))
            except TimeoutError:
                return False
        return True

    def request(self, *arguments: Argument, handler: Handler | None = None) -> asyncio.Future[Any]:
        """Sends one command. Raises `NotConnected` when there is no connection (nothing was sent).

        The future fails with `Unanswered` or `RequestRefused`; cancelling it does not cancel the command.
        """
        return self.send(_pack(arguments), handler)

    def send(self, packed: bytes, handler: Handler | None = None) -> asyncio.Future[Any]:
        """Like `request`, for a command that is packed already."""
        wire = self._wire
        if wire is None:
            raise NotConnected(self.last_error or "no connection to Valkey")
        return wire.request(packed, handler)

    async def _connect(self) -> _Wire:
        endpoint = self._endpoint
        loop = asyncio.get_running_loop()
        context = ssl.create_default_context() if endpoint.tls else None
        try:
            async with asyncio.timeout(endpoint.connect_timeout):
                _, wire = await loop.create_connection(
                    lambda: _Wire(self._invalidated, self._lost), endpoint.host, endpoint.port, ssl=context
                )
                try:
                    await self._greet(wire)
                except BaseException:
                    wire.abort("the greeting failed")
                    raise
        except TimeoutError as error:
            raise NotConnected(f"no answer from Valkey in {endpoint.connect_timeout} s") from error
        except (OSError, Unanswered) as error:
            raise NotConnected(f"no connection to Valkey: {error}") from error
        return wire

    async def _greet(self, wire: _Wire) -> None:
        endpoint = self._endpoint
        hello: list[Argument] = ["HELLO", 3]
        if endpoint.password:
            hello += ["AUTH", endpoint.username, endpoint.password]
        requests: list[Sequence[Argument]] = [hello]
        if endpoint.db:
            requests.append(["SELECT", endpoint.db])
        requests += self._prepare
        futures = [wire.request(_pack(parts), None) for parts in requests]
        answers = await asyncio.gather(*futures, return_exceptions=True)
        if self._life_of is not None and not isinstance(answers[-1], BaseException):
            wire.life = self._life_of(answers)
        for answer in answers:
            # A library of functions that is there already is what was asked for.
            if isinstance(answer, BaseException) and "already exists" not in str(answer):
                raise answer

    def _install(self, wire: _Wire) -> None:
        if not wire.closed.done():
            self._wire = wire
            self.life = wire.life
            self._up.set()

    def _lost(self, wire: _Wire) -> None:
        if self._wire is not wire:
            return
        self._wire = None
        self._up.clear()
        if self._invalidated is not None:
            self._invalidated(None)

    async def _keep(self, wire: _Wire) -> None:
        while True:
            await self._watch(wire)
            self.last_error = "the connection to Valkey was lost"
            while True:
                try:
                    wire = await self._connect()
                    break
                except Exception as error:
                    # Whatever it is, a worker without this connection is of no use: it is tried for ever.
                    self.last_error = str(error) or type(error).__name__
                    await asyncio.sleep(_RECONNECT_WAIT)
            self._install(wire)

    async def _watch(self, wire: _Wire) -> None:
        """Returns when `wire` is closed; closes one that does not answer.

        An idle connection is asked too: one that is silently dead would deliver no invalidation.
        """
        limit = self._endpoint.answer_timeout
        loop = asyncio.get_running_loop()
        suspect: float | None = None
        while not wire.closed.done():
            await asyncio.wait([wire.closed], timeout=limit / 4)
            oldest = wire.oldest()
            if oldest is None:
                if not wire.closed.done():
                    wire.request(_PING, None).add_done_callback(_noted)
            elif loop.time() - oldest > limit:
                # Looked at twice: after a pause of this process the answers may be there, not yet read.
                if oldest == suspect:
                    wire.abort(f"no answer in {limit} s")
                suspect = oldest
