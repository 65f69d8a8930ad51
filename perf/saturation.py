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
P99_ALLOWED_MS: Final = 1000.0
"""Beyond it a queue stands."""
BEYOND: Final = 2.0
"""The climb ends where this multiple of the best rate accepted so far is offered."""
HELD: Final = 6
"""A highest rate has to be kept up with for so many times the length of a step."""
UNARY: Final = "unary gRPC"
_TRIES: Final = 3
_SETTLE_SEC: Final = 120.0


@dataclass(frozen=True, slots=True)
class Step:
    """One offered rate, in orders/s."""

    rate: int
    measured: Measured
    items: int
    held: bool = False
    """It went on for longer, to see whether the rate can be kept up with."""

    @property
    def accepted(self) -> int:
        """Orders that were submitted to the venue."""
        return self.measured.outcomes.get("submitted", 0)

    @property
    def accepted_rate(self) -> float:
        """The same a second."""
        load = self.measured.load
        return self.accepted / load.seconds if load.seconds else 0.0

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
            "accepted": self.accepted_rate,
            "latencies": load.latencies,
            "latencies_accepted": load.accepted,
            "outcomes": dict(self.measured.outcomes),
            "errors": load.errors,
            "settled_sec": self.measured.settled_sec,
            "kept_up": self.kept_up,
            "held": self.held,
        }


@dataclass(frozen=True, slots=True)
class Curve:
    """Latency against offered load."""

    name: str
    setting: str
    steps: list[Step]

    @property
    def highest(self) -> int:
        """The highest offered rate that was held, orders/s; 0 when none was."""
        return max((step.rate for step in self.steps if step.held and step.kept_up), default=0)

    @property
    def best(self) -> float:
        """The most orders accepted a second at any offered rate."""
        return max(step.accepted_rate for step in self.steps)

    @property
    def overload(self) -> Step:
        """The step at which most was offered."""
        return max(self.steps, key=lambda step: step.rate)


def ways(platform: Platform) -> dict[str, Callable[[int], tuple[Drive, int]]]:
    """Ways in: name → (rate → (load, orders a request))."""
    bodies = [r.order_body(number) for number in range(r.CYCLE)]
    batched = r.batches(ORDERS_A_BATCH)
    return {
        "REST": lambda rate: (
            http(platform.rest("oms", "/orders"), bodies, rate=rate),
            1,
        ),
        f"gRPC batches of {ORDERS_A_BATCH}": lambda rate: (
            grpc(platform.grpc("oms"), r.BATCH_SUBMIT, batched, rate=rate // ORDERS_A_BATCH),
            ORDERS_A_BATCH,
        ),
        UNARY: lambda rate: (grpc(platform.grpc("oms"), r.SUBMIT, r.orders(), rate=rate), 1),
    }


def climb(platform: Platform, name: str, seconds: float) -> Curve:
    """Offers more and more until far more than can be accepted, then holds the highest rate kept up with."""
    way = ways(platform)[name]
    curve = Curve(name, platform.setting, [])
    drive, _ = way(STEPS[0])
    drive(0, min(2.0, seconds))
    platform.settle(_SETTLE_SEC)

    def step(rate: int, length: float, *, held: bool = False) -> Step:
        drive, items = way(rate)
        measured = measure(
            drive,
            rate + held,
            length,
            platform.pids(),
            lambda: platform.settle(_SETTLE_SEC),
            platform.submissions,
        )
        curve.steps.append(Step(rate, measured, items, held))
        _say(name, curve.steps[-1])
        return curve.steps[-1]

    for rate in STEPS:
        step(rate, seconds)
        if rate >= BEYOND * curve.best:
            break
    kept_up = [one.rate for one in curve.steps if one.kept_up]
    for rate in sorted(kept_up, reverse=True)[:_TRIES]:
        if step(rate, HELD * seconds, held=True).kept_up:
            break
    return curve


def _say(name: str, step: Step) -> None:
    load = step.measured.load
    print(
        f"saturation by {name}: offered {step.rate:,}/s, answered {load.rate * step.items:,.0f}/s, "
        f"P50 {load.latencies['P50']:.2f} P99 {load.latencies['P99']:.2f} ms, {step.measured.outcomes}, "
        f"fills {step.measured.settled_sec:.2f} s later: "
        f"{'kept up' if step.kept_up else 'did NOT keep up'}{', held' if step.held else ''}",
        file=sys.stderr,
        flush=True,
    )
