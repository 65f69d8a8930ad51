"""Regression guard: ratios to floors, never absolute times, against the bounds in perf/bounds.json.

python -m perf.guard           fails when a ratio exceeds its bound
python -m perf.guard --record  writes the bounds anew: what is measured now, times the room that is left

Ratios are of CPU time, which a busy machine moves far less than latency: steps of an order over a fixed
piece of Python, a check and an order over a server that does nothing. Beside them stand the function calls of
an order, which nothing else on the machine moves at all. A change that doubles the cost of a check or of an
order fails; what a busy minute of the machine did is measured once more before it does.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Final

from perf import calls, cases, steps
from perf.ending import stop_in_order
from perf.floors.servers import Floors
from perf.load import ToolMissing, tool
from perf.measure import Case, Measured, measure
from perf.platform import PATIENT_SEC, Platform
from services.runtime.local_stack import PartFailed, PartUnavailable

BOUNDS: Final = Path(__file__).resolve().parent / "bounds.json"
ROOM: Final = 1.7
"""Over what was recorded: enough for another machine, not for twice the cost."""
CALLS_ROOM: Final = 1.3
"""Over the calls of an order, which vary by a few percent."""
ORDER_RATE: Final = 200
_SECONDS: Final = 5.0
_ROUNDS: Final = 3
_CALLS: Final = "calls an order: "
_SERVICES: Final = ("risk", "oms", "live-gateway")


def measured() -> dict[str, float]:
    """Every guarded ratio by its name."""
    found = {f"step: {name}": step.ratio for name, step in steps.measure_all().items()}
    found.update({f"{_CALLS}{one.service}": one.total for one in calls.count()})
    with Floors() as floors, Platform(patience_sec=PATIENT_SEC) as platform:
        guarded = [
            *(case for case in cases.checks(platform, floors) if "in flight" in case.name),
            *cases.orders(platform, floors, ORDER_RATE)[:3],
        ]
        for case in guarded:
            found[f"CPU over {case.floor_name}: {case.name}"] = _cpu_ratio(case)
    return found


def _cpu_ratio(case: Case) -> float:
    """CPU of the services over that of the floor, each a request: the least of a few rounds."""
    assert case.floor is not None
    case.floor(0, 1.0)
    case.drive(0, 1.0)
    if case.settle:
        case.settle()
    ratios = []
    for run in range(1, _ROUNDS + 1):
        floor = measure(case.floor, run, _SECONDS, case.floor_pids)
        done = measure(case.drive, run, _SECONDS, case.pids, case.settle)
        for one in (floor, done):
            if one.load.errors:
                raise RuntimeError(f"{case.name}: {one.load.errors} errors: {one.load.outcomes}")
        ratios.append(_services(done) / sum(floor.cpu_micros.values()))
    return min(ratios)


def _services(done: Measured) -> float:
    return sum(used for part, used in done.cpu_micros.items() if part in _SERVICES)


def _bound(name: str, value: float) -> float:
    if name.startswith(_CALLS):
        return math.ceil(value * CALLS_ROOM)
    return math.ceil(value * ROOM * 100) / 100


def compare(found: dict[str, float], bounds: dict[str, float]) -> list[str]:
    """What is wrong; empty when nothing is."""
    wrong = [
        f"{name}: {found[name]:.2f} is above {bound:g}"
        for name, bound in bounds.items()
        if name in found and not found[name] <= bound
    ]
    wrong += [f"{name}: has no bound; record it" for name in found if name not in bounds]
    wrong += [f"{name}: has a bound and is not measured any more" for name in bounds if name not in found]
    return wrong


def main() -> int:
    """0 when every ratio is within its bound, 1 when one is not, 2 when a tool or a server is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m perf.guard", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--record", action="store_true", help="write perf/bounds.json anew")
    asked = parser.parse_args()
    stop_in_order()
    found: dict[str, float] = {}
    wrong: list[str] = []
    try:
        for name in ("ghz", "vegeta", "go-noop"):
            tool(name)
        for last in (asked.record, True):
            try:
                latest = measured()
            except RuntimeError as failed:
                wrong = [str(failed)]
            else:
                found = {name: min(ratio, found.get(name, ratio)) for name, ratio in latest.items()}
                if asked.record:
                    bounds = {name: _bound(name, ratio) for name, ratio in found.items()}
                    BOUNDS.write_text(json.dumps(bounds, indent=2) + "\n")
                wrong = compare(found, json.loads(BOUNDS.read_text()))
            if last or not wrong:
                break
            print("\n".join(["measured once more:", *wrong]), file=sys.stderr, flush=True)
    except (ToolMissing, PartUnavailable, PartFailed) as missing:
        print(missing, file=sys.stderr)
        return 2
    bounds = json.loads(BOUNDS.read_text())
    for name, ratio in found.items():
        print(f"{ratio:8.2f}  of at most {bounds.get(name, float('nan')):8.2f}  {name}")
    print("\n".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
