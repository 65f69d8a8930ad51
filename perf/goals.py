"""The goals of the project, evaluated on the rows of one report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from perf.growth import ALLOWED, Growth
from perf.measure import Row
from perf.saturation import UNARY, Curve

NAIVE_FACTOR: Final = 18.0
CARRIED_OUT: Final = 0.7
WAITED_MS: Final = 3000.0
_PATIENT: Final = "timeout_sec"


@dataclass(slots=True)
class Results:
    """Everything that one `make perf` measured."""

    rows: list[Row] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    growths: list[Growth] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was left out, and why."""
    stages: str = ""
    """Table of CPU time by stage."""

    def row(self, name: str, setting: str = "grpcio, 1 worker, process") -> Row | None:
        """The row whose name and setting begin so; one with a longer deadline only if `setting` names it."""
        found = (
            row
            for row in self.rows
            if row.name.startswith(name)
            and row.setting.startswith(setting)
            and (_PATIENT in row.setting) == (_PATIENT in setting)
        )
        return next(found, None)


@dataclass(frozen=True, slots=True)
class Judged:
    """One goal."""

    what: str
    goal: str
    measured: str
    met: bool | None
    """None: not measured this time."""


def judge(results: Results) -> list[Judged]:
    """Every goal, in the order of the design."""
    return [*_checks(results), *_orders(results), *_saturation(results), *_growth(results), *_naive(results)]


def _checks(results: Results) -> Iterable[Judged]:
    native = "native, 1 worker"
    unary = results.row("Check, unary, 64")
    one = results.row("Check, unary, one")
    yield _ratio("Check, unary, grpcio: throughput", unary, 0.85)
    yield _added("Check, grpcio, one in flight: P50 above the no-op", one, 0.1)
    yield _centile("Check, grpcio, one in flight", one, "P50", 1.5)
    yield _centile("Check, grpcio, 1,000/s", results.row("Check, unary, 1,000/s"), "P99", 5.0)
    fast = results.row("Check, unary, 64", native)
    yield _rate("Check, unary, native", fast, 10_000)
    yield _ratio("Check, unary, native: throughput", fast, 0.5)
    yield _against("Check, native against the grpcio no-op", fast, unary, 3.0)
    yield _centile("Check, native, 5,000/s", results.row("Check, unary, 5,000/s", native), "P99", 5.0)
    for engine in ("grpcio", "native"):
        reserve = results.row("Reserve, unary, 64", engine)
        yield _of(
            "Reserve as a share of Check, " + engine, reserve, results.row("Check, unary, 64", engine), 0.6
        )
        yield _added(
            f"Reserve, {engine}, one in flight: P50 above the no-op",
            results.row("Reserve, unary, one", engine),
            0.5,
        )
    yield _rate("BatchCheck, checks", results.row("BatchCheck"), 25_000)
    yield _rate("REST /check, closed loop", results.row("REST /check, 64"), 10_000)
    yield _centile("REST /check, 8,000/s", results.row("REST /check, 8,000/s"), "P99", 5.0)


def _orders(results: Results) -> Iterable[Judged]:
    cases: Sequence[tuple[str, str]] = (
        ("orders by REST, 1,000/s", "grpcio, 1 worker, process"),
        ("orders by gRPC batches", "grpcio, 1 worker, process"),
        ("orders by unary gRPC, 1,000/s", "grpcio, 1 worker, process"),
        ("orders by unary gRPC, 1,000/s", "native, 1 worker, process"),
        ("orders by REST, 1,000/s", "grpcio, 1 worker, process, timeout_sec"),
        ("orders by gRPC batches", "grpcio, 1 worker, process, timeout_sec"),
        ("orders by unary gRPC, 1,000/s", "grpcio, 1 worker, process, timeout_sec"),
        ("orders by REST, 1,000/s", "grpcio, 1 worker, strict"),
        ("orders by gRPC batches", "grpcio, 1 worker, strict"),
    )
    for name, setting in cases:
        row = results.row(name, setting)
        what = f"{row.name} ({row.setting})" if row else f"{name} ({setting})"
        yield _centile(what, row, "P50", 3.0)
        yield _centile(what, row, "P99", 20.0)


def _saturation(results: Results) -> Iterable[Judged]:
    if not results.curves:
        yield Judged("saturation", "≥ 3,000/s", "not measured", None)
    for curve in results.curves:
        what = f"saturation by {curve.name} ({curve.setting})"
        if curve.name != UNARY:  # for which no rate was promised
            yield Judged(what, "≥ 3,000/s", f"{curve.highest:,}/s", curve.highest >= 3000)
        yield _graceful(curve)


