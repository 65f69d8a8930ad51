"""What a run found, as Markdown for people and as JSON."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from tests.robustness.recovery import BOUND_SEC
from tests.robustness.run import Result


def write(folder: Path, result: Result) -> None:
    """`robustness.md` and `robustness.json` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "robustness.md").write_text(markdown(result))
    (folder / "robustness.json").write_text(json.dumps(_plain(result), indent=1) + "\n")


def markdown(result: Result) -> str:
    """The report."""
    seconds, seed = result.options.seconds, result.options.seed
    times = [injected.recovery.seconds for injected in result.injected]
    lines = [
        "# Robustness",
        "",
        "Real clients on the real platform (Valkey, NATS, QuestDB, market data, venue, risk and oms with two",
        "workers each), which is hurt again and again while they trade; then everything that was answered is",
        "compared with everything that is stored. `tests/robustness/README.md` tells how, and what it found.",
        f"Written by `make robustness ROBUSTNESS_SECONDS={seconds:.0f} ROBUSTNESS_SEED={seed}`.",
        "",
        f"- {result.faults} faults in {result.took_sec:.0f} s, seed {seed}",
        f"- **{len(result.violations)} violations**",
        f"- {len(result.too_slow)} recoveries above the bound of {BOUND_SEC:.0f} s",
        f"- a new order goes its whole way again {_spread(times)} after a fault was healed",
        f"- all stores agree {_spread(result.settle_sec)} after the last request of a round",
        "",
    ]
    lines += _table("What clients did", ("", "count"), sorted(result.counts.items()))
    lines += _table("What submissions were answered", ("answer", "count"), sorted(result.outcomes.items()))
    lines += _table("Where orders stood at rest", ("state", "orders"), sorted(result.orders.items()))
    lines += _table(
        "Faults and recovery, by kind", ("kind", "faults", "recovery P50 s", "longest s"), _by(result, "kind")
    )
    lines += _table(
        "Faults and recovery, by what was hurt",
        ("target", "faults", "recovery P50 s", "longest s"),
        _by(result, "target"),
    )
    if result.too_slow:
        rows = (
            (" and ".join(map(str, i.faults)), f"{i.recovery.seconds:.1f}", i.recovery.last_missing)
            for i in result.too_slow
        )
        lines += _table("Too slow", ("fault", "s", "missing last"), rows)
    if result.violations:
        lines += _table(
            "Violations",
            ("check", "account", "what"),
            ((v.check, v.account, v.what) for v in result.violations),
        )
    return "\n".join(lines).rstrip() + "\n"


def _by(result: Result, attribute: str) -> Iterable[tuple[object, ...]]:
    """A fault that came in a pair counts with the recovery of both."""
    times: Mapping[str, list[float]] = defaultdict(list)
    for injected in result.injected:
        for fault in injected.faults:
            times[str(getattr(fault, attribute))].append(injected.recovery.seconds)
    for name, seconds in sorted(times.items()):
        yield name, len(seconds), f"{statistics.median(seconds):.1f}", f"{max(seconds):.1f}"


def _spread(seconds: list[float]) -> str:
    if not seconds:
        return "(none measured)"
    ordered = sorted(seconds)
    centile = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return f"{statistics.median(ordered):.1f} s (P50), {centile:.1f} s (P99), {ordered[-1]:.1f} s (longest)"


def _table(title: str, head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> list[str]:
    lines = [f"## {title}", "", f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    lines += [f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |" for row in rows]
    return [*lines, ""]


def _plain(result: Result) -> dict[str, object]:
    return {
        "seed": result.options.seed,
        "seconds": result.took_sec,
        "faults": [
            {
                "faults": [asdict(fault) for fault in injected.faults],
                "at_sec": injected.at_sec,
                "recovery_sec": injected.recovery.seconds,
                "last_missing": injected.recovery.last_missing,
            }
            for injected in result.injected
        ],
        "outcomes": result.outcomes,
        "orders": result.orders,
        "counts": result.counts,
        "settle_sec": result.settle_sec,
        "violations": [asdict(violation) for violation in result.violations],
    }
