"""The platform as the tests of oms run it: real servers and services, each a part that can be hurt."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import psutil
import redis.asyncio

from services.oms.settings import OmsSettings
from services.runtime.local_stack.assembly import PORTS, SERVICES, ServicePart, StackOptions, addresses
from services.runtime.local_stack.nats import NatsServer
from services.runtime.local_stack.part import Part, PartFailed, loopback
from services.runtime.local_stack.ports import free_port_offset, free_ports
from services.runtime.local_stack.questdb import QuestDbServer
from services.runtime.local_stack.valkey import ValkeyServer
from services.runtime.settings import load_settings
from tests.support import eventually

VARIABLES: Final[Mapping[str, str]] = {
    # Nothing but the size of an order, and what a test asks for, denies.
    "TRADE2026_RISK__RISK_CHECKS__ALLOW_SHORT": "true",
    "TRADE2026_RISK__RISK_CHECKS__INITIAL_BUYING_POWER_USD": "1000000000",
    "TRADE2026_RISK__RISK_CHECKS__MAX_POSITION_SIZE_USD": "1000000000",
    "TRADE2026_RISK__RISK_CHECKS__MAX_CONCENTRATION_PCT": "1000",
    "TRADE2026_RISK__RISK_CHECKS__MAX_PORTFOLIO_VAR_USD": "1000000000",
    # A machine that runs everything at once is no place for the default of 5 ms.
    "TRADE2026_OMS__RISK_SERVICE__TIMEOUT_SEC": "1",
    "TRADE2026_OMS__QUESTDB__FLUSH_INTERVAL_SEC": "0.2",
    # Ended orders leave the ledger under every test.
    "TRADE2026_OMS__ORDER_MANAGEMENT__ENDED_ORDERS_KEPT_SEC": "3",
    "TRADE2026_OMS__MONITORING__HEALTH_CHECK_INTERVAL_SEC": "0.5",
    # Orders rest until the mark reaches them, so that there is something to cancel.
    "TRADE2026_LIVE_GATEWAY__VENUE__FILL_MODEL": "market",
    "TRADE2026_MARKET_DATA__REPLAY__TICK_INTERVAL_MS": "100",
}


class _Service(ServicePart):
    """A service with variables of its own."""

    variables: Mapping[str, str] = {}

    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), **self.variables}


class OmsPlatform:
    """Valkey, NATS, QuestDB, market data, venue, risk and oms under one folder."""

    def __init__(self, folder: Path, variables: Mapping[str, str] | None = None, workers: int = 1) -> None:
        self.folder = folder
        offset = free_port_offset(port for ports in PORTS.values() for port in ports.values())
        self.options = StackOptions(folder, offset, workers)
        where = self.addresses = addresses(offset)
        ports = {name: {key: port + offset for key, port in by.items()} for name, by in PORTS.items()}
        self.valkey = ValkeyServer(folder / "valkey", ports["valkey"]["redis"])
        self.nats = NatsServer(folder / "nats", ports["nats"]["nats"], ports["nats"]["monitor"])
        questdb = ports["questdb"]
        self.questdb = QuestDbServer(folder / "questdb", questdb["http"], questdb["pg"], questdb["health"])
        self.services: dict[str, _Service] = {}
        for spec in SERVICES:
            service = _Service(spec, self.options, where)
            service.variables = {**VARIABLES, **(variables or {})}
            self.services[spec.name] = service

    @property
    def stages(self) -> list[list[Part]]:
        named = self.services
        return [
            [self.valkey, self.nats, self.questdb],
            [named["market-data"], named["live-gateway"]],
            [named["risk"]],
            [named["oms"]],
        ]

    @property
    def oms(self) -> ServicePart:
        return self.services["oms"]

    @property
    def risk(self) -> ServicePart:
        return self.services["risk"]

    @property
    def venue(self) -> ServicePart:
        return self.services["live-gateway"]

    def start(self) -> None:
        """Starts everything and waits until it serves."""
        try:
            for stage in self.stages:
                for part in stage:
                    part.start()
                for part in stage:
                    part.wait_healthy()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        for stage in reversed(self.stages):
            for part in stage:
                part.request_stop()
            for part in stage:
                part.finish_stop()

    def mend(self) -> None:
        """Undoes what an earlier test did: everything runs."""
        for stage in self.stages:
            for part in stage:
                thaw(part)
                if not part.running:
                    part.start()
            for part in stage:
                part.wait_healthy()

    def another_oms(self, folder: Path, variables: Mapping[str, str] | None = None) -> ServicePart:
        """A second oms beside the one that runs, not started, with data in `folder` and ports of its own."""
        rest, grpc, metrics = free_ports(3)
        where = {**self.addresses, "oms": {"rest": loopback(rest), "grpc": loopback(grpc)}}
        service = _Service(self.oms.spec, replace(self.options, data=folder), where)
        service.variables = {
            **self.services["oms"].variables,
            **(variables or {}),
            "TRADE2026_OMS__SERVICE__PORT": str(rest),
            "TRADE2026_OMS__SERVICE__GRPC_PORT": str(grpc),
            "TRADE2026_OMS__MONITORING__METRICS_PORT": str(metrics),
        }
        return service

    def oms_settings(self, variables: Mapping[str, str] | None = None) -> OmsSettings:
        """The settings of an oms in this process, beside the one that runs."""
        environment = {**self.oms.environment(), **(variables or {})}
        for port in ("SERVICE__PORT", "SERVICE__GRPC_PORT", "MONITORING__METRICS_PORT"):
            environment[f"TRADE2026_OMS__{port}"] = "0"
        return load_settings("oms", OmsSettings, environment)

    def log(self, name: str) -> list[dict[str, Any]]:
        """The JSON lines that a service has logged."""
        text = self.services[name].log_path.read_text()
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    async def projected(self, account: str, symbol: str) -> dict[str, str]:
        """The projection of a position in oms's own database, as its readers see it."""
        async with redis.asyncio.Redis.from_url(self.valkey.url, db=5, decode_responses=True) as client:
            held = await client.hgetall(f"position:{account}:{symbol}")
        return {name: str(held[name]) for name in ("quantity", "last_price") if name in held}

    async def until_projected(self, account: str, symbol: str, quantity: str) -> dict[str, str]:
        """The projection once it shows `quantity`: it follows the ledger by way of the journal."""

        async def shown() -> dict[str, str]:
            held = await self.projected(account, symbol)
            assert Decimal(held.get("quantity", "0")) == Decimal(quantity), held
            return held

        return await eventually(shown, within_sec=10)

    def metric(self, text: str) -> float:
        """A sample of oms's metrics, named with its labels as it is printed; 0 when there is none."""
        from services.runtime.local_stack.part import http_get

        _, body = http_get(self.addresses["oms"]["metrics"], "/metrics")
        for line in body.decode().splitlines():
            if line.startswith(text + " "):
                return float(line.rpartition(" ")[2])
        return 0.0


