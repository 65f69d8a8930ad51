"""Bare round trips to Valkey and to JetStream: what a durable write costs before any code of ours.

Each client is one asyncio protocol that writes prepared bytes and counts complete answers, so that the figure
is the server's and the event loop's. Alone: one in flight. Otherwise a window of requests that is kept full.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

import hiredis
import nats
import uvloop
from nats.js.api import StorageType, StreamConfig

from perf.load import Load, centiles

PAYLOAD: Final = b"x" * 512
_STREAM: Final = "FLOOR"
_INBOX: Final = "_INBOX.floor"


@dataclass(slots=True)
class _Window(asyncio.Protocol):
    """Keeps `width` requests in flight until `total` are answered."""

    request: bytes
    width: int
    total: int
    sent: int = 0
    latencies: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    _begun: deque[float] = field(default_factory=deque)
    _transport: Any = None
    finished: asyncio.Event = field(default_factory=asyncio.Event)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # uvloop's is no subclass of asyncio.Transport
        self.begin()

    def connection_lost(self, exc: Exception | None) -> None:
        if len(self.latencies) < self.total:
            self.errors.append(f"connection lost: {exc}")
        self.finished.set()

    def begin(self) -> None:
        """Sends the first window."""
        self._send(self.width)

    def answered(self, count: int) -> None:
        """`count` answers came; as many requests follow."""
        now = time.perf_counter()
        for _ in range(count):
            self.latencies.append((now - self._begun.popleft()) * 1e3)
        if len(self.latencies) >= self.total:
            self.finished.set()
        self._send(count)

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def _send(self, count: int) -> None:
        count = min(count, self.total - self.sent)
        if count > 0:
            now = time.perf_counter()
            self._begun.extend([now] * count)
            self.sent += count
            self.write(self.request * count)


@dataclass(slots=True)
class _Valkey(_Window):
    _reader: hiredis.Reader = field(default_factory=hiredis.Reader)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        count = 0
        while (answer := self._reader.gets()) is not False:
            if isinstance(answer, hiredis.HiredisError):
                self.errors.append(str(answer))
            count += 1
        if count:
            self.answered(count)


@dataclass(slots=True)
class _JetStream(_Window):
    _rest: bytes = b""

    def begin(self) -> None:
        self.write(
            b'CONNECT {"verbose":false,"pedantic":false,"headers":true}\r\nSUB %s 1\r\n' % _INBOX.encode()
        )
        _Window.begin(self)

    def data_received(self, data: bytes) -> None:
        lines = (self._rest + data).split(b"\r\n")
        self._rest = lines.pop()
        count = 0
        for line in lines:
            if line.startswith(b'{"stream"'):
                count += 1
            elif line.startswith((b'{"error"', b"-ERR")):
                self.errors.append(line.decode(errors="replace"))
                count += 1
            elif line == b"PING":
                self.write(b"PONG\r\n")
        if count:
            self.answered(count)


def valkey_round_trips(address: str, width: int, total: int) -> Load:
    """SET of 512 bytes, `width` in flight."""
    parts = (b"SET", b"floor", PAYLOAD)
    request = b"*3\r\n" + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
    return uvloop.run(_drive("Valkey SET", _Valkey(request, width, total), address))


def jetstream_round_trips(address: str, width: int, total: int) -> Load:
    """Publications of 512 bytes that the stream acknowledges, `width` in flight."""
    request = b"PUB floor.x %s %d\r\n%s\r\n" % (_INBOX.encode(), len(PAYLOAD), PAYLOAD)

    async def run() -> Load:
        client = await nats.connect(f"nats://{address}")
        try:
            await client.jetstream().add_stream(
                StreamConfig(name=_STREAM, subjects=["floor.>"], storage=StorageType.FILE)
            )
            return await _drive("JetStream publish", _JetStream(request, width, total), address)
        finally:
            await client.close()

    return uvloop.run(run())


async def _drive(name: str, window: _Window, address: str) -> Load:
    host, port = address.split(":")
    begin = time.perf_counter()
    transport, _ = await asyncio.get_running_loop().create_connection(lambda: window, host, int(port))
    try:
        await asyncio.wait_for(window.finished.wait(), timeout=120)
        seconds = time.perf_counter() - begin
    finally:
        transport.close()
    done = len(window.latencies)
    outcomes = {
        "OK": done - len(window.errors),
        **({window.errors[0]: len(window.errors)} if window.errors else {}),
    }
    return Load(
        tool=name,
        requests=done,
        seconds=seconds,
        offered_rate=0,
        latencies=centiles(window.latencies),
        outcomes=outcomes,
    )
