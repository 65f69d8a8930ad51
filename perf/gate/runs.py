"""Runs 1 to 5 and 7: latencies, a burst, one order's way, health."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import httpx
import nats

from perf import requests as r
from perf.floors.servers import Floors
from perf.gate.client import run_sequence
from perf.gate.verdicts import Table, centile_lines, spelled
from perf.load import http_load
from perf.measure import Measured, measure
from perf.platform import Platform

CHECKS: Final = 10_000
ORDERS: Final = 1_000
BURST_ACCOUNTS: Final = 100
BURST_CONNECTIONS: Final = 1_000
_GIB: Final = 1024.0
_EVENTUALLY_SEC: Final = 30.0


def run_1(platform: Platform, floors: Floors, table: Table) -> None:
    """Risk latency: sequential checks."""
    body = r.check_body()
    address = platform.stack.address("risk", "rest")
    floor = run_sequence(floors["Starlette no-op"].address, "/check", (body for _ in range(CHECKS)))
    done = run_sequence(address, "/check", (body for _ in range(CHECKS)))
    centile_lines(table, "1", done.latencies, (1.5, 5.0))
    approved = done.answers["approved"]
    table.holds("1", f"{CHECKS:,} checks approved", "no error", approved == CHECKS, str(dict(done.answers)))
    table.show("1", "all centiles", spelled(done.latencies))
    table.show("1", "the same client against an empty app", spelled(floor.latencies))


def run_2(platform: Platform, table: Table, seconds: float) -> None:
    """Risk load: a burst, then as many as it takes."""
    url = platform.rest("risk", "/check")
    targets = [r.target(url, r.check_body(f"test_account_{i}")) for i in range(BURST_ACCOUNTS)]
    burst = http_load(
        targets, seconds=0, rate=0, connections=BURST_CONNECTIONS, burst=CHECKS, count_answers=True
    )
    table.holds(
        "2",
        f"{CHECKS:,} checks at once",
        "all HTTP 200",
        burst.errors == 0 and burst.requests == CHECKS,
        f"{burst.requests - burst.errors:,} × 200 in {burst.seconds:.2f} s"
        + (f", {burst.outcomes}" if burst.errors else ""),
    )
    pids = {"risk": platform.pids()["risk"]}

    def sustained(_: int, length: float) -> Any:
        return http_load(targets, seconds=length, rate=0, workers=64)

    sustained(0, min(2.0, seconds))
    done: Measured = measure(sustained, 1, seconds, pids)
    load = done.load
    table.at_least("2", f"checks/s over {seconds:g} s, one REST call each", load.rate, 10_000)
    table.holds("2", "answers", "all HTTP 200", load.errors == 0, str(load.outcomes))
    table.at_most("2", "memory of risk", done.pss_mib.get("risk", float("nan")), _GIB, 300, "MiB")
    share = 100 * done.cpu_micros["risk"] * load.requests / 1e6 / load.seconds / (os.cpu_count() or 1)
    table.at_most("2", "CPU of risk, of the whole machine", share, 80, unit="%")
    table.show(
        "2",
        "latency at that load",
        f"{spelled(load.latencies)}; {done.cpu_micros['risk']:.0f} µs CPU a check, load tool"
        f" {done.client_micros:.0f} µs; others used {done.others:.0%} of the machine",
    )


def run_3(platform: Platform, floors: Floors, table: Table, *, raised: bool) -> None:
    """Oms latency: sequential orders."""
    run = "3 raised" if raised else "3"
    bodies = [{**r.check_body(price=45000.0 + i), "type": "limit"} for i in range(ORDERS)]
    floor = run_sequence(floors["Starlette no-op"].address, "/orders", bodies)
    done = run_sequence(platform.stack.address("oms", "rest"), "/orders", bodies)
    centile_lines(table, run, done.latencies, (10.0, 50.0), (3.0, 20.0))
    table.show(run, "all centiles", spelled(done.latencies))
    table.show(run, "the same client against an empty app", spelled(floor.latencies))
    table.show(run, "answers", str(dict(done.answers.most_common())))
    if raised:
        platform.settle(_EVENTUALLY_SEC)
        filled = _position(platform, "test_account") / Decimal("0.1")
        table.at_least(run, "accepted and filled", float(100 * filled / ORDERS), 99, unit="%")
    else:
        answered = sum(count for answer, count in done.answers.items() if not answer.startswith("HTTP"))
        table.holds(run, "answers with HTTP 200", "all", answered == ORDERS, f"{answered:,} of {ORDERS:,}")


def run_4(platform: Platform, table: Table) -> None:
    """Lifecycle: the fill of a market order."""
    order = {**r.check_body(), "type": "market"}
    del order["price"]

    async def fill() -> tuple[float, dict[str, Any]]:
        client = await nats.connect(f"nats://{platform.stack.address('nats', 'nats')}")
        try:
            fills = await client.subscribe("fills.test_account")
            await client.flush()
            begin = time.monotonic()
            answer = await asyncio.to_thread(_submit, platform, order)
            message = await fills.next_msg(timeout=10)
            return (time.monotonic() - begin) * 1e3, {**answer, "fill": json.loads(message.data)}
        finally:
            await client.close()

    try:
        took, answer = asyncio.run(fill())
    except (TimeoutError, nats.errors.TimeoutError):
        took, answer = float("inf"), {}
    same = answer.get("fill", {}).get("order_id") == answer.get("order_id", "none")
    table.at_most("4", "the fill on fills.test_account", took, 5000)
    table.holds("4", "it is this order's", "yes", same, "yes" if same else str(answer))
    shown = _eventually(lambda: _position(platform, "test_account") == Decimal("0.1"))
    table.holds("4", "GET /positions/test_account", "0.1", shown, str(_position(platform, "test_account")))


def run_5(platform: Platform, table: Table) -> None:
    """Full flow: one order in every log, in the position and in QuestDB."""
    before = platform.metrics("risk"), platform.metrics("oms")
    answer = _submit(platform, {**r.check_body(), "type": "limit"})
    order_id = answer.get("order_id", "none")
    submitted = answer.get("status") == "submitted"
    table.holds("5", "POST /orders", "submitted", submitted, str(answer))
    if not submitted:
        return
    for service in ("risk", "live-gateway", "oms"):
        path = platform.stack.part_log(service)
        logged = _eventually(lambda path=path: order_id in path.read_text())  # type: ignore[misc]
        table.holds("5", f"its id in the log of {service}", "yes", logged, "yes" if logged else "no")
    names = ("risk_check_latency_ms", "oms_submit_order_latency_ms")
    counted = _eventually(
        lambda: all(
            (platform.metrics(service) - then).total(f"{name}_count") == 1
            for service, then, name in zip(("risk", "oms"), before, names, strict=True)
        )
    )
    took = [
        (platform.metrics(service) - then).total(f"{name}_sum") if counted else float("nan")
        for service, then, name in zip(("risk", "oms"), before, names, strict=True)
    ]
    table.at_most("5", "risk check, as risk measured it", took[0], 1.5)
    table.at_most("5", "submission, as oms measured it", took[1], 10.0, 3.0)
    exact = _eventually(lambda: _position(platform, "test_account") == Decimal("0.1"))
    table.holds("5", "position", "exactly 0.1", exact, str(_position(platform, "test_account")))
    rows = f"SELECT quantity, price FROM fills WHERE order_id = '{order_id}'"
    stored = _eventually(lambda: len(platform.query(rows)) == 1)
    table.holds("5", "row in fills", "one", stored, str([(str(q), str(p)) for q, p in platform.query(rows)]))


def run_7(platform: Platform, table: Table) -> None:
    """Every service is healthy, and data is where it is documented."""
    _submit(platform, {**r.check_body(), "type": "limit"})
    for service in ("risk", "oms", "live-gateway", "market-data"):
        answer = platform.get(service, "/health")
        table.holds(
            "7", f"GET /health of {service}", "healthy", answer.get("status") == "healthy", str(answer)
        )
    statement = "SELECT COUNT(*) FROM fills WHERE timestamp > dateadd('m', -10, now())"

    def fills() -> int:
        rows = platform.query(statement)
        return int(rows[0][0]) if rows else 0

    stored = _eventually(lambda: fills() > 0)
    table.holds("7", "fills of the last 10 minutes in QuestDB", "some", stored, str(fills()))
    with platform.valkey(db=5) as valkey:
        projected = _eventually(lambda: bool(list(valkey.scan_iter("position:*"))))
        keys = sorted(valkey.scan_iter("position:*"))
    table.holds("7", "position:* in Valkey, database 5", "some", projected, ", ".join(keys))
    table.show("7", "outside", "sink-alt, ClickHouse, SeaweedFS and OpenSearch are not part of this platform")


def _submit(platform: Platform, order: dict[str, Any]) -> dict[str, Any]:
    answer = httpx.post(platform.rest("oms", "/orders"), json=order, timeout=10)
    if answer.status_code != 200:
        return {"status": f"HTTP {answer.status_code}", "body": answer.text}
    found: dict[str, Any] = answer.json()
    return found


def _position(platform: Platform, account: str) -> Decimal:
    text = httpx.get(platform.rest("oms", f"/positions/{account}"), timeout=10).raise_for_status().text
    position = json.loads(text, parse_float=Decimal, parse_int=Decimal).get("BTCUSDT", {})
    return Decimal(position.get("quantity", 0))


def _eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + _EVENTUALLY_SEC
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
