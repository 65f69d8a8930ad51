"""The one place that opens connections to Valkey and QuestDB, with the options that safety needs.

None of these clients repeats a command by itself: whether something may be done twice is decided by the
caller.
"""

import asyncio
import os
import select
import socket
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import psycopg
import redis.asyncio
from questdb import QuestDBError, Sender
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from services.runtime.telemetry import get_logger

if TYPE_CHECKING:
    from questdb._client import Buffer  # public by `Sender.new_buffer` alone

VALKEY_TIMEOUT_SEC: Final = 1.0
QUESTDB_CONNECT_TIMEOUT_SEC: Final = 3
ROWS_TIMEOUT_SEC: Final = 5.0
"""Longest wait for QuestDB to commit rows; a process that ends waits for its last request too."""

_log = get_logger("runtime.connections")


def open_valkey(
    url: str,
    db: int,
    max_connections: int,
    *,
    timeout_sec: float = VALKEY_TIMEOUT_SEC,
    name: str = "trade2026",
) -> "redis.asyncio.Redis":
    """A client with up to `max_connections` connections, opened at first use; callers beyond wait
    `timeout_sec`.

    Answers are bytes, the protocol is RESP3. A command that gets no answer in `timeout_sec` raises
    `redis.exceptions.TimeoutError` or `ConnectionError` and *may have been carried out*: nothing is sent
    again.
    """
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url,
        db=db,
        max_connections=max_connections,
        timeout=timeout_sec,
        socket_timeout=timeout_sec,
        socket_connect_timeout=timeout_sec,
        retry=Retry(NoBackoff(), 0),
        retry_on_timeout=False,
        client_name=name,
        protocol=3,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )
    return redis.asyncio.Redis.from_pool(pool)


class RowsRefused(OSError):
    """QuestDB did not take rows, or did not say that it has; the message is the client's."""


class QuestdbRows:
    """Rows by QuestDB's line protocol over HTTP: one request at a time, in a thread of its own."""

    def __init__(self, http_url: str, timeout_sec: float) -> None:
        """Nothing is opened before the first use. Raises `ValueError` for what is no http or https URL."""
        parts = urlsplit(http_url)
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise ValueError(f"{http_url} is not an http or https URL")
        settings = {
            "addr": f"{parts.hostname}:{parts.port or 9000}",
            "username": parts.username,
            "password": parts.password,
            "protocol_version": 3,  # the first with exact numbers
            "auto_flush": "off",
            "request_timeout": round(timeout_sec * 1000),
            "request_min_throughput": 0,
            "retry_timeout": 0,  # whether something is sent again is decided by who sends it
        }
        given = ";".join(f"{name}={value}" for name, value in settings.items() if value is not None)
        self._sender = Sender.from_conf(f"{parts.scheme}::{given};")
        self._sender.establish()  # type: ignore[no-untyped-call] # opens nothing: the protocol is given
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="questdb rows")

    def buffer(self) -> "Buffer":
        """An empty buffer, to be filled by `row`."""
        return self._sender.new_buffer()

    async def send(self, buffer: "Buffer") -> None:
        """Sends rows of one table as one transaction; returns when it is committed. Raises `RowsRefused`.

        Cancelling does not take back what is being sent.
        """
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._send, buffer)
        except QuestDBError as error:
            raise RowsRefused(str(error)) from None

    def close(self) -> None:
        """What is being sent may still arrive; nothing is sent afterwards."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _send(self, buffer: "Buffer") -> None:
        self._sender.flush(buffer, transactional=True)


class QuestdbPool:
    """A few autocommitting connections by the PostgreSQL wire, opened when needed, dropped when they fail."""

    def __init__(self, pg_url: str, http_url: str, size: int, timeout_sec: float) -> None:
        self.rows = QuestdbRows(http_url, min(timeout_sec, ROWS_TIMEOUT_SEC))
        self._pg_url = pg_url
        self._timeout_sec = timeout_sec
        self._free: asyncio.LifoQueue[psycopg.AsyncConnection[Any] | None] = asyncio.LifoQueue()
        for _ in range(size):
            self._free.put_nowait(None)
        self._closed = False

    @asynccontextmanager
    async def connection(self) -> AsyncIterator["psycopg.AsyncConnection[Any]"]:
        """Lends a connection for up to the pool's timeout; waits while all are lent.

        Raises `psycopg.Error` when QuestDB cannot be reached, `TimeoutError` when it was lent for too long.
        After any exception the connection is closed, because its state is unknown; the next one is fresh.
        """
        lent = await self._free.get()
        try:
            if lent is not None and _was_dropped(lent):
                # By a server that was started anew, say: what is asked for now is asked of the new one.
                stale, lent = lent, None
                await stale.close()
            if lent is None:
                lent = await psycopg.AsyncConnection.connect(
                    self._pg_url, autocommit=True, connect_timeout=QUESTDB_CONNECT_TIMEOUT_SEC
                )
            with _cut_after(self._timeout_sec, lent):
                yield lent
        except BaseException:
            if lent is not None:
                await lent.close()
            lent = None
            raise
        finally:
            if self._closed and lent is not None:
                await lent.close()
                lent = None
            self._free.put_nowait(lent)

    async def execute(self, query: Any, parameters: Any = None) -> list[tuple[Any, ...]]:
        """Runs one statement and returns its rows, none for a statement without a result; raises as above."""
        async with self.connection() as connection:
            cursor = await connection.execute(query, parameters)
            return await cursor.fetchall() if cursor.description is not None else []

    async def ping(self) -> None:
        """Returns when QuestDB answers; the health probe."""
        await self.execute("SELECT 1")

    async def close(self) -> None:
        """Closes the idle connections; lent ones are closed when they come back."""
        self._closed = True
        self.rows.close()
        idle = [self._free.get_nowait() for _ in range(self._free.qsize())]
        for connection in idle:
            if connection is not None:
                await connection.close()
            self._free.put_nowait(None)


def _was_dropped(idle: "psycopg.AsyncConnection[Any]") -> bool:
    """Whether the other side has closed a connection that nothing was asked on: only then is there something
    to read."""
    if idle.closed:
        return True
    line = select.poll()
    line.register(idle.fileno(), select.POLLIN)
    return bool(line.poll(0))


@contextmanager
def _cut_after(timeout_sec: float, connection: "psycopg.AsyncConnection[Any]") -> Iterator[None]:
    """Cuts the connection after `timeout_sec`, and turns the failure that follows into `TimeoutError`.

    Cancelling the statement instead would make psycopg ask the server to stop it, and wait five seconds for
    that.
    """
    expired = False

    def cut() -> None:
        nonlocal expired
        expired = True
        if not connection.closed:
            with socket.socket(fileno=os.dup(connection.fileno())) as line, suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    timer = asyncio.get_running_loop().call_later(timeout_sec, cut)
    try:
        yield
    except psycopg.Error as error:
        if expired:
            raise TimeoutError(f"no answer in {timeout_sec:g} s") from error
        raise
    finally:
        timer.cancel()


def open_questdb(pg_url: str, http_url: str, *, size: int = 2, timeout_sec: float = 30.0) -> QuestdbPool:
    """A pool of up to `size` connections; nothing is opened before the first use."""
    return QuestdbPool(pg_url, http_url, size, timeout_sec)
