"""The documented acceptance runs 1 to 7, each from an empty ledger, with a table of verdicts at the end.

GATE_SECONDS shortens runs 2 and 6 (30 for a check of a change); the published size of run 6 is 300 s.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from perf.ending import stop_in_order
from perf.floors.servers import Floors
from perf.gate import load_run, runs
from perf.gate.verdicts import Table
from perf.load import ROOT, ToolMissing, tool
from perf.machine import describe
from perf.platform import WORK, Platform
from services.runtime.local_stack import Durability, PartFailed, PartUnavailable

PATIENCE_SEC = 0.05
ALL = ("1", "2", "3", "4", "5", "6", "7")


def main() -> int:
    """0 when every documented level is reached, 1 when one is not, 2 when a tool or a server is missing."""
    parser = argparse.ArgumentParser(prog="python -m perf.gate", description=__doc__)
    parser.add_argument("--runs", nargs="+", choices=ALL, default=list(ALL))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--profile", type=Durability, choices=list(Durability), default=Durability.PROCESS)
    parser.add_argument("--engine", default="grpcio")
    parser.add_argument("--report", type=Path, default=ROOT / "perf" / "report" / "gate.md")
    asked = parser.parse_args()
    stop_in_order()
    seconds = float(os.environ.get("GATE_SECONDS", load_run.FULL_SEC))
    table = Table()
    went: list[str] = []

    def platform(*, raised: bool = False, patience_sec: float | None = None) -> Platform:
        return Platform(
            workers=asked.workers,
            profile=asked.profile,
            engine=asked.engine,
            raised=raised,
            patience_sec=patience_sec,
        )

    try:
        for name in ("vegeta", "go-noop"):
            tool(name)
        WORK.mkdir(parents=True, exist_ok=True)
        facts = describe(WORK)
        with Floors() as floors:
            for run in asked.runs:
                _carry_out(run, platform, floors, table, seconds, went)
    except (ToolMissing, PartUnavailable, PartFailed) as missing:
        print(missing, file=sys.stderr)
        return 2
    setting = (
        f"{asked.engine}, workers {asked.workers}, durability {asked.profile.value}, run 6 {seconds:g} s"
    )
    report = _report(table, {**facts, "setting": setting}, went)
    asked.report.parent.mkdir(parents=True, exist_ok=True)
    asked.report.write_text(report)
    print(report)
    return 1 if table.failed else 0


def _carry_out(
    run: str, platform: Callable[..., Platform], floors: Floors, table: Table, seconds: float, went: list[str]
) -> None:
    """One run, on platforms of its own."""
    print(f"run {run}", file=sys.stderr, flush=True)
    if run == "3":
        for raised in (False, True):
            with platform(raised=raised) as started:
                runs.run_3(started, floors, table, raised=raised)
        return
    if run == "6":
        for raised in (False, True):
            _run_6(platform, table, seconds, went, raised=raised)
        return
    with platform() as started:
        if run == "1":
            runs.run_1(started, floors, table)
        elif run == "2":
            runs.run_2(started, table, min(seconds, 30.0))
        else:
            {"4": runs.run_4, "5": runs.run_5, "7": runs.run_7}[run](started, table)


def _run_6(
    platform: Callable[..., Platform], table: Table, seconds: float, went: list[str], *, raised: bool
) -> None:
    name = "6 raised" if raised else "6"
    with platform(raised=raised) as started:
        outcome = load_run.run_6(started, table, name, seconds, raised=raised)
    if outcome.timeouts <= load_run.TIMEOUTS_ALLOWED:
        return
    went.append(f"Run {name}, {outcome.timeouts:.1%} risk_timeout: {outcome.time_went}.")
    # Repeated with more patience, so that everything but the timeouts can be judged too.
    patient = f"{name}, timeout_sec {PATIENCE_SEC:g}"
    with platform(raised=raised, patience_sec=PATIENCE_SEC) as started:
        again = load_run.run_6(started, table, patient, seconds, raised=raised)
    went.append(f"Run {patient}, {again.timeouts:.1%} risk_timeout: {again.time_went}.")


def _report(table: Table, facts: Mapping[str, str], went: list[str]) -> str:
    failed = table.failed
    verdict = f"{len(failed)} documented levels are missed" if failed else "every documented level is reached"
    return "\n".join(
        [
            "# Acceptance runs",
            "",
            *(f"- {name}: {fact}" for name, fact in facts.items()),
            "",
            table.markdown(),
            "",
            *(["Where the time went:", "", *(f"- {line}" for line in went), ""] if went else []),
            f"**{verdict}**",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
