"""Metrics, alone and merged over several processes."""

import os
import subprocess
import sys
from pathlib import Path

import prometheus_client
import pytest

from services.runtime import metrics

DECLARE = (
    "import os\nfrom services.runtime import metrics\n"
    "latency = metrics.histogram('t_latency_ms', 'x', ('rpc',)).labels('Check')\n"
    "denied = metrics.counter('t_denied', 'x', ('reason',)).labels('size')\n"
    "open_orders = metrics.gauge('t_open', 'x')\nworst = metrics.gauge('t_worst', 'x', merge='livemax')\n"
)


def run_worker(folder: Path, index: int, body: str) -> None:
    environment = {
        **os.environ,
        "PROMETHEUS_MULTIPROC_DIR": str(folder),
        "TRADE2026_WORKER_INDEX": str(index),
    }
    script = f"{DECLARE}{body}\nmetrics.fold()\nos._exit(0)\n"
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=30)


def merged(folder: Path) -> dict[str, float]:
    lines = metrics.merged_metrics(folder).decode().splitlines()
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")
    }


def test_observations_fall_into_the_buckets_that_prometheus_gives_them() -> None:
    ours = metrics.histogram("t_same_ms", "x", buckets=(1.0, 2.0, 5.0))
    reference = prometheus_client.Histogram("t_reference_ms", "x", buckets=(1.0, 2.0, 5.0))
    for value in (0.0, 0.5, 1.0, 1.0001, 2.0, 4.9, 5.0, 5.1, 1e9):
        ours.observe(value)
        reference.observe(value)
    text = metrics.own_metrics().decode().splitlines()
    own = [
        line.replace("t_same_ms", "t")
        for line in text
        if line.startswith("t_same_ms_") and "created" not in line
    ]
    theirs = [line.replace("t_reference_ms", "t") for line in text if line.startswith("t_reference_ms_")]
    assert len(own) == 6
    assert own == [line for line in theirs if "created" not in line]


def test_a_metric_is_declared_once() -> None:
    assert metrics.counter("t_once", "x") is metrics.counter("t_once", "x")
    assert metrics.histogram("t_once_ms", "x") is metrics.histogram("t_once_ms", "x")
    with pytest.raises(TypeError, match="declared as Counter"):
        metrics.gauge("t_once", "x")


def test_many_observations_are_folded_without_being_asked() -> None:
    one = metrics.histogram("t_many_ms", "x")
    for _ in range(metrics._FOLD_AT):
        one.observe(1)
    assert not one._gathered


def test_workers_are_summed(tmp_path: Path) -> None:
    for index in range(2):
        run_worker(
            tmp_path, index, "latency.observe(0.7); latency.observe(3); denied.inc(2); open_orders.set(5)"
        )
    values = merged(tmp_path)
    assert values['t_latency_ms_count{rpc="Check"}'] == 4
    assert values['t_latency_ms_sum{rpc="Check"}'] == pytest.approx(7.4)
    assert values['t_latency_ms_bucket{le="0.75",rpc="Check"}'] == 2
    assert values['t_denied_total{reason="size"}'] == 4
    assert values["t_open"] == 10


def test_the_largest_gauge_is_taken_where_that_is_meant(tmp_path: Path) -> None:
    run_worker(tmp_path, 0, "worst.set(3)")
    run_worker(tmp_path, 1, "worst.set(7)")
    assert merged(tmp_path)["t_worst"] == 7


def test_a_restarted_worker_goes_on_counting(tmp_path: Path) -> None:
    for _ in range(3):
        run_worker(tmp_path, 0, "denied.inc(); latency.observe(1)")
    values = merged(tmp_path)
    assert values['t_denied_total{reason="size"}'] == 3
    assert values['t_latency_ms_count{rpc="Check"}'] == 3
    assert sorted(file.name for file in tmp_path.iterdir() if "gauge" not in file.name) == [
        "counter_0.db",
        "histogram_0.db",
    ]


def test_the_gauges_of_a_dead_worker_are_dropped_and_its_counters_stay(tmp_path: Path) -> None:
    for index in range(2):
        run_worker(
            tmp_path,
            index,
            "denied.inc(); open_orders.set(5); worst.set(index_value)".replace("index_value", str(9 - index)),
        )
    metrics.drop_gauges(tmp_path, 0)
    values = merged(tmp_path)
    assert values["t_open"] == 5
    assert values["t_worst"] == 8
    assert values['t_denied_total{reason="size"}'] == 2
