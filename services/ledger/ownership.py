"""Which oms worker runs the tasks of which partition: leases in Valkey with fencing numbers.

A worker takes free partitions up to its fair share, renews them, and gives up what exceeds the share when
others appear. A worker that dies loses its partitions when their leases expire; one that stops releases them
at once. Two owners may overlap for a moment (a worker that was paused and does not know yet): everything an
owner does is idempotent, so that costs repetitions and nothing else.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol

from services.ledger import keys
from services.ledger.connection import Connection, Endpoint
from services.ledger.errors import NotConnected, RequestRefused, Unanswered
from services.ledger.partition import PARTITIONS
from services.ledger.store import LOAD_LIBRARY, function, load_if_lost
from services.runtime.clock import Clock
from services.runtime.telemetry import get_logger

_log = get_logger("ledger.ownership")

_VALKEY_ERRORS: Final = (NotConnected, Unanswered, RequestRefused)


@dataclass(frozen=True, slots=True)
class OwnershipOptions:
    """Times in seconds."""

    url: str = "redis://127.0.0.1:6379"
    db: int = 0
    partitions: int = PARTITIONS
    lease: float = 3.0
    """How long a partition stays with a worker that is not heard of."""
    interval: float = 0.5
    """How often leases are renewed and free partitions looked for."""
    stop_grace: float = 5.0
    """How long `PartitionListener.lost` may take when the worker stops."""


class PartitionListener(Protocol):
    """Starts and stops what a partition's owner does."""

    async def acquired(self, partition: int, fence: int) -> None:
        """This worker owns the partition now. Starts the work and returns; `fence` rises with every owner."""

    async def lost(self, partition: int) -> None:
        """The work must end. When the partition is given up by choice, its lease is released afterwards."""


@dataclass(slots=True)
class _Lease:
    fence: int
    until: float
    """Monotonic time at which the server may have given the partition to another worker."""


class Ownership:
    """The partitions of one worker. `worker` is a name without spaces that no other process uses."""

    def __init__(
        self, options: OwnershipOptions, worker: str, listener: PartitionListener, clock: Clock
    ) -> None:
        self._options = options
        self._worker = worker
        self._listener = listener
        self._clock = clock
        self._milliseconds: Final = int(options.lease * 1000)
        self._leases: dict[int, _Lease] = {}
        self._leaving: dict[int, asyncio.Task[None]] = {}
        self._failure: BaseException | None = None
        self._connection = Connection(
            Endpoint.parse(options.url, options.db, max(0.2, options.lease / 3)), prepare=(LOAD_LIBRARY,)
        )

    @property
    def owned(self) -> Mapping[int, int]:
        """Fencing number by partition."""
        return MappingProxyType({p: lease.fence for p, lease in self._leases.items()})

    async def run(self, stop: asyncio.Event) -> None:
        """Holds a fair share of the partitions until `stop`; then ends their work and releases them."""
        await self._connect(stop)
        try:
            while not stop.is_set():
                try:
                    await self._round()
                except _VALKEY_ERRORS as error:
                    _log.warning("partition leases could not be renewed", error=str(error))
                    await self._drop_expired()
                    if isinstance(error, RequestRefused) and self._connection.connected:
                        await load_if_lost(self._connection, error)
                await _wait(stop, self._options.interval)
        finally:
            await self._stop()

    async def _connect(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await self._connection.open()
                return
            except _VALKEY_ERRORS as error:
                _log.warning("no connection for partition leases", error=str(error))
                await _wait(stop, self._options.interval)

    async def _round(self) -> None:
        if self._failure is not None:
            raise self._failure
        await self._renew()
        workers = await self._call("present", keys.WORKERS, count=1)
        share = -(-self._options.partitions // max(1, workers))
        mine = [p for p in self._leases if p not in self._leaving]
        for partition in mine[share:]:
            self._leave_soon(partition)
        if len(mine) < share:
            await self._acquire(share - len(mine))

    async def _renew(self) -> None:
        asked = self._clock.monotonic()
        partitions = list(self._leases)
        answers = await asyncio.gather(*(self._take(p) for p in partitions), return_exceptions=True)
        failed: BaseException | None = None
        for partition, answer in zip(partitions, answers, strict=True):
            lease = self._leases.get(partition)
            if isinstance(answer, BaseException):
                failed = answer
            elif lease is None:
                continue
            elif answer == lease.fence:
                lease.until = asked + self._options.lease
            else:
                # The lease had expired: another worker owned the partition, and may own it still.
                leaving = partition in self._leaving
                await self._lose(partition)
                if answer and not leaving:
                    await self._begin(partition, answer, asked)
        if failed is not None:
            raise failed

    async def _acquire(self, wanted: int) -> None:
        for partition in range(self._options.partitions):
            if not wanted:
                return
            if partition in self._leases:
                continue
            if await self._connection.request("EXISTS", keys.lease(partition)):
                continue
            asked = self._clock.monotonic()
            fence = await self._take(partition)
            if fence:
                wanted -= 1
                await self._begin(partition, fence, asked)

    async def _begin(self, partition: int, fence: int, asked: float) -> None:
        self._leases[partition] = _Lease(fence, asked + self._options.lease)
        _log.info("partition acquired", partition=partition, fence=fence)
        await self._listener.acquired(partition, fence)

    def _leave_soon(self, partition: int) -> "asyncio.Task[None]":
        task = self._leaving.get(partition)
        if task is None:
            task = self._leaving[partition] = asyncio.create_task(self._leave(partition))
            task.add_done_callback(self._left)
        return task

    def _left(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()

    async def _leave(self, partition: int) -> None:
        """Gives up a partition by choice: its lease goes on until its work has ended."""
        try:
            await self._listener.lost(partition)
            if self._leases.pop(partition, None) is not None:
                _log.info("partition released", partition=partition)
                await self._call("release", keys.lease(partition), count=1)
        except _VALKEY_ERRORS as error:
            _log.warning("a partition's lease is left to expire", partition=partition, error=str(error))
        finally:
            self._leaving.pop(partition, None)

    async def _lose(self, partition: int) -> None:
        self._leases.pop(partition, None)
        if partition not in self._leaving:
            _log.warning("partition lost", partition=partition)
            await self._listener.lost(partition)

    async def _drop_expired(self) -> None:
        now = self._clock.monotonic()
        for partition in [p for p, lease in self._leases.items() if lease.until <= now]:
            await self._lose(partition)

    async def _stop(self) -> None:
        leaving = [self._leaving.get(p) or asyncio.create_task(self._leave(p)) for p in list(self._leases)]
        if leaving:
            _, unfinished = await asyncio.wait(leaving, timeout=self._options.stop_grace)
            for task in unfinished:
                task.cancel()
        try:
            await self._connection.request("ZREM", keys.WORKERS, self._worker)
        except _VALKEY_ERRORS as error:
            _log.warning("presence is left to expire", error=str(error))
        await self._connection.close()

    async def _take(self, partition: int) -> int:
        """The partition's fencing number if this worker holds it now, else 0."""
        return int(await self._call("lease", keys.lease(partition), keys.fence(partition), count=2))

    async def _call(self, name: str, *named: str, count: int) -> Any:
        extra = () if name == "release" else (self._milliseconds,)
        return await self._connection.request("FCALL", function(name), count, *named, self._worker, *extra)


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
