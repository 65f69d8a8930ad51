"""How many orders have their reservation in time while checks take all that risk can do.

python -m perf.beside [--rate 50] [--seconds 5] [--rounds 2] [--engine grpcio]

Orders by REST at a slow rate, with the deadline of reservations as it is delivered: alone, and beside checks
by gRPC, 8 and 64 in flight.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from perf import requests as r
from perf.cases import grpc, http
from perf.ending import stop_in_order
from perf.load import Load, ToolMissing, tool
from perf.measure import Drive, Measured, measure
from perf.platform import Platform
from services.runtime.local_stack import PartFailed, PartUnavailable

LEAD_SEC: Final = 0.5
"""The checks begin so much before the orders, and end so much after them."""
BESIDE: Final = (0, 8, 64)
"""Checks in flight."""


def beside(
    checks: Drive | None, seconds: float, orders: Callable[[], Measured]
) -> tuple[Measured, Load | None]:
    """Measures `orders` while the load `checks` goes on."""
    loads: list[Load] = []
    if checks is None:
        return orders(), None
    thread = threading.Thread(target=lambda: loads.append(checks(0, seconds + 2 * LEAD_SEC)))
    thread.start()
    time.sleep(LEAD_SEC)
    try:
        done = orders()
    finally:
        thread.join()
    if not loads:
        raise RuntimeError("the load of checks failed")
    return done, loads[0]


def main() -> int:
    """Prints a table."""
    parser = argparse.ArgumentParser(
        prog="python -m perf.beside", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rate", type=int, default=50, help="orders a second")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--engine", default="grpcio")
    asked = parser.parse_args()
    stop_in_order()
    try:
        for name in ("ghz", "vegeta"):
            tool(name)
        with Platform(engine=asked.engine) as platform:
            _measure(platform, asked.rate, asked.seconds, asked.rounds)
    except (ToolMissing, PartUnavailable, PartFailed) as missing:
        print(missing, file=sys.stderr)
        return 2
    return 0


def _measure(platform: Platform, rate: int, seconds: float, rounds: int) -> None:
    bodies = [r.order_body(number) for number in range(r.CYCLE)]
    load = http(platform.rest("oms", "/orders"), bodies, rate=rate)
    one = r.message(r.check_body())
    load(0, 2.0)
    platform.settle(60)

    def orders(run: int) -> Measured:
        return measure(load, run, seconds, platform.pids(), lambda: platform.settle(60), platform.submissions)

    print("| checks in flight | checks/s | errors | orders | in time | P50 ms | P99 ms | pace µs |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for run in range(1, rounds + 1):
        for in_flight in BESIDE:
            checks = grpc(
                platform.grpc("risk"), r.CHECK, one, in_flight=in_flight, connections=min(4, in_flight)
            )
            done, checked = beside(checks if in_flight else None, seconds, partial(orders, run))
            at = done.load.latencies
            print(
                f"| {in_flight} | {checked.rate if checked else 0:,.0f} | "
                f"{done.load.errors + (checked.errors if checked else 0)} | {done.load.requests} | "
                f"{done.outcomes.get('submitted', 0)} | {at['P50']:.1f} | {at['P99']:.1f} | "
                f"{done.pace:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main())
