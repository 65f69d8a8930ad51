"""Metrics of a process, merged over the workers of a service.

prometheus_client in multiprocess mode: every worker writes its values to files in one folder, and the
supervisor merges them when it is asked for `/metrics`. The files are named after the worker's index instead
of its process id, so a restarted worker goes on counting where the dead one stopped, and files do not pile
up; the gauges of a dead worker are removed. Without a supervisor (tests, tools) the same calls count in the
process alone.

Observations are gathered in plain lists and folded into the files when they are read or every `FOLD_AFTER`
values, because a value file costs microseconds a write and the hot path has thousands of observations a
second.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import prometheus_client
from prometheus_client import CollectorRegistry, values
from prometheus_client.multiprocess import MultiProcessCollector

MULTIPROCESS_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
WORKER_VARIABLE: Final = "TRADE2026_WORKER_INDEX"
LATENCY_BUCKETS_MS: Final = (
    *(0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.5, 10.0),
    *(15.0, 20.0, 30.0, 50.0, 75.0, 100.0, 200.0, 500.0, 1000.0, 2500.0, 5000.0),
)
"""Bounds of latency histograms, in milliseconds."""

CONTENT_TYPE: Final = prometheus_client.CONTENT_TYPE_LATEST

if MULTIPROCESS_VARIABLE in os.environ and WORKER_VARIABLE in os.environ:
    _index = os.environ[WORKER_VARIABLE]
    values.ValueClass = values.MultiProcessValue(  # type: ignore[no-untyped-call]
        process_identifier=lambda: _index
    )

_declared: Final[dict[str, Any]] = {}


def histogram(
    name: str, documentation: str, labels: Sequence[str] = (), buckets: Sequence[float] = LATENCY_BUCKETS_MS
) -> prometheus_client.Histogram:
    """The histogram `name`, declared at the first call. Use `.observe(value)`,
    `.labels(...).observe(value)`."""
    if name not in _declared:
        _declared[name] = prometheus_client.Histogram(name, documentation, labels, buckets=tuple(buckets))
    found = _declared[name]
    assert isinstance(found, prometheus_client.Histogram), f"{name} is declared as another kind"
    return found


def counter(name: str, documentation: str, labels: Sequence[str] = ()) -> prometheus_client.Counter:
    """The counter `name` (exported with the suffix `_total`), declared at the first call."""
    if name not in _declared:
        _declared[name] = prometheus_client.Counter(name, documentation, labels)
    found = _declared[name]
    assert isinstance(found, prometheus_client.Counter), f"{name} is declared as another kind"
    return found


def gauge(
    name: str,
    documentation: str,
    labels: Sequence[str] = (),
    merge: Literal["livesum", "livemax", "livemin", "liveall"] = "livesum",
) -> prometheus_client.Gauge:
    """The gauge `name`, declared at the first call; `merge` says what the values of the living workers
    become."""
    if name not in _declared:
        _declared[name] = prometheus_client.Gauge(name, documentation, labels, multiprocess_mode=merge)
    found = _declared[name]
    assert isinstance(found, prometheus_client.Gauge), f"{name} is declared as another kind"
    return found


def merged_metrics(folder: Path) -> bytes:
    """The text that Prometheus reads, over all workers that write to `folder`."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
    return prometheus_client.generate_latest(registry)


def own_metrics() -> bytes:
    """The text of this process's metrics alone; for a process without a supervisor."""
    return prometheus_client.generate_latest(prometheus_client.REGISTRY)


def drop_gauges(folder: Path, worker: int) -> None:
    """Forgets the gauges of a dead worker; its counters and histograms stay."""
    for file in _gauge_files(folder, worker):
        file.unlink(missing_ok=True)


def _gauge_files(folder: Path, worker: int) -> Iterator[Path]:
    yield from folder.glob(f"gauge_live*_{worker}.db")
