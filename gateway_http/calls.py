"""The calls that are running: how many there may be, and how they end when the service stops."""

import asyncio
import contextlib
from typing import Any, Final, Protocol

from services.runtime.errors import ResourceExhausted, ServiceError, Unavailable

STOPPING: Final = "STOPPING"


class Admission(Protocol):
    """A bound on open calls, shared with the gRPC server (`grpc_engine.Admission`)."""

    in_flight: int
    limit: int

    def refusal(self) -> ResourceExhausted: ...


class OpenCalls:
    """Unary calls run to their end whatever happens to their callers; streams are ended on a stop."""

    __slots__ = ("_admission", "_streams", "_unary", "stopping")

    def __init__(self, admission: Admission | None) -> None:
        self._admission = admission
        self._unary: set[asyncio.Task[Any]] = set()
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

    def own_unary(self, task: asyncio.Task[Any]) -> None:
        """Counts a unary call until its end."""
        self._own(task, self._unary)

    def own_stream(self, task: asyncio.Task[Any]) -> None:
        """Counts a stream until its end; a stop cancels it."""
        self._own(task, self._streams)

    async def stop(self, grace_sec: float) -> None:
        """Takes no more calls, ends the streams, waits at most `grace_sec` seconds for the unary calls."""
        self.stopping = True
        for stream in self._streams:
            stream.cancel()
        running = self._unary | self._streams
        if running:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait(running, timeout=grace_sec)

    def _own(self, task: asyncio.Task[Any], tasks: set[asyncio.Task[Any]]) -> None:
        admission = self._admission
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        if admission is not None:
            admission.in_flight += 1
            task.add_done_callback(self._leave)

    def _leave(self, _: asyncio.Task[Any]) -> None:
        assert self._admission is not None
        self._admission.in_flight -= 1
