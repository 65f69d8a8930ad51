"""Function calls of an order in each service: a measure of work that no other load on the machine can move.

python -m perf.calls [--functions N]

The workers count every call of a Python or C function on their event loop, once while nothing is asked of the
platform and once under a load of orders; what they do when idle is subtracted.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from perf import requests as r
from perf.cases import http
from perf.ending import stop_in_order
from perf.load import ROOT, Load, ToolMissing
from perf.platform import PATIENT_SEC, Platform
from perf.stages import SERVICES, workers
from services.runtime.local_stack import PartFailed, PartUnavailable

IN_FLIGHT: Final = 32
_SECONDS: Final = 8.0
_FLUSH_SEC: Final = 1
_WRITE_SEC: Final = 30.0
_FOLDERS: Final = re.compile(rf" \([^(]*(/site-packages/|/lib/python3\.\d+/)| \({re.escape(str(ROOT))}/")


@dataclass(frozen=True, slots=True)
class Calls:
    """Of one service."""

    service: str
    by_function: Mapping[str, float]
    """`name (file)` → calls an order; functions in C are `name (C)`."""
    idle_a_second: float

    @property
    def total(self) -> float:
        """Calls an order."""
        return sum(self.by_function.values())

    @property
    def by_file(self) -> dict[str, float]:
        """Calls an order by file, most first."""
        found: dict[str, float] = defaultdict(float)
        for function, number in self.by_function.items():
            found[function.rpartition("(")[2].rstrip(")")] += number
        return dict(sorted(found.items(), key=lambda item: -item[1]))


def count() -> list[Calls]:
    """Starts a platform, loads it with orders by REST and counts."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "calls"
        variables = {
            "PYTHONPATH": str(Path(__file__).parent / "counting"),
            "PERF_CALLS": str(target),
            "TRADE2026_OMS__QUESTDB__FLUSH_INTERVAL_SEC": str(_FLUSH_SEC),
        }
        with Platform(patience_sec=2 * PATIENT_SEC, variables=variables) as platform:
            return _count(platform, target)


def _count(platform: Platform, target: Path) -> list[Calls]:
    bodies = [r.order_body(number) for number in range(r.CYCLE)]
    drive = http(platform.rest("oms", "/orders"), bodies, in_flight=IN_FLIGHT, count_answers=True)
    pids = {service: workers(platform.pids()[service]) for service in SERVICES}

    def load() -> Load:
        done = drive(1, _SECONDS)
        platform.settle(60)
        time.sleep(2 * _FLUSH_SEC)  # until the stores have written what they gathered
        return done

    drive(0, 2.0)
    platform.settle(60)
    time.sleep(2 * _FLUSH_SEC)
    idle_sec, idle, _ = _window(pids, target, lambda: time.sleep(_SECONDS))
    busy_sec, busy, done = _window(pids, target, load)
    assert isinstance(done, Load)
    if done.answers.get("submitted", 0) < 0.99 * done.requests:
        raise RuntimeError(
            f"orders were not submitted, so there is nothing to count: {done.answers or done.outcomes}"
        )
    found = []
    for service in SERVICES:
        calls = {
            _FOLDERS.sub(" (", function): (number - idle[service][function] * busy_sec / idle_sec)
            / done.requests
            for function, number in busy[service].items()
        }
        found.append(Calls(service, calls, idle[service].total() / idle_sec))
    return found


def _window(
    pids: Mapping[str, list[int]], target: Path, work: Callable[[], object]
) -> tuple[float, dict[str, Counter[str]], object]:
    """Seconds, counts by service, and what `work` returned."""
    every = [pid for group in pids.values() for pid in group]
    for pid in every:
        os.kill(pid, signal.SIGUSR1)
    begin = time.monotonic()
    result = work()
    seconds = time.monotonic() - begin
    for pid in every:
        os.kill(pid, signal.SIGUSR2)
    counts: dict[str, Counter[str]] = {}
    for service, group in pids.items():
        counts[service] = Counter()
        for pid in group:
            counts[service].update(_written(target.with_name(f"{target.name}.{pid}")))
    return seconds, counts, result


def _written(file: Path) -> dict[str, int]:
    deadline = time.monotonic() + _WRITE_SEC
    while not file.exists():
        if time.monotonic() > deadline:
            raise RuntimeError(f"a worker did not write {file.name}")
        time.sleep(0.05)
    counts: dict[str, int] = json.loads(file.read_text())
    file.unlink()
    return counts


def table(calls: list[Calls], functions: int) -> str:
    """Markdown; the `functions` most called ones of each service."""
    lines = ["| service | calls of | an order |", "| --- | --- | ---: |"]
    for one in calls:
        lines.append(f"| **{one.service}** | everything | **{one.total:.0f}** |")
        lines += [f"| | {file} | {number:.1f} |" for file, number in one.by_file.items() if number >= 5]
        lines.append(f"| | (a second, when idle) | {one.idle_a_second:.0f} |")
        most = sorted(one.by_function.items(), key=lambda item: -item[1])[:functions]
        lines += [f"| | `{function}` | {number:.1f} |" for function, number in most]
    return "\n".join(lines)


def main() -> int:
    """Prints the table; 2 when a tool or a server is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m perf.calls", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--functions", type=int, default=0, help="the most called functions too")
    asked = parser.parse_args()
    stop_in_order()
    try:
        print(table(count(), asked.functions))
    except (ToolMissing, PartUnavailable, PartFailed) as missing:
        print(missing, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
