"""A TCP proxy that does to a connection what networks do: it delays, loses answers, and delivers late."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Self


@dataclass
class Faults:
    """Chances, for each piece of data that a client sends. Times in seconds."""

    lose_answer: float = 0.0
    """The piece reaches the server, the client's connection breaks before the answer."""
    deliver_late: float = 0.0
    """The client's connection breaks at once, the piece reaches the server later."""
    delay: float = 0.0
    """The piece, and all behind it, reaches the server later."""
    longest: float = 0.1


@dataclass
class Done:
    """How often each fault was done."""

    lost: int = 0
    late: int = 0
    delayed: int = 0


class FaultyProxy:
    """Stands between clients and the server at `host:port`; listens on `url`'s port."""

    def __init__(self, host: str, port: int, rng: random.Random) -> None:
        self._host, self._port = host, port
        self._rng = rng
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.faults = Faults()
        self.done = Done()
        self.hold: asyncio.Event | None = None
        """When set up: late pieces wait for it instead of a random time."""
        self.talking = asyncio.Event()
        """While it is not set, nothing that the server says gets through."""
        self.talking.set()
        self.refusing = False
        """While set, new connections break at once."""
        self.released = 0
        """Late pieces that the server has taken."""
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def break_all(self) -> None:
        """Breaks every connection that is open."""
        for task in list(self._tasks):
            task.cancel()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self.refusing:
            writer.transport.abort()
            return
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, RuntimeError, asyncio.CancelledError):
            pass  # RuntimeError: so uvloop says that a connection was closed before
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, server = await asyncio.open_connection(self._host, self._port)
        answers = asyncio.create_task(_pump(upstream, writer, self.talking))
        rng = self._rng
        first = True
        try:
            while data := await reader.read(1 << 16):
                faults = self.faults
                chance = rng.random()
                pause = rng.random() * faults.longest
                if first:
                    # The greeting of a new connection is spared, or nobody would ever get through.
                    first = False
                    chance = 1.0
                if chance < faults.lose_answer:
                    self.done.lost += 1
                    answers.cancel()
                    server.write(data)
                    await server.drain()
                    writer.transport.abort()
                    await asyncio.sleep(pause)
                    return
                if chance < faults.lose_answer + faults.deliver_late:
                    self.done.late += 1
                    answers.cancel()
                    writer.transport.abort()
                    if self.hold is not None:
                        await self.hold.wait()
                    else:
                        await asyncio.sleep(pause)
                    server.write(data)
                    await upstream.read(1)
                    self.released += 1
                    return
                if chance < faults.lose_answer + faults.deliver_late + faults.delay:
                    self.done.delayed += 1
                    await asyncio.sleep(pause)
                server.write(data)
                await server.drain()
        finally:
            answers.cancel()
            server.transport.abort()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter, open_way: asyncio.Event) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        while data := await source.read(1 << 16):
            await open_way.wait()
            target.write(data)
            await target.drain()
        target.transport.abort()


@contextlib.asynccontextmanager
async def faulty_proxy(host: str, port: int, seed: int) -> AsyncIterator[FaultyProxy]:
    """A proxy for the time of a block."""
    async with FaultyProxy(host, port, random.Random(seed)) as proxy:
        yield proxy
