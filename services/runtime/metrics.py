"""Metrics of a process, merged over the workers of a service.

prometheus_client in multiprocess mode: every worker writes its values to files in one folder, and the
supervisor merges them when it is asked for `/metrics`. The files are named after the worker's index instead
of its process id, so a restarted worker goes on counting where the dead one stopped, and files do not pile
up; the gauges of a dead worker are removed. Without a supervisor (tests, tools) the same calls count in this
process alone.

A value file costs microseconds a write and the hot path has thousands of observations a second, so histograms
gather them in a list that `fold` writes, four times a second. A worker that is killed loses those of its last
250 ms.
"""

import os
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import prometheus_client
from prometheus_client import CollectorRegistry, values
from prometheus_client.multiprocess import MultiProcessCollector

MULTIPROCESS_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
WORKER_VARIABLE: Final = "TRADE2026_WORKER_INDEX"
CONTENT_TYPE: Final = prometheus_client.CONTENT_TYPE_LATEST
LATENCY_BUCKETS_MS: Final = (
    *(0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.5, 10.0),
    *(15.0, 20.0, 30.0, 50.0, 75.0, 100.0, 200.0, 500.0, 1000.0, 2500.0, 5000.0),
)
"""Bounds of latency histograms, in milliseconds."""
_FOLD_AT: Final = 4096

if MULTIPROCESS_VARIABLE in os.environ and WORKER_VARIABLE in os.environ:
    _index = os.environ[WORKER_VARIABLE]
    values.ValueClass = values.MultiProcessValue(  # type: ignore[no-untyped-call]
        process_identifier=lambda: _index
    )


class Histogram:
    """A distribution of values; `observe` costs about 0.1 µs."""

    __slots__ = ("_child", "_children", "_gathered", "_parent")

    def __init__(self, parent: prometheus_client.Histogram, *, labelled: bool) -> None:
        self._parent = parent
        self._child: Any = None if labelled else parent
        self._children: dict[tuple[str, ...], Histogram] = {}
        self._gathered: list[float] = []
        _histograms.append(self)

    def labels(self, *label_values: str) -> "Histogram":
        """The histogram of these label values; to be kept by callers on the hot path."""
        child = self._children.get(label_values)
        if child is None:
            child = self._children[label_values] = Histogram(
                self._parent.labels(*label_values), labelled=False
            )
        return child

    def observe(self, value: float) -> None:
        """Counts one value, in the unit that the histogram's name ends with."""
        gathered = self._gathered
        gathered.append(value)
        if len(gathered) >= _FOLD_AT:
            self.fold()

    def fold(self) -> None:
        """Writes what was gathered to where it can be read."""
        if not self._gathered:
            return
        gathered, self._gathered = self._gathered, []
        # What `prometheus_client.Histogram.observe` does for one value, done once for all of them.
        bounds, buckets = self._child._upper_bounds, self._child._buckets
        counts = [0] * len(bounds)
        for value in gathered:
            counts[bisect_left(bounds, value)] += 1
        for bucket, count in zip(buckets, counts, strict=True):
            if count:
                bucket.inc(count)
        self._child._sum.inc(sum(gathered))


Metric = TypeVar("Metric", Histogram, prometheus_client.Counter, prometheus_client.Gauge)

_declared: Final[dict[str, Any]] = {}
_histograms: Final[list[Histogram]] = []


def histogram(
    name: str, documentation: str, labels: Sequence[str] = (), buckets: Sequence[float] = LATENCY_BUCKETS_MS
) -> Histogram:
    """The histogram `name`, declared by the first call."""

    def declare() -> Histogram:
        parent = prometheus_client.Histogram(name, documentation, labels, buckets=tuple(buckets))
        return Histogram(parent, labelled=bool(labels))

    return _once(name, Histogram, declare)


def counter(name: str, documentation: str, labels: Sequence[str] = ()) -> prometheus_client.Counter:
    """The counter `name` (read as `<name>_total`), declared by the first call."""
    return _once(
        name, prometheus_client.Counter, lambda: prometheus_client.Counter(name, documentation, labels)
    )


def gauge(
    name: str,
    documentation: str,
    labels: Sequence[str] = (),
    merge: Literal["livesum", "livemax", "livemin"] = "livesum",
) -> prometheus_client.Gauge:
    """The gauge `name`, declared by the first call; `merge`: what the values of the living workers become."""

    def declare() -> prometheus_client.Gauge:
        return prometheus_client.Gauge(name, documentation, labels, multiprocess_mode=merge)

    return _once(name, prometheus_client.Gauge, declare)


def _once(name: str, kind: type[Metric], declare: Any) -> Metric:
    metric = _declared.get(name)
    if metric is None:
        metric = _declared[name] = declare()
    if not isinstance(metric, kind):
        raise TypeError(f"metric {name} is declared as {type(metric).__name__}")
    return metric


def fold() -> None:
    """Writes the gathered observations of every histogram; the worker's heartbeat calls it."""
    for one in _histograms:
        one.fold()


def own_metrics() -> bytes:
    """What Prometheus reads, of this process alone; for a process without a supervisor."""
    fold()
    return prometheus_client.generate_latest(prometheus_client.REGISTRY)


def merged_metrics(folder: Path) -> bytes:
    """What Prometheus reads, over all workers that write to `folder`."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
    return prometheus_client.generate_latest(registry)


def drop_gauges(folder: Path, worker: int) -> None:
    """Forgets the gauges of a dead worker; its counters and histograms stay."""
    for file in folder.glob(f"gauge_live*_{worker}.db"):
        file.unlink(missing_ok=True)
