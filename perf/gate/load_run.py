"""Run 6: the documented load of orders, followed to the last fill."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import psutil

from perf import requests as r
from perf.gate.accounting import Account, count
from perf.gate.verdicts import Table, centile_lines, spelled
from perf.load import Load, http_load
from perf.machine import Moment
from perf.measure import children_cpu
from perf.platform import Platform
from perf.processes import Usage, Watch, growth_told, is_flat
from perf.scrape import Metrics

RATE: Final = 1_000
FULL_SEC: Final = 300.0
SERVICES: Final = ("risk", "oms", "live-gateway", "market-data")
TIMEOUTS_ALLOWED: Final = 0.005
"""Share of orders that may be answered `risk_timeout`."""
_SETTLE_SEC: Final = 120.0
_ERROR: Final = re.compile(r'"level":\s*"ERROR"|^Traceback', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What run 6 came to."""

    load: Load
    account: Account
    usage: Usage
    timeouts: float
    """Share of the orders answered `risk_timeout`."""
    time_went: str
    """Where risk's time went, in words; for a run with timeouts."""


def run_6(platform: Platform, table: Table, name: str, seconds: float, *, raised: bool) -> Outcome:
    """Sends the load and judges it; `name` is the run's in the table."""
    targets = [r.target(platform.rest("oms", "/orders"), r.order_body(number)) for number in range(r.CYCLE)]
    before = {service: platform.metrics(service) for service in ("risk", "oms")}
    processes = _processes(platform)
    moment, client = Moment.now(), children_cpu()
    with Watch(platform.pids(), every_sec=2) as watch:
        load = http_load(targets, seconds=seconds, rate=RATE, count_answers=True)
        client = children_cpu() - client
        took, left = platform.settle(_SETTLE_SEC)
    usage = watch.usage
    others = Moment.now().others(moment, client + sum(usage.cpu_seconds.values()))
    counted = {service: platform.metrics(service) - earlier for service, earlier in before.items()}
    account = count(platform, load)

    ok = 100 * (load.requests - load.errors) / load.requests if load.requests else 0.0
    table.at_least(name, f"HTTP 200 of {load.requests:,} orders", ok, 99, 100, "%")
    centile_lines(table, name, load.latencies, (10.0, 50.0), (3.0, 20.0))
    table.show(name, "all centiles", spelled(load.latencies))
    table.at_least(name, "offered and answered a second", load.rate, 0.99 * RATE)
    risk_p50 = counted["risk"].quantile("risk_check_latency_ms", 0.5, kind="reserve")
    table.at_most(name, "risk P50, as risk measured it", risk_p50, 1.5)
    table.holds(name, "every order accounted for", "yes", not account.complaints, _told(account))
    table.holds(name, "open at the end", "none", not left, f"{left} after {took:.1f} s")
    table.show(name, "answers", str(dict(account.answered)))
    if load.errors:
        table.show(name, "answers by status", str(load.outcomes))
        table.show(name, "latency of those with HTTP 200", spelled(load.accepted))
    table.show(name, "fills", f"{account.fills_stream:,} in the stream, {account.fills_stored:,} in QuestDB")
    if raised:
        filled = 100 * account.ended.get("filled", 0) / load.requests if load.requests else 0.0
        table.at_least(name, "accepted and filled", filled, 99, 100, "%")
    _resources(table, name, platform, usage, load)
    table.show(name, "others' share of the machine", f"{others:.0%}")
    restarted = sorted(
        service for service, pids in _processes(platform).items() if pids != processes[service]
    )
    table.holds(name, "restarts", "none", not restarted, ", ".join(restarted) or "none")
    errors = {service: _errors(platform, service) for service in SERVICES}
    logged = {service: number for service, number in errors.items() if number}
    table.holds(name, "ERROR lines in the logs", "none", not logged, str(logged or "none"))
    timeouts = account.answered.get("risk_timeout", 0) / load.requests if load.requests else 0.0
    table.at_most(name, "answered risk_timeout", 100 * timeouts, 100 * TIMEOUTS_ALLOWED, 0, "%")
    return Outcome(load, account, usage, timeouts, _time_went(counted, others))


def _told(account: Account) -> str:
    return "; ".join([account.spelled(), *account.complaints])


def _resources(table: Table, name: str, platform: Platform, usage: Usage, load: Load) -> None:
    oms = [size for _, size in usage.pss_mib["oms"]]
    table.at_most(name, "memory of oms", max(oms, default=float("nan")), 2048, 400, "MiB")
    for service in ("risk", "oms"):
        sizes = [size for _, size in usage.pss_mib[service]]
        table.holds(name, f"memory of {service} is flat", "no leak", is_flat(sizes), growth_told(sizes))
    micros = usage.cpu_micros(load.requests)
    table.show(name, "CPU µs an order", ", ".join(f"{part} {used:.0f}" for part, used in micros.items()))


def _processes(platform: Platform) -> dict[str, frozenset[int]]:
    """The processes of each service, its supervisor included."""
    return {
        service: frozenset([pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))])
        for service, pid in platform.pids().items()
        if service in SERVICES
    }


def _errors(platform: Platform, service: str) -> int:
    return len(_ERROR.findall(platform.stack.part_log(service).read_text(errors="replace")))


def _time_went(counted: dict[str, Metrics], others: float) -> str:
    risk, oms = counted["risk"], counted["oms"]

    def shown(metrics: Metrics, name: str, **labels: str) -> str:
        return ", ".join(
            f"{label} {metrics.quantile(name, share, **labels):.2f}"
            for label, share in (("P50", 0.5), ("P99", 0.99), ("P99.9", 0.999))
        )

    return (
        f"a reservation inside risk took {shown(risk, 'risk_check_latency_ms', kind='reserve')} ms; "
        f"timers were late by {shown(risk, 'event_loop_lag_ms')} ms in risk and by "
        f"{shown(oms, 'event_loop_lag_ms')} ms in oms; a submission inside oms took "
        f"{shown(oms, 'oms_submit_order_latency_ms')} ms; others used {others:.0%} of the machine"
    )
