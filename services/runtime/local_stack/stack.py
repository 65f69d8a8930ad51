"""Supervision of the parts: started in stages, restarted when they die, stopped in reverse."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.runtime.local_stack.part import Part, PartFailed, PartUnavailable
from services.runtime.local_stack.ports import is_free, port_holder

_POLL_SEC = 0.1
_REPORT_WAITING_EVERY_SEC = 5.0
_SETTLE_SEC = 15.0
_FIRST_BACKOFF_SEC = 0.25
_LONGEST_BACKOFF_SEC = 10.0
_STEADY_AFTER_SEC = 30.0


class PortsTaken(Exception):
    """Somebody else listens on ports of the stack; the message names each holder."""


class StackStopped(Exception):
    """The operator asked for the end while the stack was starting."""


@dataclass(slots=True)
class _Watch:
    """What the supervisor remembers of one part."""

    part: Part
    started_at: float = 0.0
    up: bool = False
    """It was started and reached health since, so its death is to be repaired."""

    restart_at: float | None = None
    recovering: bool = False
    failures: int = 0


class Stack:
    """Parts under supervision. All methods are called from the main thread.

    `say` receives one line for a person about each thing that happens, `changed` is called when a process id
    did, `stopping` tells whether the operator wants the end (asked often, must be cheap).
    """

    def __init__(
        self,
        stages: Sequence[Sequence[Part]],
        say: Callable[[str], None],
        changed: Callable[[], None] = lambda: None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._stages = [[_Watch(part) for part in stage] for stage in stages]
        self._say = say
        self._changed = changed
        self._stopping = stopping

    @property
    def parts(self) -> Sequence[Part]:
        """All parts in the order of their start."""
        return [watch.part for watch in self._watches()]

    def check_ports(self) -> None:
        """Raise PortsTaken when one of the ports is not free."""
        taken = [
            f"{part.name} needs port {port}, which is taken by {port_holder(port)}"
            for part in self.parts
            for port in part.ports
            if not is_free(port)
        ]
        if taken:
            raise PortsTaken("\n".join([*taken, "`--port-offset N` moves every port of the stack by N"]))

    def start(self) -> None:
        """Start all stages, each when the one before serves; returns when everything does.

        Raises PartFailed or PartUnavailable, which name the part, and StackStopped; nothing is stopped then.
        """
        for stage in self._stages:
            for watch in stage:
                watch.part.start()
                watch.started_at = time.monotonic()
            self._changed()
            for watch in stage:
                self._await_health(watch)

    def tick(self) -> None:
        """Look at every part once: notice its death, start it again after its back-off, notice its return."""
        for watch in self._watches():
            if watch.up:
                self._look_at(watch)

    def stop(self, forced: Callable[[], bool] = lambda: False) -> None:
        """Stop all in reverse, each stage in parallel; `forced` (asked often) ends the patience."""
        for stage in reversed(self._stages):
            for watch in stage:
                watch.up = False
                watch.part.request_stop()
            for watch in stage:
                patience = time.monotonic() + watch.part.stop_timeout_sec
                while watch.part.running and time.monotonic() < patience and not forced():
                    time.sleep(_POLL_SEC / 2)
                if watch.part.running:
                    why = "at once" if forced() else "because it did not end by itself"
                    self._say(f"{watch.part.name}: killed {why}")
                watch.part.finish_stop(timeout_sec=0)

    def _watches(self) -> Sequence[_Watch]:
        return [watch for stage in self._stages for watch in stage]

    def _await_health(self, watch: _Watch) -> None:
        part = watch.part
        deadline = watch.started_at + part.start_timeout_sec
        settled = deadline
        report_at = time.monotonic() + _REPORT_WAITING_EVERY_SEC
        while True:
            if self._stopping():
                raise StackStopped
            if not part.running:
                raise part.failure(part.exit_reason())
            health = part.probe()
            now = time.monotonic()
            if health.ready:
                settled = min(settled, now + _SETTLE_SEC)  # what it lacks usually comes with the next moments
            if health.healthy or (health.ready and now >= settled):
                break
            if now >= deadline:
                raise part.failure(
                    f"did not become healthy in {part.start_timeout_sec:.0f} s ({health.detail})"
                )
            if now >= report_at:
                report_at = now + _REPORT_WAITING_EVERY_SEC
                self._say(f"{part.name}: waiting ({health.detail})")
            self.tick()
            time.sleep(_POLL_SEC)
        watch.up = True
        took = time.monotonic() - watch.started_at
        where = "  ".join(f"{protocol} {address}" for protocol, address in part.addresses.items())
        state = "healthy" if health.healthy else health.detail
        self._say(f"{part.name}: {state} after {took:.1f} s  pid {part.pid}  {where}")

    def _look_at(self, watch: _Watch) -> None:
        part, now = watch.part, time.monotonic()
        if watch.restart_at is not None:
            if now >= watch.restart_at:
                self._start_again(watch)
        elif not part.running:
            if now - watch.started_at > _STEADY_AFTER_SEC:
                watch.failures = 0
            self._schedule_restart(watch, part.exit_reason())
        elif watch.recovering and part.probe().ready:
            watch.recovering = False
            self._say(f"{part.name}: is back after {now - watch.started_at:.1f} s  pid {part.pid}")

    def _schedule_restart(self, watch: _Watch, reason: str) -> None:
        delay = min(_FIRST_BACKOFF_SEC * 2**watch.failures, _LONGEST_BACKOFF_SEC)
        watch.failures += 1
        watch.restart_at = time.monotonic() + delay
        self._say(f"{watch.part.name}: {reason}; starting it again in {delay:g} s")
        self._changed()

    def _start_again(self, watch: _Watch) -> None:
        watch.started_at = time.monotonic()
        try:
            watch.part.start()
        except (PartUnavailable, PartFailed, OSError) as error:
            self._schedule_restart(watch, f"cannot be started ({error})")
            return
        watch.restart_at = None
        watch.recovering = True
        self._changed()
