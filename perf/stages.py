"""Where the time of an order goes: CPU µs by stage in each service, from sampled stacks.

python -m perf.stages --help

A sampled stack counts for the stage of its innermost frame that the table below knows. py-spy gives the
shares; the CPU time that they are shares of is the kernel's, of a run without py-spy.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from perf import requests as r
from perf.cases import ORDERS_A_BATCH, grpc, http
from perf.ending import stop_in_order
from perf.load import ToolMissing, tool
from perf.measure import Measured, measure
from perf.platform import PATIENT_SEC, Platform

SERVICES: Final = ("oms", "risk", "live-gateway")
_SAMPLES_A_SECOND: Final = 250

STAGES: Final = (
    # The innermost frame decides; the first line that its "file:function" contains.
    ("services/ledger/codec.py", "ledger: records to bytes and back"),
    ("services/ledger/transition.py", "ledger: rules"),
    ("services/ledger/account.py", "ledger: rules"),
    ("services/ledger/numbers.py", "ledger: rules"),
    ("services/ledger/draft.py", "ledger: rules"),
    ("services/ledger/order.py", "ledger: rules"),
    ("services/ledger/connection.py", "Valkey client"),
    ("services/ledger/relay.py", "relay: outbox to LEDGER"),
    ("services/ledger/", "ledger: commits"),
    ("redis/", "Valkey client"),
    ("services/risk/checks/", "risk checks"),
    ("services/risk/", "risk: service"),
    ("services/order_request.py", "order: read and validate"),
    ("services/oms/order_entry.py", "order: read and validate"),
    ("services/oms/risk_", "oms: client of risk"),
    ("services/oms/report", "oms: reports"),
    ("services/oms/", "oms: service"),
    ("services/live_gateway/journal.py", "venue: journal"),
    ("services/live_gateway/", "venue"),
    ("services/questdb/", "QuestDB writers"),
    ("psycopg", "QuestDB writers"),
    ("services/messages.py", "NATS payloads"),
    ("services/runtime/publisher.py", "NATS client"),
    ("services/runtime/journal_reader.py", "NATS client"),
    ("nats/", "NATS client"),
    ("services/runtime/logs.py", "logs"),
    ("services/runtime/telemetry.py", "logs"),
    ("services/runtime/metrics.py", "metrics"),
    ("prometheus_client/", "metrics"),
    ("gateway_http/", "REST: JSON to messages and back"),
    ("starlette/", "HTTP server"),
    ("uvicorn/", "HTTP server"),
    ("grpc/", "gRPC"),
    ("pygrpc_native", "gRPC"),
    ("services/runtime/grpc_engine.py", "gRPC"),
    ("services/runtime/grpc_native.py", "gRPC"),
    ("google/protobuf", "gRPC"),
    ("services/runtime/", "runtime"),
    ("asyncio/", "event loop"),
)
OTHER: Final = "event loop"
"""What no line claims: the loop itself and the system calls of its sockets."""
THREADS: Final = "threads without Python code"

_THREAD: Final = re.compile(r"thread \((\d+)\)")


@dataclass(frozen=True, slots=True)
class Stages:
    """CPU of one service."""

    service: str
    micros: float
    """CPU µs an order, everything included."""
    shares: Mapping[str, float]
    """Stage → share (0 … 1)."""
    innermost: Mapping[str, float]
    """Function → share of the samples in which it was the innermost frame."""


def stage_of(stack: str) -> str:
    """The stage of a folded stack: `outer (file:line);…;inner (file:line)`."""
    for frame in reversed(stack.split(";")):
        for part, stage in STAGES:
            if part in frame:
                return stage
    return OTHER


def fold(lines: Iterable[str]) -> dict[int, Counter[str]]:
    """Samples by stack of each thread, of py-spy's raw format with threads."""
    threads: dict[int, Counter[str]] = {}
    for line in lines:
        root, _, rest = line.rstrip().partition(";")
        stack, _, count = rest.rpartition(" ")
        found = _THREAD.match(root)
        if found and stack:
            threads.setdefault(int(found[1]), Counter())[stack] += int(count)
    return threads


def weigh(
    threads: Mapping[int, Counter[str]], cpu: Mapping[int, float]
) -> tuple[dict[str, float], dict[str, float]]:
    """CPU seconds by stage and by innermost function.

    A sample says that a thread could run, not that it did, so the samples of each thread only divide the CPU
    time (`cpu`, by thread) that the kernel counted for it.
    """
    stages: dict[str, float] = defaultdict(float)
    functions: dict[str, float] = defaultdict(float)
    for thread, used in cpu.items():
        stacks = threads.get(thread)
        if not stacks:
            stages[THREADS] += used
            continue
        total = sum(stacks.values())
        for stack, count in stacks.items():
            seconds = used * count / total
            stages[stage_of(stack)] += seconds
            functions[_function(stack)] += seconds
    return stages, functions


def _function(stack: str) -> str:
    """`name (file)` of the innermost frame."""
    return stack.rpartition(";")[2].rpartition(":")[0] + ")"


def thread_cpu(pid: int) -> dict[int, float]:
    """CPU seconds of each thread so far."""
    return {thread.id: thread.user_time + thread.system_time for thread in psutil.Process(pid).threads()}


