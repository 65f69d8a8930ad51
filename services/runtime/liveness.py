"""Signs of life of a worker's event loop, for its supervisor.

A timer beats every 250 ms. One round of the loop can legitimately last longer, when thousands of requests
arrive at once; so every request that is begun counts as a sign of life too. What is silent then makes no
progress at all.
"""

import asyncio
import math
import os
from time import monotonic
from typing import Final

from services.runtime.metrics import fold, histogram

BEAT_SEC: Final = 0.25
BEAT: Final = b"."
READY_BEAT: Final = b"R"
"""Written once, when the worker is ready."""

_lag = histogram("event_loop_lag_ms", "How late the event loop ran a timer that was due")


class _Process:
    """The heart of this process, if it has a supervisor."""

    next_beat = math.inf
    heart: "Heart | None" = None


_process: Final = _Process()


def progress() -> None:
    """Says that the event loop is getting on; to be called at the beginning of each request (0.1 µs)."""
    if monotonic() >= _process.next_beat and _process.heart is not None:
        _process.heart.beat()


class Heart:
    """Beats into the supervisor's pipe."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pipe: int) -> None:
        """`pipe`: an open file descriptor, or -1 for a process without a supervisor."""
        self._loop = loop
        self._due = loop.time()
        self._pipe = pipe
        if pipe >= 0:
            os.set_blocking(pipe, False)
            os.set_inheritable(pipe, False)

    def start(self) -> None:
        """Beats from now on."""
        _process.heart = self
        self._due = self._loop.time()
        self._on_timer()

    def ready(self) -> None:
        """Tells that the start is over: from now on silence means that the loop hangs."""
        self._write(READY_BEAT)

    def beat(self) -> None:
        """One sign of life."""
        _process.next_beat = monotonic() + BEAT_SEC
        self._write(BEAT)

    def _on_timer(self) -> None:
        now = self._loop.time()
        _lag.observe(max(0.0, now - self._due) * 1000)
        fold()
        self.beat()
        self._due = now + BEAT_SEC
        self._loop.call_at(self._due, self._on_timer)

    def _write(self, beat: bytes) -> None:
        if self._pipe < 0:
            return
        try:
            os.write(self._pipe, beat)
        except BlockingIOError:
            pass  # the supervisor is paused, and will find many beats
        except BrokenPipeError:
            self._pipe = -1  # it is gone, and this process goes with it
