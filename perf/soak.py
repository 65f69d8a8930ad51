"""A million orders at a steady rate, and what every part holds meanwhile: `python -m perf.soak [FOLDER]`.

SOAK_ORDERS (1,000,000) and SOAK_RATE (2,000 orders a second) set its size. Orders come by gRPC batches and
without client order ids: an outcome under such an id is kept for a day and is meant to add up.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
from matplotlib import pyplot

from perf import plots
from perf import requests as r
from perf.cases import ORDERS_A_BATCH
from perf.ending import stop_in_order
from perf.gate.accounting import ended_orders, first_value, wrong_positions
from perf.load import ROOT, ToolMissing, grpc_load, tool
from perf.machine import describe
from perf.platform import PATIENT_SEC, WORK, Platform
from perf.processes import Usage, Watch, growth_told, is_flat
from services.runtime.local_stack import PartFailed, PartUnavailable

FOLDER: Final = ROOT / "docs"
_LEG: Final = 50_000
"""Orders of one call of the load tool, which keeps a record of each request."""
_SETTLE_SEC: Final = 120.0
_GONE_SEC: Final = 300.0
"""Ended orders leave the ledger two minutes after their end."""
_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class Soak:
    """What it came to."""

    orders: int
    seconds: float
    usage: Usage
    failed_requests: int
    told: Mapping[str, int]
    """Orders by what their client was told, as the service counts it."""
    ended: Mapping[str, int]
    """Orders in the log by how they ended."""
    fills: int
    """In QuestDB."""
    kept: int
    """Ended orders that are still in Valkey."""
    listed: int
    """Different orders on the pages of `ListOrders`, when all had left Valkey."""
    pages_ms: Sequence[float]
    """How long each page took, account after account, from the newest to the oldest."""
    wrong: tuple[str, ...]
    """Accounts whose position is not Σ of their fills."""
    stored_mib: Mapping[str, float]
    """Disk space by part."""

    @property
    def submitted(self) -> int:
        """Orders answered `submitted`."""
        return self.told.get("submitted", 0)

    @property
    def refused(self) -> dict[str, int]:
        """Orders that were not submitted, by the reason that their client was told."""
        return {reason: number for reason, number in self.told.items() if reason != "submitted"}

    @property
    def complaints(self) -> list[str]:
        """What is refused, lost, doubled or left behind; nothing when all is well."""
        found = [f"{self.failed_requests} requests failed"] if self.failed_requests else []
        if self.refused:
            found.append(f"orders refused: {self.refused}; a lower SOAK_RATE suits this machine")
        if sum(self.told.values()) != self.orders:
            found.append(f"{sum(self.told.values()):,} of {self.orders:,} orders answered")
        counted = {"filled": self.ended.get("filled", 0), "fills in QuestDB": self.fills}
        if not self.refused:
            # The pages show an order that was denied too, and none that was turned away at the door.
            counted["listed"] = self.listed
        found += [
            f"{number:,} {name} of {self.submitted:,} submitted"
            for name, number in counted.items()
            if number != self.submitted
        ]
        found += [f"{self.kept:,} ended orders still in Valkey"] if self.kept else []
        found += [f"position of {account} is not Σ of its fills" for account in self.wrong]
        return found

    @property
    def growing(self) -> list[str]:
        """Parts whose memory is not flat."""
        return [part for part, samples in self.usage.pss_mib.items() if not is_flat(_sizes(samples))]


def _sizes(samples: list[tuple[float, float]]) -> list[float]:
    return [size for _, size in samples]


def soak(platform: Platform, orders: int, rate: int) -> Soak:
    """Sends the orders and waits until all of them have ended, are stored and have left the ledger."""
    batches = r.batches(ORDERS_A_BATCH)
    before = platform.submissions()
    began = time.monotonic()
    sent = failed = 0
    with Watch(platform.pids(), every_sec=5) as watch:
        while sent < orders:
            leg = min(_LEG, orders - sent)
            load = grpc_load(
                platform.grpc("oms"),
                r.BATCH_SUBMIT,
                batches,
                seconds=leg / rate,
                rate=rate // ORDERS_A_BATCH,
                requests=leg // ORDERS_A_BATCH,
            )
            sent += load.requests * ORDERS_A_BATCH
            failed += load.errors
            latencies = f"P50 {load.latencies['P50']:.1f}, P99 {load.latencies['P99']:.1f} ms a batch"
            print(f"{time.monotonic() - began:6.0f} s  {sent:9,} orders  {latencies}", file=sys.stderr)
        seconds = time.monotonic() - began
        platform.settle(_SETTLE_SEC)
    kept = _wait_until_gone(platform)
    pages = [
        page for number in range(r.ACCOUNTS) for page in _pages(platform, r.order_body(number)["account"])
    ]
    return Soak(
        orders=sent,
        seconds=seconds,
        usage=watch.usage,
        failed_requests=failed,
        told=dict(platform.submissions() - before),
        ended=ended_orders(platform),
        fills=first_value(platform, "SELECT count() FROM fills"),
        kept=kept,
        listed=len({order_id for order_ids, _ in pages for order_id in order_ids}),
        pages_ms=[milliseconds for _, milliseconds in pages],
        wrong=tuple(wrong_positions(platform)),
        stored_mib={part.name: _stored_mib(part) for part in sorted(platform.folder.iterdir())},
    )


def _wait_until_gone(platform: Platform) -> int:
    """Ended orders that Valkey still holds, at the latest after `_GONE_SEC`."""
    deadline = time.monotonic() + _GONE_SEC
    with platform.valkey() as valkey:
        while True:
            kept = sum(int(valkey.zcard(key)) for key in valkey.scan_iter("ended:*"))
            if not kept or time.monotonic() > deadline:
                return kept
            time.sleep(1.0)


def _pages(platform: Platform, account: str) -> Iterator[tuple[list[str], float]]:
    """Order ids and milliseconds of each page of an account's orders."""
    query = {"account": account, "page_size": str(_PAGE)}
    with httpx.Client(timeout=60) as client:
        while True:
            began = time.perf_counter()
            answer = client.get(platform.rest("oms", "/orders"), params=query).raise_for_status().json()
            yield [order["order_id"] for order in answer["orders"]], (time.perf_counter() - began) * 1000
            if not answer.get("next_page_token"):
                return
            query["page_token"] = answer["next_page_token"]


