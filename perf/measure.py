"""One case of the report: a load, its consequences, what processes used, and its floor in the same run."""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from perf.load import Load, wait_for_ports
from perf.machine import Moment
from perf.processes import Usage, Watch

Drive = Callable[[int, float], Load]
"""Runs the load once: (number of the run, so that ids differ; seconds) → what the tool measured."""

Outcomes = Callable[[], Counter[str]]
"""Orders so far by what their clients were told, as the service counts it."""

Settle = Callable[[], tuple[float, int]]
"""Waits for what a load has caused: (seconds that it took, what was missing when the wait was given up)."""

WARM_UP_SHARE: Final = 0.2
"""Of a run's seconds; a warm-up comes before the first run of a case and of its floor."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of a load."""

    load: Load
    cpu_micros: Mapping[str, float]
    """CPU µs a request of each process, consequences included."""
    client_micros: float
    """CPU µs a request of the load tool, which runs on the same machine."""
    others: float
    """Share (0 … 1) of the machine's CPU time that others used meanwhile."""
    pace: float
    """CPU µs that a fixed piece of Python took meanwhile (`processes.calibration`)."""
    settled_sec: float = 0.0
    """Seconds after the last answer until every consequence had happened (fills booked and told)."""
    unsettled: int = 0
    """Consequences that were missing when the wait was given up."""
    outcomes: Mapping[str, int] = field(default_factory=dict)
    """Orders by what their clients were told, as the service counts it; empty for other loads."""
    pss_mib: Mapping[str, float] = field(default_factory=dict)
    """Largest memory of each process with its children."""
    memory: Mapping[str, list[tuple[float, float]]] = field(default_factory=dict)
    """The same over time: (seconds since the beginning, MiB)."""


@dataclass(frozen=True, slots=True)
class Case:
    """What to measure."""

    name: str
    group: str
    setting: str
    """Engine, workers, durability."""
    drive: Drive
    pids: Mapping[str, int]
    floor: Drive | None = None
    floor_name: str = ""
    floor_pids: Mapping[str, int] = field(default_factory=dict)
    settle: Settle | None = None
    outcomes: Outcomes | None = None
    items: int = 1
    """Orders or checks a request carries; rates and CPU are given for each of them."""


@dataclass(frozen=True, slots=True)
class Row:
    """A case as measured. The run shown is the middle one of several, by throughput or, open loop, by P99."""

    name: str
    group: str
    setting: str
    items: int
    shown: Measured
    runs: list[Measured]
    floor_name: str = ""
    floor: Measured | None = None
    note: str = ""

    @property
    def rate(self) -> float:
        """Orders, checks or requests answered without error a second."""
        load = self.shown.load
        return (load.requests - load.errors) / load.seconds * self.items if load.seconds else 0.0

    @property
    def denied(self) -> int:
        """Orders of the shown run that were not submitted."""
        return sum(count for told, count in self.shown.outcomes.items() if told != "submitted")

    @property
    def floor_rate(self) -> float | None:
        """The floor's."""
        return self.floor.load.rate * self.items if self.floor else None

    def centile(self, name: str) -> float:
        """Of the shown run, ms."""
        return self.shown.load.latencies.get(name, float("nan"))

    @property
    def rate_ratio(self) -> float | None:
        """Throughput as a share of the floor's (closed loop)."""
        return self.rate / self.floor_rate if self.floor_rate else None

    @property
    def p50_ratio(self) -> float | None:
        """P50 as a multiple of the floor's."""
        floor = self.floor.load.latencies.get("P50") if self.floor else None
        return self.centile("P50") / floor if floor else None

    def as_json(self) -> dict[str, Any]:
        """Everything, for the report's JSON."""
        derived = {"rate": self.rate, "rate_ratio": self.rate_ratio, "p50_ratio": self.p50_ratio}
        return {**asdict(self), **derived}


def measure(
    drive: Drive,
    run: int,
    seconds: float,
    pids: Mapping[str, int],
    settle: Settle | None = None,
    outcomes: Outcomes | None = None,
) -> Measured:
    """Runs a load once, waits for its consequences, and says what everything used."""
    wait_for_ports()
    told = outcomes() if outcomes else Counter[str]()
    before = Moment.now()
    client_before, self_before = children_cpu(), time.process_time()
    with Watch(pids) as watch:
        load = drive(run, seconds)
        client = children_cpu() - client_before
        settled, left = settle() if settle else (0.0, 0)
    usage: Usage = watch.usage
    ours = client + time.process_time() - self_before + sum(usage.cpu_seconds.values())
    return Measured(
        load=load,
        cpu_micros=usage.cpu_micros(load.requests),
        client_micros=client / load.requests * 1e6 if load.requests else 0.0,
        others=Moment.now().others(before, ours),
        pace=usage.pace,
        settled_sec=settled,
        unsettled=left,
        outcomes=dict(outcomes() - told) if outcomes else {},
        pss_mib={
            name: max(size for _, size in samples) for name, samples in usage.pss_mib.items() if samples
        },
        memory=usage.pss_mib,
    )


def carry_out(case: Case, seconds: float, rounds: int) -> Row:
    """Measures a case and its floor in turn, `rounds` times, after a warm-up of each."""
    runs: list[Measured] = []
    floors: list[Measured] = []
    if case.floor:
        case.floor(0, seconds * WARM_UP_SHARE)
    case.drive(0, seconds * WARM_UP_SHARE)
    if case.settle:
        case.settle()
    for run in range(1, rounds + 1):
        if case.floor:
            floors.append(measure(case.floor, run, seconds, case.floor_pids))
        runs.append(measure(case.drive, run, seconds, case.pids, case.settle, case.outcomes))
    row = Row(
        name=case.name,
        group=case.group,
        setting=case.setting,
        items=case.items,
        shown=middle(runs),
        runs=runs,
        floor_name=case.floor_name,
        floor=middle(floors) if floors else None,
    )
    say(row)
    return row


def middle(runs: list[Measured]) -> Measured:
    """The median run: by P99 when a rate was offered, by throughput otherwise."""

    def quality(run: Measured) -> float:
        return run.load.latencies.get("P99", 0.0) if run.load.offered_rate else -run.load.rate

    return sorted(runs, key=quality)[len(runs) // 2]


def say(row: Row) -> None:
    """One line on standard error as soon as a case is done."""
    load = row.shown.load
    shown = "  ".join(f"{name} {value:.2f}" for name, value in load.latencies.items())
    ratio = f"  {row.rate_ratio:.2f} × {row.floor_name}" if row.rate_ratio and not load.offered_rate else ""
    errors = f"  {load.errors} ERRORS" if load.errors else ""
    print(
        f"{row.name} ({row.setting}): {row.rate:,.0f}/s  {shown} ms{ratio}{errors}"
        f"  others {row.shown.others:.0%} pace {row.shown.pace:.0f} µs",
        file=sys.stderr,
        flush=True,
    )


def children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