def workers(pid: int) -> list[int]:
    """The processes of a service that do its work: the supervisor's children."""
    children = psutil.Process(pid).children(recursive=True)
    return [child.pid for child in children if "resource_tracker" not in " ".join(child.cmdline())] or [pid]


def sample(
    platform: Platform, via: str, rate: int, seconds: float, raw: Path
) -> tuple[Measured, list[Stages]]:
    """Loads a platform with orders, then again while the stacks of its services are sampled into `raw`."""
    bodies = [r.order_body(number) for number in range(r.CYCLE)]
    oms, items = platform.grpc("oms"), ORDERS_A_BATCH if via == "batch" else 1
    drive = {
        "rest": http(platform.rest("oms", "/orders"), bodies, rate=rate),
        "batch": grpc(oms, r.BATCH_SUBMIT, r.batches(ORDERS_A_BATCH), rate=rate // ORDERS_A_BATCH),
        "unary": grpc(oms, r.SUBMIT, r.orders(), rate=rate),
    }[via]
    pids = platform.pids()

    def settle() -> tuple[float, int]:
        return platform.settle(60)

    measure(drive, 0, min(3.0, seconds), pids, settle)
    # First without the sampler, for the CPU time; then with it, for the shares.
    plain = measure(drive, 1, seconds, pids, settle, platform.submissions)
    spies = [
        (service, raw / f"{service}.{number}.folded", pid)
        for service in SERVICES
        for number, pid in enumerate(workers(pids[service]))
    ]
    running = [
        subprocess.Popen(
            [
                *(tool("py-spy"), "record", "--pid", str(pid), "--duration", str(round(seconds))),
                *("--rate", str(_SAMPLES_A_SECOND), "--format", "raw", "--output", str(file)),
                # Stopping a process for each sample would wake its waiting threads and count them as busy.
                *("--nonblocking", "--threads"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for _, file, pid in spies
    ]
    before = {pid: thread_cpu(pid) for _, _, pid in spies}
    measure(drive, 2, seconds, pids, settle)
    after = {pid: thread_cpu(pid) for _, _, pid in spies}
    for process in running:
        _, error = process.communicate()
        if process.returncode:
            raise RuntimeError(f"py-spy failed: {error.decode(errors='replace').strip()[-500:]}")
    found = []
    for service in SERVICES:
        stages: dict[str, float] = defaultdict(float)
        functions: dict[str, float] = defaultdict(float)
        for name, file, pid in spies:
            if name == service:
                cpu = {thread: used - before[pid].get(thread, 0.0) for thread, used in after[pid].items()}
                weighed = weigh(fold(file.read_text().splitlines()), cpu)
                for kept, more in zip((stages, functions), weighed, strict=True):
                    for key, used in more.items():
                        kept[key] += used
        total = sum(stages.values()) or 1
        found.append(
            Stages(
                service,
                plain.cpu_micros[service] / items,
                _shares(stages, total),
                dict(list(_shares(functions, total).items())[:30]),
            )
        )
    found.extend(
        Stages(part, plain.cpu_micros[part] / items, {}, {}) for part in pids if part not in SERVICES
    )
    return plain, found


def _shares(seconds: Mapping[str, float], total: float) -> dict[str, float]:
    return {key: used / total for key, used in sorted(seconds.items(), key=lambda item: -item[1])}


def table(stages: Iterable[Stages]) -> str:
    """Markdown."""
    lines = ["| process | stage | CPU µs an order | share |", "| --- | --- | ---: | ---: |"]
    for one in stages:
        lines.append(f"| **{one.service}** | everything | **{one.micros:.0f}** | |")
        lines += [
            f"| | {stage} | {one.micros * share:.0f} | {share:.0%} |"
            for stage, share in one.shares.items()
            if share >= 0.01
        ]
    return "\n".join(lines)


def summary(plain: Measured) -> str:
    """What load the table is of."""
    load = plain.load
    shown = ", ".join(f"{name} {value:.2f}" for name, value in load.latencies.items())
    return (
        f"{load.rate:,.0f} requests/s ({shown} ms), {dict(plain.outcomes)}, "
        f"others used {plain.others:.0%} of the machine, pace {plain.pace:.0f} µs\n"
    )


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m perf.stages", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rate", type=int, default=500, help="orders a second")
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--via", choices=("rest", "batch", "unary"), default="rest")
    parser.add_argument("--engine", default="grpcio")
    parser.add_argument("--raw", type=Path, help="folder that keeps the folded stacks")
    parser.add_argument("--functions", action="store_true", help="the innermost functions too")
    asked = parser.parse_args()
    stop_in_order()
    try:
        tool("py-spy")
    except ToolMissing as missing:
        print(missing, file=sys.stderr)
        return 2
    with (
        tempfile.TemporaryDirectory() as temporary,
        Platform(engine=asked.engine, patience_sec=PATIENT_SEC) as platform,
    ):
        raw = asked.raw or Path(temporary)
        raw.mkdir(parents=True, exist_ok=True)
        plain, stages = sample(platform, asked.via, asked.rate, asked.seconds, raw)
    print(summary(plain))
    print(table(stages))
    if asked.functions:
        for one in stages:
            print(f"\n{one.service}")
            for function, share in one.innermost.items():
                print(f"  {one.micros * share:6.1f} µs  {function}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
