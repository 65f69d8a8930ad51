"""The highest rate of orders at which fills keep up, and latency on the way there and beyond."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from perf import requests as r
from perf.cases import ORDERS_A_BATCH, grpc, http
from perf.measure import Drive, Measured, measure
from perf.platform import Platform

STEPS: Final = (250, 500, 750, 1000, 1250, 1500, 2000, 2500, 3000, 3500, 4000, 5000, 6000, 8000)
LAG_ALLOWED_SEC: Final = 1.0
"""Time after the last answer by which the last order has to be filled and told."""
P99_ALLOWED_MS: Final = 100.0
BEYOND: Final = 1.5
"""The overload that is shown, as a multiple of the highest rate."""
_SETTLE_SEC: Final = 120.0


@dataclass(frozen=True, slots=True)
class Step:
    """One offered rate, in orders/s."""

    rate: int
    measured: Measured
    items: int

    @property
    def accepted(self) -> int:
        """Orders that were submitted to the venue."""
        return self.measured.outcomes.get("submitted", 0)

    @property
    def kept_up(self) -> bool:
        """Every order was accepted at the offered rate, and its fills followed at once."""
        load = self.measured.load
        return (
            load.errors == 0
            and self.accepted >= 0.99 * load.requests * self.items
            and load.rate >= 0.97 * (self.rate // self.items)
            and load.latencies["P99"] <= P99_ALLOWED_MS
            and self.measured.settled_sec <= LAG_ALLOWED_SEC
        )

    def as_json(self) -> dict[str, Any]:
        """For the report."""
        load = self.measured.load
        return {
            "offered": self.rate,
            "answered": load.rate * self.items,
            "accepted": self.accepted / load.seconds if load.seconds else 0.0,
            "latencies": load.latencies,
            "outcomes": dict(self.measured.outcomes),
            "errors": load.errors,
            "settled_sec": self.measured.settled_sec,
            "kept_up": self.kept_up,
        }


@dataclass(frozen=True, slots=True)
class Curve:
    """Latency against offered load."""

    name: str
    setting: str
    steps: list[Step]

    @property
    def highest(self) -> int:
        """The highest offered rate at which fills kept up, orders/s; 0 when none did."""
        return max((step.rate for step in self.steps if step.kept_up), default=0)


def ways(platform: Platform) -> dict[str, Callable[[int], tuple[Drive, int]]]:
    """Ways in: name → (rate → (load, orders a request))."""
    bodies = [r.order_body(number) for number in range(r.CYCLE)]
    batched = r.batches(ORDERS_A_BATCH)
    return {
        "REST": lambda rate: (http(platform.rest("oms", "/orders"), bodies, rate=rate), 1),
        f"gRPC batches of {ORDERS_A_BATCH}": lambda rate: (
            grpc(platform.grpc("oms"), r.BATCH_SUBMIT, batched, rate=rate // ORDERS_A_BATCH),
            ORDERS_A_BATCH,
        ),
        "unary gRPC": lambda rate: (grpc(platform.grpc("oms"), r.SUBMIT, r.orders(), rate=rate), 1),
    }


def climb(platform: Platform, name: str, seconds: float) -> Curve:
    """Offers more and more until two steps in a row do not keep up, then an overload of the best rate."""
    way = ways(platform)[name]
    steps: list[Step] = []
    drive, _ = way(STEPS[0])
    drive(0, min(2.0, seconds))
    platform.settle(_SETTLE_SEC)
    for rate in STEPS:
        steps.append(_step(platform, way, rate, seconds))
        _say(name, steps[-1])
        if len(steps) > 1 and not steps[-1].kept_up and not steps[-2].kept_up:
            break
    curve = Curve(name, platform.setting, steps)
    beyond = round(BEYOND * curve.highest / ORDERS_A_BATCH) * ORDERS_A_BATCH
    if beyond > steps[-1].rate:
        steps.append(_step(platform, way, beyond, seconds))
        _say(name, steps[-1])
    return curve


def _step(platform: Platform, way: Callable[[int], tuple[Drive, int]], rate: int, seconds: float) -> Step:
    drive, items = way(rate)
    measured = measure(
        drive,
        rate,
        seconds,
        platform.pids(),
        lambda: platform.settle(_SETTLE_SEC),
        platform.submissions,
    )
    return Step(rate, measured, items)


def _say(name: str, step: Step) -> None:
    load = step.measured.load
    print(
        f"saturation by {name}: offered {step.rate:,}/s, answered {load.rate * step.items:,.0f}/s, "
        f"P50 {load.latencies['P50']:.2f} P99 {load.latencies['P99']:.2f} ms, {step.measured.outcomes}, "
        f"fills {step.measured.settled_sec:.2f} s later: {'kept up' if step.kept_up else 'did NOT keep up'}",
        file=sys.stderr,
        flush=True,
    )