def _graceful(curve: Curve) -> Judged:
    """Beyond saturation nothing collapses: as much is carried out as ever, soon, and the rest refused."""
    step = curve.overload
    waited = step.measured.load.accepted.get("P99", float("inf"))
    refused = step.measured.outcomes.get("OVERLOADED", 0)
    return Judged(
        f"{curve.name}, {step.rate:,}/s offered ({curve.setting})",
        f"≥ {CARRIED_OUT:g} × the most ever accepted, P99 of the accepted ≤ {WAITED_MS:,.0f} ms",
        f"{step.accepted_rate:,.0f}/s of {curve.best:,.0f}/s, {waited:,.0f} ms, {refused:,} refused early",
        step.accepted_rate >= CARRIED_OUT * curve.best and waited <= WAITED_MS,
    )


def _growth(results: Results) -> Iterable[Judged]:
    for growth in results.growths:
        for what, ratio in growth.ratios.items():
            sizes = f"{growth.points[0].size:,} … {growth.points[-1].size:,} {growth.name}"
            yield Judged(f"{what}, {sizes}", f"≤ {ALLOWED:g} ×", f"{ratio:.2f} ×", ratio <= ALLOWED)


def _naive(results: Results) -> Iterable[Judged]:
    # With the longer deadline: an order that is denied in time is no order that was carried out.
    ours = results.row("orders by REST, 16 in flight", f"grpcio, 1 worker, process, {_PATIENT}")
    naive = results.row("the naive design", "")
    yield _of("orders by REST, 16 in flight, against the naive design", ours, naive, NAIVE_FACTOR)
    best = max((curve.highest for curve in results.curves), default=0)
    if naive and best:
        factor = best / naive.rate
        yield Judged(
            "highest rate of orders against the naive design's",
            f"≥ {NAIVE_FACTOR:g} ×",
            f"{factor:.1f} × ({best:,}/s to {naive.rate:,.0f}/s)",
            factor >= NAIVE_FACTOR,
        )


def _judged(what: str, goal: str, measure: Callable[..., tuple[str, bool]], *given: Row | None) -> Judged:
    """A goal that `measure` evaluates on the rows, if all were measured; errors and denied orders miss it."""
    rows = [row for row in given if row is not None]
    if len(rows) < len(given):
        return Judged(what, goal, "not measured", None)
    text, met = measure(*rows)
    errors, denied = sum(row.shown.load.errors for row in rows), sum(row.denied for row in rows)
    text += (f", {errors} ERRORS" if errors else "") + (f", {denied:,} orders DENIED" if denied else "")
    return Judged(what, goal, text, met and not errors and not denied)


def _rate(what: str, row: Row | None, least: float) -> Judged:
    return _judged(what, f"≥ {least:,.0f}/s", lambda row: (f"{row.rate:,.0f}/s", row.rate >= least), row)


def _centile(what: str, row: Row | None, name: str, most: float) -> Judged:
    def measured(row: Row) -> tuple[str, bool]:
        # An open loop that was not kept up with has no latency to speak of.
        held = row.shown.load.rate >= 0.97 * row.shown.load.offered_rate
        slow = "" if held else f" at {row.rate:,.0f}/s only"
        return f"{row.centile(name):.2f} ms{slow}", row.centile(name) <= most and held

    return _judged(f"{what}: {name}", f"≤ {most:g} ms", measured, row)


def _ratio(what: str, row: Row | None, least: float) -> Judged:
    def measured(row: Row) -> tuple[str, bool]:
        ratio = row.rate_ratio or 0.0
        return f"{ratio:.2f} × {row.floor_name}", ratio >= least

    return _judged(what, f"≥ {least:g} × its no-op", measured, row)


def _added(what: str, row: Row | None, most_ms: float) -> Judged:
    def measured(row: Row) -> tuple[str, bool]:
        added = row.centile("P50") - (row.floor.load.latencies["P50"] if row.floor else 0.0)
        return f"{added:+.2f} ms", added <= most_ms

    return _judged(what, f"≤ {most_ms:g} ms", measured, row)


def _against(what: str, row: Row | None, other: Row | None, least: float) -> Judged:
    def measured(row: Row, other: Row) -> tuple[str, bool]:
        ratio = row.rate / other.floor_rate if other.floor_rate else 0.0
        return f"{ratio:.2f} ×", ratio >= least

    return _judged(what, f"≥ {least:g} ×", measured, row, other)


def _of(what: str, row: Row | None, other: Row | None, least: float) -> Judged:
    def measured(row: Row, other: Row) -> tuple[str, bool]:
        ratio = row.rate / other.rate if other.rate else 0.0
        return f"{ratio:.2f} × ({row.rate:,.0f}/s to {other.rate:,.0f}/s)", ratio >= least

    return _judged(what, f"≥ {least:g} ×", measured, row, other)
