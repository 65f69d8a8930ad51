"""What a run has to reach, what it reached, and the table of all of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

Verdict = Literal["pass", "FAIL", "shown"]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table."""

    run: str
    what: str
    documented: str
    """The published level; empty: the line is shown beside others and not judged."""
    goal: str
    measured: str
    verdict: Verdict
    goal_met: bool | None = None
    """None where there is no goal beyond the documented level."""


@dataclass(slots=True)
class Table:
    """Gathers lines while runs go."""

    lines: list[Line] = field(default_factory=list)

    def at_most(
        self,
        run: str,
        what: str,
        measured: float,
        documented: float,
        goal: float | None = None,
        unit: str = "ms",
    ) -> None:
        """A measure that must not exceed its level. NaN fails: it was not measured."""
        self.lines.append(
            Line(
                run,
                what,
                f"≤ {documented:g} {unit}",
                "" if goal is None else f"≤ {goal:g} {unit}",
                _number(measured, unit),
                "pass" if measured <= documented else "FAIL",
                None if goal is None else measured <= goal,
            )
        )

    def at_least(
        self,
        run: str,
        what: str,
        measured: float,
        documented: float,
        goal: float | None = None,
        unit: str = "",
    ) -> None:
        """A measure that must reach its level."""
        self.lines.append(
            Line(
                run,
                what,
                f"≥ {documented:,g} {unit}".strip(),
                "" if goal is None else f"≥ {goal:,g} {unit}".strip(),
                _number(measured, unit),
                "pass" if measured >= documented else "FAIL",
                None if goal is None else measured >= goal,
            )
        )

    def holds(self, run: str, what: str, documented: str, true: bool, measured: str) -> None:
        """A statement that must be true."""
        self.lines.append(Line(run, what, documented, "", measured, "pass" if true else "FAIL"))

    def show(self, run: str, what: str, measured: str) -> None:
        """Something to read beside the others."""
        self.lines.append(Line(run, what, "", "", measured, "shown"))

    @property
    def failed(self) -> list[Line]:
        """Lines below the documented level."""
        return [line for line in self.lines if line.verdict == "FAIL"]

    def markdown(self) -> str:
        """The table."""
        head = [
            "| run | what | documented | goal | measured | verdict |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        return "\n".join([*head, *(_row(line) for line in self.lines)])


def centile_lines(
    table: Table,
    run: str,
    latencies: dict[str, float],
    documented: tuple[float, float],
    goal: tuple[float, float] | None = None,
) -> None:
    """P50 and P99 against their levels."""
    for name, place in (("P50", 0), ("P99", 1)):
        measured = latencies.get(name, math.nan)
        table.at_most(run, name, measured, documented[place], None if goal is None else goal[place])


def spelled(latencies: dict[str, float]) -> str:
    """All centiles in a line, ms."""
    return ", ".join(f"{name} {value:.2f}" for name, value in latencies.items()) + " ms"


def _number(value: float, unit: str) -> str:
    if math.isnan(value):
        return "not measured"
    return f"{value:,.2f} {unit}".strip() if abs(value) < 100 else f"{value:,.0f} {unit}".strip()


def _row(line: Line) -> str:
    verdict: str = line.verdict
    if line.goal_met is not None:
        verdict += ", goal met" if line.goal_met else ", goal missed"
    cells: Iterable[str] = (line.run, line.what, line.documented, line.goal, line.measured, verdict)
    return "| " + " | ".join(cells) + " |"
