"""Cost of one order against what has gathered: accounts, open orders, symbols, history."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import httpx
import nats

from perf import requests as r
from perf.cases import http
from perf.load import Load, grpc_load
from perf.measure import Measured, measure
from perf.platform import PATIENT_SEC, Platform

RATE: Final = 200
"""Orders a second while a point is measured: far from saturation, so that waiting is not what is compared."""
ALLOWED: Final = 1.5
"""Largest point over smallest, of latency, CPU and memory."""
ACCOUNTS: Final = (1, 1_000, 10_000, 100_000)
OPEN_ORDERS: Final = (0, 10, 100, 1_000)
SYMBOLS: Final = (1, 10, 100, 300)
HISTORY: Final = (0, 100_000, 1_000_000, 5_000_000)

_ACCOUNT: Final = "growth"
_SETTLE_SEC: Final = 300.0
_BATCH: Final = 100
_STOP_PRICE: Final = 53_000
"""A stop to buy that the replayed day does not reach."""


@dataclass(frozen=True, slots=True)
class Point:
    """One size."""

    size: int
    measured: Measured

    def as_json(self) -> dict[str, Any]:
        """For the report."""
        run = self.measured
        return {
            "size": self.size,
            "P50": run.load.latencies.get("P50"),
            "P99": run.load.latencies.get("P99"),
            "errors": run.load.errors,
            "answers": dict(run.load.answers),
            "cpu_micros": {part: run.cpu_micros[part] for part in ("risk", "oms", "valkey")},
            "pss_mib": {part: run.pss_mib[part] for part in ("risk", "oms", "valkey")},
        }


@dataclass(frozen=True, slots=True)
class Growth:
    """Points of one dimension, by size."""

    name: str
    setting: str
    points: list[Point]

    def ratio(self, value: Callable[[Point], float]) -> float:
        """Of the largest size over the smallest."""
        first = value(self.points[0])
        return value(self.points[-1]) / first if first else float("nan")

    @property
    def ratios(self) -> dict[str, float]:
        """What is bound to `ALLOWED`."""
        return {
            "P50": self.ratio(lambda point: point.measured.load.latencies.get("P50", float("nan"))),
            "CPU of risk and oms": self.ratio(
                lambda point: point.measured.cpu_micros["risk"] + point.measured.cpu_micros["oms"]
            ),
            "memory of risk": self.ratio(lambda point: point.measured.pss_mib["risk"]),
            "memory of oms": self.ratio(lambda point: point.measured.pss_mib["oms"]),
        }


def accounts(seconds: float, sizes: Sequence[int] = ACCOUNTS) -> Growth:
    """Accounts that have traded."""
    with Platform(patience_sec=PATIENT_SEC) as platform:
        opened = 0

        def grow(size: int) -> None:
            nonlocal opened
            orders = [
                r.message({**r.order_body(0), "account": f"holder_{i}"}) for i in range(opened, size - 1)
            ]
            _submit(platform, orders)
            opened = max(opened, size - 1)

        return _measured("accounts", platform, sizes, seconds, grow)


def open_orders(seconds: float, sizes: Sequence[int] = OPEN_ORDERS) -> Growth:
    """Working orders of the account that trades."""
    with Platform(patience_sec=PATIENT_SEC) as platform:
        resting = 0
        stop = {**r.order_body(0), "account": _ACCOUNT, "type": "stop"}
        del stop["price"]

        def grow(size: int) -> None:
            nonlocal resting
            order = {**r.message(stop), "stop_price": {"value": str(_STOP_PRICE)}}
            _submit(platform, [order] * (size - resting), settle=False)
            resting = size

        return _measured("open orders of the account", platform, sizes, seconds, grow, settle=False)


def history(seconds: float, sizes: Sequence[int] = HISTORY) -> Growth:
    """Fills that QuestDB holds."""
    with Platform(patience_sec=PATIENT_SEC) as platform:
        stored = 0
        httpx.post(platform.rest("oms", "/orders"), json=_order(), timeout=20).raise_for_status()
        _until(lambda: platform.query("SELECT count() FROM fills") == [(1,)])

        def grow(size: int) -> None:
            nonlocal stored
            if size <= stored:
                return
            # One a second backwards from yesterday, over ten accounts.
            platform.query(
                "INSERT INTO fills SELECT dateadd('s', -cast(x AS INT), dateadd('d', -1, now())), "
                "concat('past_', x % 10), 'BTCUSDT', 'buy', concat('past-', x), concat('past-', x), "
                "CAST('0.01' AS DECIMAL(38,18)), CAST('45000' AS DECIMAL(38,18)), "
                "CAST('0.045' AS DECIMAL(38,18)), 'taker', -x "
                f"FROM long_sequence({size - stored}, 1, {stored + 1}) WHERE x > 0"
            )
            stored = size
            _until(lambda: int(platform.query("SELECT count() FROM fills")[0][0]) >= stored)

        return _measured("fills in QuestDB", platform, sizes, seconds, grow)


def symbols(seconds: float, sizes: Sequence[int] = SYMBOLS) -> Growth:
    """Symbols in which the account holds a position; all have marks and a history of prices."""
    made = [f"SYM{i}" for i in range(max(sizes) - 1)]
    listed = [
        {"symbol": name, "price_increment": 0.01, "quantity_increment": 0.001}
        for name in ("BTCUSDT", "ETHUSDT", "SOLUSDT", *made)
    ]
    variables = {f"TRADE2026_{s}__INSTRUMENTS": json.dumps(listed) for s in ("RISK", "OMS", "LIVE_GATEWAY")}
    # The replay keeps its table of bars as recorded, unless it looks rarely.
    variables["TRADE2026_MARKET_DATA__QUESTDB__BARS_CHECK_INTERVAL_SEC"] = "86400"
    with Platform(patience_sec=PATIENT_SEC, variables=variables) as platform, _ticking(platform, made):
        platform.query(
            "INSERT INTO daily_bars SELECT b.timestamp, s.symbol, b.open, b.high, b.low, b.close, b.volume "
            "FROM daily_bars b CROSS JOIN (SELECT cast(concat('SYM', x - 1) AS SYMBOL) symbol "
            f"FROM long_sequence({len(made)})) s WHERE b.symbol = 'BTCUSDT'"
        )
        held = 0

        def grow(size: int) -> None:
            nonlocal held
            wanted = made[held : size - 1]
            orders = [
                r.message({**r.order_body(0), "account": _ACCOUNT, "symbol": name, "price": 100.0})
                for name in wanted
            ]
            # The history of new symbols is read every 30 s.
            _until(lambda: not wanted or _accepted(platform, orders[0]))
            _submit(platform, orders[1:])
            held = max(held, size - 1)

        return _measured("symbols held", platform, sizes, seconds, grow)


DIMENSIONS: Final = {
    "accounts": accounts,
    "open-orders": open_orders,
    "symbols": symbols,
    "history": history,
}


def _measured(
    name: str,
    platform: Platform,
    sizes: Sequence[int],
    seconds: float,
    grow: Callable[[int], None],
    *,
    settle: bool = True,
) -> Growth:
    drive = http(platform.rest("oms", "/orders"), [_order()], rate=RATE, count_answers=True)
    points: list[Point] = []
    for size in sizes:
        grow(size)
        drive(0, min(2.0, seconds))
        if settle:
            platform.settle(_SETTLE_SEC)
        measured = measure(drive, 1, seconds, platform.pids())
        points.append(Point(size, measured))
        print(
            f"growth, {name} {size:,}: P50 {measured.load.latencies['P50']:.2f} ms, CPU "
            + ", ".join(f"{part} {measured.cpu_micros[part]:.0f} µs" for part in ("risk", "oms"))
            + f", {measured.load.answers or measured.load.outcomes}",
            file=sys.stderr,
            flush=True,
        )
    return Growth(name, platform.setting, points)


def _order() -> dict[str, Any]:
    return {**r.order_body(0), "account": _ACCOUNT}


def _submit(platform: Platform, orders: Sequence[dict[str, Any]], *, settle: bool = True) -> None:
    """Submits all of them by batches, as fast as they are taken."""
    batches = [{"requests": orders[start : start + _BATCH]} for start in range(0, len(orders), _BATCH)]
    for start in range(0, len(batches), 100):
        part = batches[start : start + 100]
        done: Load = grpc_load(
            platform.grpc("oms"), r.BATCH_SUBMIT, part, seconds=0, requests=len(part), concurrency=2
        )
        if done.errors:
            raise RuntimeError(f"orders that were to be there already were not taken: {done.outcomes}")
        if settle:
            platform.settle(_SETTLE_SEC)


def _accepted(platform: Platform, order: dict[str, Any]) -> bool:
    before = platform.metrics("oms").total("oms_submissions_total", outcome="submitted")
    _submit(platform, [order])
    return platform.metrics("oms").total("oms_submissions_total", outcome="submitted") > before


def _until(condition: Callable[[], bool], within_sec: float = 120.0) -> None:
    deadline = time.monotonic() + within_sec
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("what was to be measured could not be prepared")
        time.sleep(0.5)


@contextmanager
def _ticking(platform: Platform, names: Sequence[str]) -> Iterator[None]:
    """Marks of 100 for `names`, every ten seconds."""
    stop = threading.Event()

    async def tick() -> None:
        client = await nats.connect(f"nats://{platform.stack.address('nats', 'nats')}")
        try:
            while not stop.is_set():
                now = datetime.now(UTC).timestamp()
                for name in names:
                    payload = json.dumps({"symbol": name, "price": 100.0, "timestamp": now})
                    await client.publish(f"ticks.{name}", payload.encode())
                for _ in range(100):
                    if stop.is_set():
                        break
                    await asyncio.sleep(0.1)
        finally:
            await client.close()

    thread = threading.Thread(target=lambda: asyncio.run(tick()), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
