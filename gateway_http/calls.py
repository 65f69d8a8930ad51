"""The calls that are running: how many there may be, and how they end when the service stops."""

import asyncio
import contextlib
from typing import Any, Final, Protocol

from services.runtime.errors import ResourceExhausted, ServiceError, Unavailable
from services.runtime.tasks import end

STOPPING: Final = "STOPPING"


class Admission(Protocol):
    """A bound on open calls, shared with the gRPC server (`admission.Admission`)."""

    in_flight: int
    limit: int

    def refusal(self) -> ResourceExhausted: ...


class OpenCalls:
    """Unary calls run to their end whatever happens to their callers; streams are ended on a stop."""

    __slots__ = ("_admission", "_idle", "_streams", "_tasks", "_unary", "stopping")

    def __init__(self, admission: Admission | None) -> None:
        self._admission = admission
        self._unary = 0
        self._idle: asyncio.Event | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._streams: set[asyncio.Task[Any]] = set()
        self.stopping = False

    def refusal(self) -> ServiceError | None:
        """Why a new call is not taken now; None: it is."""
        if self.stopping:
            return Unavailable("the service is stopping", reason=STOPPING)
        admission = self._admission
        if admission is not None and admission.in_flight >= admission.limit:
            return admission.refusal()
        return None

    def enter(self) -> None:
        """Counts a unary call until `leave`; `refusal` was asked just before."""
        self._unary += 1
        if self._admission is not None:
            self._admission.in_flight += 1

    def leave(self) -> None:
        self._unary -= 1
        if self._admission is not None:
            self._admission.in_flight -= 1
        if self._idle is not None and not self._unary:
            self._idle.set()

    def hold(self, task: asyncio.Task[Any]) -> None:
        """Keeps a task that nobody waits for: the event loop alone would let it be collected."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def own_stream(self, task: asyncio.Task[Any]) -> None:
        """Counts a stream until its end; a stop cancels it."""
        self._streams.add(task)
        task.add_done_callback(self._stream_ended)
        if self._admission is not None:
            self._admission.in_flight += 1

    async def stop(self, grace_sec: float) -> None:
        """Takes no more calls, ends the streams, waits at most `grace_sec` seconds for the unary calls."""
        self.stopping = True
        self._idle = asyncio.Event()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_sec):
                await end(*self._streams)
                if self._unary:
                    await self._idle.wait()

    def _stream_ended(self, task: asyncio.Task[Any]) -> None:
        self._streams.discard(task)
        if self._admission is not None:
            self._admission.in_flight -= 1