def processes(part: Part) -> list[psutil.Process]:
    """The part's supervisor and its workers."""
    if part.pid is None:
        return []
    try:
        first = psutil.Process(part.pid)
        return [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def freeze(part: Part) -> None:
    """Stops every process of the part in the middle of whatever it does."""
    for process in processes(part):
        process.send_signal(signal.SIGSTOP)


def thaw(part: Part) -> None:
    """Ends a `freeze`."""
    for process in reversed(processes(part)):
        process.send_signal(signal.SIGCONT)


def worker_pids(part: Part) -> list[int]:
    """Process ids of the part's workers."""
    return [process.pid for process in processes(part)[1:]]


def kill_workers(part: Part) -> None:
    """SIGKILLs the part's workers; their supervisor starts new ones."""
    for pid in worker_pids(part):
        os.kill(pid, signal.SIGKILL)


def started(
    folder: Path, variables: Mapping[str, str] | None = None, workers: int = 1, trials: int = 3
) -> OmsPlatform:
    """A platform that serves. Other tests of the machine look for free ports too, and may take one first."""
    for trial in range(trials):
        platform = OmsPlatform(folder / str(trial), variables, workers)
        try:
            platform.start()
            return platform
        except PartFailed as failed:
            taken = any(sign in str(failed) for sign in ("address already in use", "is taken by pid"))
            if not taken or trial == trials - 1:
                raise
    raise AssertionError("unreachable")


_running: list[OmsPlatform] = []


@contextmanager
def shared_platform() -> Iterator[OmsPlatform]:
    """One platform for all tests of a run; the last user's exit stops it."""
    if not _running:
        with tempfile.TemporaryDirectory(prefix="oms-", ignore_cleanup_errors=True) as folder:
            platform = started(Path(folder))
            _running.append(platform)
            try:
                yield platform
            finally:
                _running.remove(platform)
                platform.stop()
    else:
        yield _running[0]
