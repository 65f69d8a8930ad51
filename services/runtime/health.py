"""Health of a service: what its dependencies answered lately, and what callers are told of it.

Probes run in the background and the answer is read from memory, so a health check costs nothing and cannot
hang on a dependency. Only critical dependencies make the service unhealthy (503, NOT_SERVING).
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal

from services.runtime.telemetry import get_logger

Status = Literal["healthy", "degraded", "unhealthy"]
Probe = Callable[[], Awaitable[object]]

PROBE_TIMEOUT_SEC: Final = 2.0
RETRY_AFTER_SEC: Final = 1.0
"""A failing dependency is probed this often, so that its return is seen soon."""
STOPPING: Final = "stopping"

_log = get_logger("runtime.health")


@dataclass(slots=True)
class _Dependency:
    critical: bool
    probe: Probe | None
    healthy: bool = False
    known: bool = False
    reason: str = "not probed yet"


class HealthBoard:
    """What is known of every dependency. One a worker."""

    def __init__(self, interval_sec: float, timeout_sec: float = PROBE_TIMEOUT_SEC) -> None:
        """Probes every `interval_sec` seconds; a probe longer than `timeout_sec` has failed."""
        self._interval_sec = interval_sec
        self._timeout_sec = timeout_sec
        self._dependencies: dict[str, _Dependency] = {}
        self._listeners: list[Callable[[Status], None]] = []
        self._stopping = False
        self._last: Status = "healthy"

    def register(self, name: str, critical: bool, probe: Probe | None = None) -> None:
        """Adds a dependency, unhealthy until it is first seen healthy.

        `probe` returns when the dependency works and raises when it does not; None: only `report` tells.
        """
        self._dependencies[name] = _Dependency(critical, probe)
        self._tell()

    def report(self, name: str, healthy: bool, reason: str = "") -> None:
        """Says at once what is known of a dependency, without waiting for its probe (a lost connection)."""
        dependency = self._dependencies[name]
        if dependency.healthy != healthy or not dependency.known:
            log = _log.info if healthy else _log.warning
            log("dependency healthy" if healthy else "dependency unhealthy", dependency=name, reason=reason)
        dependency.healthy, dependency.known, dependency.reason = healthy, True, reason
        self._tell()

    def stopping(self) -> None:
        """From now on unhealthy whatever the dependencies say: first step of a stop."""
        self._stopping = True
        self._tell()

    def on_change(self, listener: Callable[[Status], None]) -> None:
        """Calls `listener` now and whenever the status changes."""
        self._listeners.append(listener)
        listener(self.status()[0])

    def status(self) -> tuple[Status, list[str]]:
        """The status and the sorted names that explain it: missing critical ones, else degraded ones, else
        none."""
        missing = sorted(name for name, one in self._dependencies.items() if one.critical and not one.healthy)
        if self._stopping:
            missing.append(STOPPING)
        if missing:
            return "unhealthy", missing
        degraded = sorted(name for name, one in self._dependencies.items() if not one.healthy)
        return ("degraded", degraded) if degraded else ("healthy", [])

    def body(self) -> tuple[int, dict[str, object]]:
        """HTTP status and JSON of `GET /health`."""
        status, names = self.status()
        if status == "unhealthy":
            return 503, {"status": status, "missing": names}
        return 200, {"status": status, "degraded": names} if names else {"status": status}

    async def run(self) -> None:
        """Probes until cancelled. To be owned: `context.own(board.run(), "health")`."""
        async with asyncio.TaskGroup() as group:
            for name, dependency in self._dependencies.items():
                if dependency.probe is not None:
                    group.create_task(self._keep_probing(name, dependency.probe), name=f"probe {name}")
            # Holds the group open when there is nothing to probe.
            await asyncio.get_running_loop().create_future()

    async def probe_once(self) -> None:
        """Probes everything once; for the start, before the first answer."""
        probes = [(name, one.probe) for name, one in self._dependencies.items() if one.probe is not None]
        await asyncio.gather(*(self._probe(name, probe) for name, probe in probes))

    async def _keep_probing(self, name: str, probe: Probe) -> None:
        while True:
            await self._probe(name, probe)
            healthy = self._dependencies[name].healthy
            await asyncio.sleep(self._interval_sec if healthy else min(self._interval_sec, RETRY_AFTER_SEC))

    async def _probe(self, name: str, probe: Probe) -> None:
        # In a task of its own: a cancellation that the client library forgets (see `tasks.end`) must not be
        # forgotten by the task that probes for ever.
        asking = asyncio.get_running_loop().create_task(_asked(probe))
        asking.add_done_callback(_retrieve)
        try:
            await asyncio.wait([asking], timeout=self._timeout_sec)
        finally:
            asking.cancel()
        if not asking.done() or asking.cancelled():
            self.report(name, False, f"no answer in {self._timeout_sec:g} s")
        elif (error := asking.exception()) is not None:
            self.report(name, False, f"{type(error).__name__}: {error}")
        else:
            self.report(name, True)

    def _tell(self) -> None:
        status = self.status()[0]
        if status != self._last:
            self._last = status
            for listener in self._listeners:
                listener(status)


async def _asked(probe: Probe) -> None:
    await probe()


def _retrieve(asking: "asyncio.Task[None]") -> None:
    """What a probe raises that nobody waits for any more is no news."""
    if not asking.cancelled():
        asking.exception()
