"""Writes perf/report: Markdown to read, JSON to compute with, plots to look at."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from perf import plots
from perf.goals import Results, judge
from perf.measure import Row
from perf.saturation import HELD

FOLDER: Final = Path(__file__).resolve().parent / "report"
_GROUPS: Final = {
    "raw": "Bare round trips",
    "floor": "Servers that do nothing",
    "check": "Checks",
    "reserve": "Reservations",
    "orders": "Orders",
    "naive": "The naive design",
}
_CENTILES: Final = ("P50", "P90", "P99", "P99.9", "max")


def write(results: Results, facts: Mapping[str, str], folder: Path = FOLDER) -> Path:
    """Writes all files and returns the Markdown's."""
    folder.mkdir(parents=True, exist_ok=True)
    goals = judge(results)
    best = min((row.shown.pace for row in results.rows), default=float("nan"))
    (folder / "report.json").write_text(
        json.dumps(
            {
                "machine": dict(facts),
                "rows": [row.as_json() for row in results.rows],
                "saturation": [
                    {"name": curve.name, "setting": curve.setting, "highest": curve.highest}
                    | {"steps": [step.as_json() for step in curve.steps]}
                    for curve in results.curves
                ],
                "growth": [
                    {"name": growth.name, "ratios": growth.ratios}
                    | {"points": [point.as_json() for point in growth.points]}
                    for growth in results.growths
                ],
                "goals": [
                    {"what": goal.what, "goal": goal.goal, "measured": goal.measured, "met": goal.met}
                    for goal in goals
                ],
                "notes": results.notes,
            },
            indent=1,
        )
    )
    drawn = plots.draw(results, folder)
    lines = ["# Performance report", "", *(f"- {name}: {fact}" for name, fact in facts.items()), ""]
    lines += [
        "Latencies in ms, CPU in µs an order, check or request. Every case was measured in turn with its",
        "floor, a server that does nothing with the same messages; the run shown is the middle one of",
        "several. *Others* is the share of the machine's CPU time that went to neither the measured",
        "processes nor the load tool; *pace* is the CPU time (µs) that a fixed piece of Python took",
        f"meanwhile: {best:.0f} at best in this report. CPU times grow with it.",
        "",
    ]
    lines += [f"- {note}" for note in results.notes]
    lines += ["", "## Goals", "", "| what | goal | measured | |", "| --- | --- | --- | --- |"]
    words = {True: "met", False: "**missed**", None: "not measured"}
    lines += [f"| {g.what} | {g.goal} | {g.measured} | {words[g.met]} |" for g in goals]
    for group, title in _GROUPS.items():
        rows = [row for row in results.rows if row.group == group]
        if rows:
            lines += ["", f"## {title}", "", *_table(rows)]
    if results.curves:
        lines += ["", "## Saturation", "", *_saturation(results)]
    if results.growths:
        lines += ["", "## Growth", "", *_growth(results)]
    if results.stages:
        lines += ["", "## Where the time of an order goes", "", results.stages]
    lines += ["", *(f"![{title}]({name})" for title, name in drawn), ""]
    path = folder / "report.md"
    path.write_text("\n".join(lines))
    return path


def _table(rows: Iterable[Row]) -> list[str]:
    heads = ["case", "setting", "a second", *_CENTILES, "errors", "CPU µs each", "floor", "others", "pace"]
    lines = ["| " + " | ".join(heads) + " |", "| --- | --- |" + " ---: |" * 7 + " --- | --- | ---: | ---: |"]
    for row in rows:
        load = row.shown.load
        cpu = {part: used / row.items for part, used in row.shown.cpu_micros.items()}
        cpu["load tool"] = row.shown.client_micros / row.items
        cells = [
            row.name,
            row.setting,
            f"{row.rate:,.0f}",
            *(f"{load.latencies.get(name, float('nan')):.2f}" for name in _CENTILES),
            str(load.errors),
            ", ".join(f"{part} {used:.0f}" for part, used in cpu.items() if used >= 0.5),
            _floor(row),
            f"{row.shown.others:.0%}",
            f"{row.shown.pace:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += _remarks(rows)
    return lines


def _floor(row: Row) -> str:
    if row.floor is None:
        return ""
    ratio = f"P50 {row.p50_ratio or 0:.2f} ×"
    if not row.shown.load.offered_rate:
        ratio = f"{row.rate_ratio or 0:.2f} × throughput, " + ratio
    p50 = row.floor.load.latencies.get("P50", 0.0)
    return f"{ratio} {row.floor_name} ({row.floor_rate or 0:,.0f}/s, P50 {p50:.2f})"


def _remarks(rows: Iterable[Row]) -> list[str]:
    lines = []
    for row in rows:
        load, run = row.shown.load, row.shown
        told = []
        if load.errors:
            told.append(f"{load.errors} errors of {load.requests}: {load.outcomes}")
        if row.denied:
            told.append(f"of {sum(run.outcomes.values()):,} orders {row.denied:,} DENIED: {run.outcomes}")
        if run.unsettled:
            told.append(f"{run.unsettled} orders not ended {run.settled_sec:.0f} s after the last answer")
        elif row.group == "orders":
            told.append(f"last fill booked and told {run.settled_sec:.2f} s after the last answer")
        if row.note:
            told.append(row.note)
        if told:
            lines.append(f"- {row.name} ({row.setting}): {'; '.join(told)}")
    return ["", *lines] if lines else []


def _saturation(results: Results) -> list[str]:
    lines = [
        "A rate is kept up with when every order is accepted at that rate, P99 stays below a second (no",
        "queue stands) and the last fill is booked and told within a second of the last answer. *Held*: for",
        f"{HELD} times as long. *Accepted P99* leaves out what was refused by its status.",
        "",
        (
            "| way | setting | offered/s | accepted/s | P50 | P99 | accepted P99 | max | fills after"
            " | kept up | answers |"
        ),
        "| --- | --- |" + " ---: |" * 7 + " --- | --- |",
    ]
    for curve in results.curves:
        for step in curve.steps:
            load = step.measured.load
            cells = [
                curve.name,
                curve.setting,
                f"{step.rate:,}",
                f"{step.accepted_rate:,.0f}",
                *(f"{load.latencies[name]:.2f}" for name in ("P50", "P99")),
                f"{load.accepted.get('P99', float('nan')):.2f}",
                f"{load.latencies['max']:.2f}",
                f"{step.measured.settled_sec:.2f} s",
                ("held" if step.held else "yes") if step.kept_up else "no",
                str(step.measured.outcomes)
                + (f", {load.errors} errors {load.outcomes}" if load.errors else ""),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def _growth(results: Results) -> list[str]:
    lines = [
        "| what | size | P50 | P99 | CPU µs: risk, oms, Valkey | memory MiB: risk, oms, Valkey | errors |",
        "| --- |" + " ---: |" * 6,
    ]
    parts = ("risk", "oms", "valkey")
    for growth in results.growths:
        for point in growth.points:
            run = point.measured
            cells = [
                growth.name,
                f"{point.size:,}",
                *(f"{run.load.latencies[name]:.2f}" for name in ("P50", "P99")),
                ", ".join(f"{run.cpu_micros[part]:.0f}" for part in parts),
                ", ".join(f"{run.pss_mib[part]:.0f}" for part in parts),
                str(run.load.errors),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return lines