def _stored_mib(folder: Path) -> float:
    files = (file for file in folder.rglob("*") if file.is_file())
    return sum(file.stat().st_blocks * 512 for file in files) / 2**20


def _spread(milliseconds: Sequence[float]) -> str:
    ordered = sorted(milliseconds)
    return f"{ordered[len(ordered) // 2]:.0f} ms (P50), {ordered[-1]:.0f} ms at most"


def write(done: Soak, facts: Mapping[str, str], rate: int, folder: Path) -> Path:
    """`soak.md` and its plot `soak.svg`; returns the former."""
    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    for part, samples in done.usage.pss_mib.items():
        axes.plot([second for second, _ in samples], _sizes(samples), label=part)
    axes.set(xlabel="seconds", ylabel="proportional memory, MiB", ylim=(0, None))
    plots.save(figure, axes, folder, f"Memory during {done.orders:,} orders", "soak.svg")
    micros = done.usage.cpu_micros(done.orders)
    ends = ", ".join(f"{number:,} {end}" for end, number in done.ended.items() if number)
    lost = "; ".join(done.complaints) or "nothing lost, doubled or left behind"
    grown = f"growing: {', '.join(done.growing)}" if done.growing else "the memory of every part is flat"
    lines = [
        f"# {done.orders:,} orders",
        "",
        *(f"- {name}: {fact}" for name, fact in facts.items()),
        f"- load: {rate:,} orders/s by gRPC batches of {ORDERS_A_BATCH}, {done.seconds:,.0f} s",
        f"- answered submitted: {done.submitted:,}; in the log of orders: {ends}; fills: {done.fills:,}",
        f"- ended orders left in Valkey: {done.kept:,}",
        f"- `ListOrders` in pages of {_PAGE:,}: {done.listed:,} orders; each page {_spread(done.pages_ms)}",
        "",
        f"**In the end: {lost}; {grown}.**",
        "",
        "| part | memory | CPU µs an order | on disk, MiB |",
        "| --- | --- | ---: | ---: |",
    ]
    for part, samples in done.usage.pss_mib.items():
        stored = done.stored_mib.get(part, 0.0)
        lines.append(f"| {part} | {growth_told(_sizes(samples))} | {micros[part]:.0f} | {stored:,.0f} |")
    lines += ["", f"![Memory during {done.orders:,} orders](soak.svg)", ""]
    path = folder / "soak.md"
    path.write_text("\n".join(lines))
    return path


def main() -> int:
    """0 when nothing was lost and nothing grew, 1 otherwise, 2 when a tool or a server is missing."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    orders, rate = int(os.environ.get("SOAK_ORDERS", "1000000")), int(os.environ.get("SOAK_RATE", "2000"))
    if orders < ORDERS_A_BATCH or rate < ORDERS_A_BATCH:
        print(f"SOAK_ORDERS and SOAK_RATE must be at least {ORDERS_A_BATCH}", file=sys.stderr)
        return 2
    stop_in_order()
    # Bounded as by default: a measured run otherwise keeps all orders, to count them.
    bounded = {"TRADE2026_LIVE_GATEWAY__STORE__ORDERS_KEPT": "100000"}
    try:
        tool("ghz")
        WORK.mkdir(parents=True, exist_ok=True)
        facts = describe(WORK)
        with Platform(patience_sec=PATIENT_SEC, variables=bounded) as platform:
            done = soak(platform, orders, rate)
            facts["setting"] = platform.setting
    except (ToolMissing, PartUnavailable, PartFailed) as missing:
        print(missing, file=sys.stderr)
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    print(write(done, facts, rate, folder).read_text())
    return 1 if done.complaints or done.growing else 0


if __name__ == "__main__":
    sys.exit(main())
