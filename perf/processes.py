"""CPU time and memory of processes with their children, and the pace of the machine meanwhile."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from types import TracebackType
from typing import Final, Self

import psutil

_PACE_EVERY_SEC: Final = 0.25
_GROWTH_ALLOWED: Final = 1.15
_GROWTH_FREE_MIB: Final = 24.0


def calibration() -> None:
    """A fixed piece of Python of the kind that the services run: decimals, dictionaries, small strings."""
    total, seen = Decimal(0), {}
    for i in range(50):
        total += Decimal(i) * Decimal("45000.25")
        seen[f"key-{i}"] = (i, total)
    for key, (i, value) in seen.items():
        if key.endswith("9") and value > i:
            total -= value


def pace_micros() -> float:
    """CPU µs that `calibration` takes now: more when the processor is shared or throttled."""
    begin = time.thread_time()
    for _ in range(5):
        calibration()
    return (time.thread_time() - begin) / 5 * 1e6


def tree(pid: int) -> list[psutil.Process]:
    """A process and its descendants that live now."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_seconds(pid: int) -> float:
    """User and system time of a process tree since its start."""
    total = 0.0
    for process in tree(pid):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def pss_mib(pid: int) -> float:
    """Proportional set size of a process tree: shared pages are counted once over those that share them."""
    total = 0
    for process in tree(pid):
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total / 2**20


def is_flat(sizes: Sequence[float]) -> bool:
    """Whether memory (MiB, in the order of time) stays where it is once caches are filled."""
    if not sizes:
        return False
    early, late = _quarters(sizes)
    return late <= early * _GROWTH_ALLOWED + _GROWTH_FREE_MIB


def growth_told(sizes: Sequence[float]) -> str:
    """What `is_flat` compares, in words."""
    if not sizes:
        return "not measured"
    early, late = _quarters(sizes)
    return f"{early:.0f} MiB in the second quarter, {late:.0f} in the last, {max(sizes):.0f} at most"


def _quarters(sizes: Sequence[float]) -> tuple[float, float]:
    """Medians of the second and of the last quarter: the first one fills caches."""
    quarter = max(1, len(sizes) // 4)
    return statistics.median(sizes[quarter : 2 * quarter] or sizes), statistics.median(sizes[-quarter:])


@dataclass(slots=True)
class Usage:
    """What processes used while a load ran, by their name."""

    cpu_seconds: dict[str, float] = field(default_factory=dict)
    pss_mib: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """(seconds since the beginning, MiB) samples."""

    paces: list[float] = field(default_factory=list)
    """Samples of `pace_micros`."""

    @property
    def pace(self) -> float:
        """Median of the samples; NaN without any."""
        return statistics.median(self.paces) if self.paces else float("nan")

    def cpu_micros(self, requests: int) -> dict[str, float]:
        """CPU µs a request of each process."""
        return {name: used / requests * 1e6 for name, used in self.cpu_seconds.items()} if requests else {}


class Watch:
    """Samples processes while a `with` block runs; the result stands in `usage` afterwards."""

    def __init__(self, pids: Mapping[str, int], every_sec: float = 1.0) -> None:
        self._pids = dict(pids)
        self._every_sec = every_sec
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.usage = Usage(pss_mib={name: [] for name in pids})

    def __enter__(self) -> Self:
        self._begin = time.monotonic()
        self._before = {name: cpu_seconds(pid) for name, pid in self._pids.items()}
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, pid in self._pids.items():
            self.usage.cpu_seconds[name] = cpu_seconds(pid) - self._before[name]
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        memory_at = self._begin
        while True:
            if time.monotonic() >= memory_at:
                memory_at += self._every_sec
                for name, pid in self._pids.items():
                    self.usage.pss_mib[name].append((time.monotonic() - self._begin, pss_mib(pid)))
            self.usage.paces.append(pace_micros())
            if self._stop.wait(_PACE_EVERY_SEC):
                return
