"""Logs and metrics, in one place for those who import them: see `logs` and `metrics`."""

from services.runtime.logs import Logger, configure_logging, flush_logs, get_logger
from services.runtime.metrics import (
    LATENCY_BUCKETS_MS,
    counter,
    gauge,
    histogram,
    merged_metrics,
    own_metrics,
)

__all__ = [
    "LATENCY_BUCKETS_MS",
    "Logger",
    "configure_logging",
    "counter",
    "flush_logs",
    "gauge",
    "get_logger",
    "histogram",
    "merged_metrics",
    "own_metrics",
]
