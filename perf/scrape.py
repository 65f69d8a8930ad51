"""What services count of themselves: `/metrics` as Prometheus reads it, and differences of two readings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Metrics:
    """Samples by name and labels."""

    samples: Mapping[tuple[str, Labels], float]

    def __sub__(self, earlier: Metrics) -> Metrics:
        """What was counted between two readings."""
        return Metrics({key: value - earlier.samples.get(key, 0.0) for key, value in self.samples.items()})

    def total(self, name: str, **labels: str) -> float:
        """Sum of the samples of `name` that carry `labels`."""
        wanted = labels.items()
        return sum(
            value
            for (found, have), value in self.samples.items()
            if found == name and wanted <= dict(have).items()
        )

    def quantile(self, name: str, share: float, **labels: str) -> float:
        """Quantile (0 … 1) of histogram `name`, interpolated inside its bucket; NaN when it is empty."""
        buckets: dict[float, float] = {}
        for (found, have), value in self.samples.items():
            given = dict(have)
            if found == f"{name}_bucket" and labels.items() <= given.items():
                bound = float(given["le"])
                buckets[bound] = buckets.get(bound, 0.0) + value
        bounds = sorted(buckets)
        if not bounds or not buckets[bounds[-1]]:
            return float("nan")
        wanted = share * buckets[bounds[-1]]
        lower, below = 0.0, 0.0
        for bound in bounds:
            if buckets[bound] >= wanted:
                if bound == float("inf"):
                    return lower
                inside = buckets[bound] - below
                return lower + (bound - lower) * ((wanted - below) / inside if inside else 0.0)
            lower, below = bound, buckets[bound]
        return lower


def scrape(address: str) -> Metrics:
    """Reads `http://<address>/metrics`. Raises `httpx.HTTPError` when it does not answer with 200."""
    response = httpx.get(f"http://{address}/metrics", timeout=10).raise_for_status()
    return Metrics(
        {
            (sample.name, frozenset(sample.labels.items())): float(sample.value)
            for family in text_string_to_metric_families(response.text)
            for sample in family.samples
        }
    )
