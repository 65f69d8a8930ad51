"""Measures the platform and its floors, and writes perf/report/.

PERF_SECONDS (10) is the length of a run, PERF_ROUNDS (3) how often each case is run in turn with its floor.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from perf import cases, growth, report, saturation, stages, steps
from perf.ending import stop_in_order
from perf.floors.raw import jetstream_round_trips, valkey_round_trips
from perf.floors.servers import Floors
from perf.goals import Results
from perf.load import Load, ToolMissing, tool
from perf.machine import describe
from perf.measure import Case, Drive, carry_out
from perf.naive import naive_case
from perf.platform import PATIENT_SEC, WORK, Platform
from perf.requests import CHECK, check_body, message
from services.runtime.local_stack import Durability, NatsServer, PartFailed, PartUnavailable, ValkeyServer
from services.runtime.local_stack import free_ports as ports

TOOLS: Final = ("ghz", "vegeta", "go-noop")
_ALONE: Final = 1_000
"""Round trips of a second, one in flight, at most."""


@dataclass(slots=True)
class Session:
    """One `make perf`."""

    floors: Floors
    seconds: float
    rounds: int
    results: Results

    def measure(self, measured: list[Case]) -> None:
        """Adds the rows of some cases."""
        self.results.rows += [carry_out(case, self.seconds, self.rounds) for case in measured]

    def raw(self) -> None:
        """Bare round trips, in both durability profiles."""
        for profile in Durability:
            with tempfile.TemporaryDirectory(prefix="raw-", dir=WORK) as folder:
                first, second, third = ports(3)
                valkey = ValkeyServer(Path(folder) / "valkey", first)
                broker = NatsServer(Path(folder) / "nats", second, third, profile)
                with valkey, broker:
                    self.measure(_round_trips(valkey, broker, profile))

    def no_ops(self) -> None:
        """The floors themselves, beside each other."""
        one = message(check_body())
        self.measure(
            [
                Case(
                    name=f"{name}, {in_flight} in flight",
                    group="floor",
                    setting="1 process",
                    drive=cases.grpc(
                        self.floors[name].address,
                        CHECK,
                        one,
                        in_flight=in_flight,
                        connections=min(4, in_flight),
                    ),
                    pids=self.floors[name].pids,
                )
                for name in ("grpcio no-op", "grpcio no-op, requesting ahead", "native no-op", "Go no-op")
                for in_flight in (1, cases.IN_FLIGHT)
            ]
        )

    def platform(self) -> None:
        """Checks, reservations and orders on grpcio, everything as `trade2026 up` starts it."""
        with Platform() as platform:
            self.measure(cases.checks(platform, self.floors))
            self.measure(cases.orders(platform, self.floors))
            self.measure(cases.reservations(platform, self.floors))

    def patient(self) -> None:
        """Orders with a deadline of reservations that none of them misses: the whole way of each is paid."""
        with Platform(patience_sec=PATIENT_SEC) as platform:
            self.measure(cases.orders(platform, self.floors))

    def strict(self) -> None:
        """Orders when everything is synced to disk before it is acknowledged."""
        with Platform(profile=Durability.STRICT) as platform:
            self.measure(cases.orders(platform, self.floors)[:3])

    def two_workers(self) -> None:
        """Checks and orders with two processes a service."""
        with Platform(workers=2) as platform:
            self.measure(cases.checks(platform, self.floors)[:1])
            self.measure(cases.orders(platform, self.floors)[:3])

    def tls(self) -> None:
        """Unary calls and batches when gRPC is encrypted, between oms and risk too."""
        with Platform(tls=True, patience_sec=PATIENT_SEC) as platform:
            self.measure(cases.checks(platform, self.floors)[:4])
            self.measure(cases.orders(platform, self.floors)[1:3])

    def native(self) -> None:
        """Unary calls on the native engine."""
        with Platform(engine="native") as platform:
            self.measure(cases.checks(platform, self.floors)[:4])
            self.measure([cases.orders(platform, self.floors)[2]])
            self.measure(cases.reservations(platform, self.floors))

    def naive(self) -> None:
        """The naive design."""
        with naive_case() as case:
            self.measure([case])

    def saturation(self) -> None:
        """Highest rates of orders."""
        for way in ("REST", f"gRPC batches of {cases.ORDERS_A_BATCH}", saturation.UNARY):
            for patience_sec in (None, PATIENT_SEC):
                with Platform(patience_sec=patience_sec) as platform:
                    self.results.curves.append(saturation.climb(platform, way, self.seconds))

    def growth(self) -> None:
        """Cost against what has gathered; the largest sizes only in full-length runs."""
        full = self.seconds >= 10
        for dimension, sizes in (
            (growth.accounts, growth.ACCOUNTS),
            (growth.open_orders, growth.OPEN_ORDERS),
            (growth.symbols, growth.SYMBOLS),
            (growth.history, growth.HISTORY),
        ):
            self.results.growths.append(dimension(self.seconds, sizes if full else sizes[:-1]))

    def stages(self) -> None:
        """CPU time of an order by stage."""
        with tempfile.TemporaryDirectory() as raw, Platform(patience_sec=PATIENT_SEC) as platform:
            plain, found = stages.sample(platform, "rest", cases.ORDER_RATE, self.seconds, Path(raw))
        own = steps.table(steps.measure_all())
        self.results.stages = "\n".join([stages.summary(plain), stages.table(found), "", own])


def _round_trips(valkey: ValkeyServer, broker: NatsServer, profile: Durability) -> list[Case]:
    def drive(run: Callable[[str, int, int], Load], address: str, width: int, rate: int) -> Drive:
        return lambda _, seconds: run(address, width, max(100, round(rate * seconds)))

    strict = profile is Durability.STRICT
    made: list[Case] = []
    for width in (1, cases.IN_FLIGHT):
        fast = _ALONE if width == 1 else 10 * _ALONE
        kinds = (
            ("Valkey SET", valkey_round_trips, valkey, "redis", fast),
            ("JetStream publish", jetstream_round_trips, broker, "nats", fast // (10 if strict else 1)),
        )
        for name, run, server, protocol, rate in kinds:
            # Valkey syncs in both profiles.
            if strict and server is valkey:
                continue
            made.append(
                Case(
                    name=f"{name}, {width} in flight",
                    group="raw",
                    setting=profile.value if server is broker else "synced always",
                    drive=drive(run, server.addresses[protocol], width, rate),
                    pids={server.name: server.pid} if server.pid else {},
                )
            )
    return made


PARTS: Final = (
    "raw",
    "no-ops",
    "platform",
    "patient",
    "naive",
    "strict",
    "two-workers",
    "tls",
    "native",
    "saturation",
    "growth",
    "stages",
)


def main() -> int:
    """0 when everything asked for was measured; 2 when a tool or a server is missing."""
    parser = argparse.ArgumentParser(prog="python -m perf", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure")
    parser.add_argument("--report", type=Path, default=report.FOLDER, help="folder of the report")
    asked = parser.parse_args()
    stop_in_order()
    results = Results()
    try:
        for name in (*TOOLS, *(["py-spy"] if "stages" in asked.only else [])):
            tool(name)
        WORK.mkdir(parents=True, exist_ok=True)
        seconds = float(os.environ.get("PERF_SECONDS", "10"))
        rounds = int(os.environ.get("PERF_ROUNDS", "3"))
        facts = {**describe(WORK), "runs": f"{rounds} of {seconds:g} s each, in turn with their floors"}
        with Floors() as floors:
            session = Session(floors, seconds, rounds, results)
            for part in asked.only:
                print(f"-- {part}", file=sys.stderr, flush=True)
                getattr(session, part.replace("-", "_"))()
    except (ToolMissing, PartUnavailable, PartFailed) as missing:
        print(missing, file=sys.stderr)
        return 2
    left_out = [part for part in PARTS if part not in asked.only]
    if left_out:
        results.notes.append(f"not asked for: {', '.join(left_out)}")
    print(report.write(results, facts, asked.report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
