"""Time, injectable: code that reads a clock takes a `Clock`, so that tests can move it."""

import time
from typing import Protocol


class Clock(Protocol):
    """Wall clock and monotonic clock of one process."""

    def now_ns(self) -> int:
        """Nanoseconds since 1970-01-01 UTC; may jump when the machine's clock is set."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never goes back. For ages and deadlines."""


class SystemClock:
    """The machine's clocks."""

    __slots__ = ()

    def now_ns(self) -> int:
        """See `Clock.now_ns`."""
        return time.time_ns()

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return time.monotonic()


class ManualClock:
    """A clock that stands still until a test moves it."""

    __slots__ = ("_monotonic", "_now_ns")

    def __init__(self, now_ns: int = 1_700_000_000_000_000_000, monotonic: float = 1_000.0) -> None:
        self._now_ns = now_ns
        self._monotonic = monotonic

    def now_ns(self) -> int:
        """See `Clock.now_ns`."""
        return self._now_ns

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Moves both clocks forward by `seconds` (≥ 0)."""
        if seconds < 0:
            raise ValueError("time moves forward; use set_wall_clock to set the wall clock back")
        self._now_ns += round(seconds * 1_000_000_000)
        self._monotonic += seconds

    def set_wall_clock(self, now_ns: int) -> None:
        """Sets the wall clock alone, as an operator or NTP does."""
        self._now_ns = now_ns
