"""The platform under test: real servers and services, a proxy on every way between two of them.

Callers, risk, oms, market data and venue reach each other and the servers through links that can be cut,
muted or made lossy; each part can be killed, paused, filled up, and given another wall clock.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import struct
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.runtime.local_stack.assembly import (
    PORTS,
    SERVICES,
    ServicePart,
    ServiceSpec,
    StackOptions,
    addresses,
)
from services.runtime.local_stack.nats import NatsServer
from services.runtime.local_stack.part import Health, Part
from services.runtime.local_stack.ports import free_port_offset
from services.runtime.local_stack.questdb import QuestDbServer
from services.runtime.local_stack.valkey import ValkeyServer
from tests.integration.ledger.proxy import FaultyProxy
from tests.integration.oms.platform import processes

ORDER_TIMEOUT_SEC: Final = 45
WORKERS: Final = 2

VARIABLES: Final[Mapping[str, str]] = {
    "TRADE2026_RISK__RISK_CHECKS__ALLOW_SHORT": "true",
    "TRADE2026_RISK__RISK_CHECKS__INITIAL_BUYING_POWER_USD": "1000000000",
    "TRADE2026_RISK__RISK_CHECKS__MAX_POSITION_SIZE_USD": "1000000000",
    "TRADE2026_RISK__RISK_CHECKS__MAX_CONCENTRATION_PCT": "1000",
    "TRADE2026_RISK__RISK_CHECKS__MAX_PORTFOLIO_VAR_USD": "1000000000",
    # The size of an order is what denies, now and then.
    "TRADE2026_RISK__RISK_CHECKS__MAX_ORDER_SIZE_USD": "1000000",
    "TRADE2026_OMS__RISK_SERVICE__TIMEOUT_SEC": "0.5",
    "TRADE2026_OMS__QUESTDB__FLUSH_INTERVAL_SEC": "0.2",
    "TRADE2026_OMS__MONITORING__HEALTH_CHECK_INTERVAL_SEC": "1",
    "TRADE2026_RISK__MONITORING__HEALTH_CHECK_INTERVAL_SEC": "1",
    "TRADE2026_OMS__ORDER_MANAGEMENT__ORDER_TIMEOUT_SEC": str(ORDER_TIMEOUT_SEC),
    # Ended orders leave the ledger while their siblings work and their callers ask for them.
    "TRADE2026_OMS__ORDER_MANAGEMENT__ENDED_ORDERS_KEPT_SEC": "20",
    # Orders rest until the mark reaches them and execute in two trades: cancels and fills race.
    "TRADE2026_LIVE_GATEWAY__VENUE__FILL_MODEL": "market",
    "TRADE2026_LIVE_GATEWAY__VENUE__PARTIAL_FILLS": "2",
    "TRADE2026_LIVE_GATEWAY__VENUE__FILL_DELAY_MS": "40",
    "TRADE2026_MARKET_DATA__REPLAY__TICK_INTERVAL_MS": "200",
}

# Who connects to whom, and by which of its addresses. `callers` is everybody outside.
WAYS: Final[Mapping[str, tuple[str, str, str]]] = {
    "callers>oms": ("callers", "oms", "grpc"),
    "callers>oms.rest": ("callers", "oms", "rest"),
    "oms>risk": ("oms", "risk", "grpc"),
    "oms>valkey": ("oms", "valkey", "redis"),
    "oms>nats": ("oms", "nats", "nats"),
    "oms>questdb": ("oms", "questdb", "pg"),
    "oms>questdb.http": ("oms", "questdb", "http"),
    "risk>valkey": ("risk", "valkey", "redis"),
    "risk>nats": ("risk", "nats", "nats"),
    "risk>questdb": ("risk", "questdb", "pg"),
    "live-gateway>nats": ("live-gateway", "nats", "nats"),
    "market-data>nats": ("market-data", "nats", "nats"),
}

_CLOCK: Final = Path(__file__).parent / "shifted"


class Link(FaultyProxy):
    """The way from one part to another."""

    def __init__(self, address: str, seed: int) -> None:
        host, _, port = address.rpartition(":")
        super().__init__(host, int(port), random.Random(seed))

    @property
    def address(self) -> str:
        """Where the one side connects to reach the other."""
        return self.url.removeprefix("redis://")


class Service(ServicePart):
    """A service whose wall clock can be set while it runs."""

    def __init__(
        self,
        spec: ServiceSpec,
        options: StackOptions,
        where: Mapping[str, Mapping[str, str]],
    ) -> None:
        super().__init__(spec, options, where)
        self._clock = self.folder / "clock"

    def prepare(self) -> None:
        super().prepare()
        if not self._clock.exists():
            self.set_clock(0.0)

    def environment(self) -> Mapping[str, str]:
        return {
            **super().environment(),
            **VARIABLES,
            "PYTHONPATH": str(_CLOCK),
            "ROBUSTNESS_CLOCK": str(self._clock),
        }

    def set_clock(self, ahead_sec: float) -> None:
        """Sets the wall clock of all its processes `ahead_sec` before the machine's (negative: behind)."""
        offset = struct.pack("<q", round(ahead_sec * 1e9))
        if self._clock.exists():
            with self._clock.open("r+b") as file:
                file.write(offset)
        else:
            self._clock.write_bytes(offset)


@dataclass(frozen=True, slots=True)
class Where:
    """Addresses for those who look from outside, past the links."""

    oms: str
    oms_grpc: str
    risk: str
    nats: str
    valkey: str
    questdb: str


class Platform:
    """Everything under one folder; start it within an asynchronous block, from the main thread."""

    def __init__(self, folder: Path, seed: int, workers: int = WORKERS) -> None:
        self.folder = folder
        self._seed = seed
        offset = free_port_offset(port for ports in PORTS.values() for port in ports.values())
        self._options = StackOptions(folder, offset, workers)
        self._addresses = where = addresses(offset)
        ports = {name: {key: port + offset for key, port in by.items()} for name, by in PORTS.items()}
        questdb = ports["questdb"]
        self.valkey = ValkeyServer(folder / "valkey", ports["valkey"]["redis"])
        self.nats = NatsServer(folder / "nats", ports["nats"]["nats"], ports["nats"]["monitor"])
        self.questdb = QuestDbServer(folder / "questdb", questdb["http"], questdb["pg"], questdb["health"])
        self.where = Where(
            oms=f"http://{where['oms']['rest']}",
            oms_grpc=where["oms"]["grpc"],
            risk=f"http://{where['risk']['rest']}",
            nats=self.nats.url,
            valkey=self.valkey.url,
            questdb=self.questdb.pg_url,
        )
        self.links: dict[str, Link] = {}
        self.services: dict[str, Service] = {}
        self._stack = AsyncExitStack()

    @property
    def parts(self) -> dict[str, Part]:
        """Every part by name, in the order of their start."""
        return {"valkey": self.valkey, "nats": self.nats, "questdb": self.questdb, **self.services}

    async def __aenter__(self) -> Platform:
        try:
            for number, (name, (_, to, protocol)) in enumerate(WAYS.items()):
                link = Link(self._addresses[to][protocol], self._seed + number)
                await self._stack.enter_async_context(link)
                self.links[name] = link
            for spec in SERVICES:
                self.services[spec.name] = Service(spec, self._options, self._seen_from(spec.name))
            stages: list[list[Part]] = [[self.valkey, self.nats, self.questdb]]
            stages += (
                [self.services[spec.name] for spec in SERVICES if spec.stage == stage]
                for stage in sorted({spec.stage for spec in SERVICES})
            )
            for parts in stages:
                for part in parts:
                    part.start()
                for part in parts:
                    await part.until_healthy(2 * part.start_timeout_sec)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for part in reversed(self.parts.values()):
            thaw(part)
            part.request_stop()
        for part in reversed(self.parts.values()):
            await asyncio.to_thread(part.finish_stop)
        await self._stack.aclose()

    def _seen_from(self, service: str) -> dict[str, dict[str, str]]:
        """The addresses as `service` is told them: links to all others, its own ports as they are."""
        seen = {name: dict(by) for name, by in self._addresses.items()}
        for name, (source, to, protocol) in WAYS.items():
            if source == service:
                seen[to][protocol] = self.links[name].address
        return seen

    async def unready(self) -> list[str]:
        """Parts that do not serve now, each with what it says."""
        said: list[str] = []
        for part in self.parts.values():
            health: Health = await asyncio.to_thread(part.probe)
            if not (part.running and health.ready):
                said.append(f"{part.name}: {health.detail or 'is not running'}")
        return said


def signal_all(part: Part, number: signal.Signals) -> None:
    """Sends a signal to every process of the part, its supervisor first."""
    for process in processes(part):
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            continue


def thaw(part: Part) -> None:
    """Lets every process of a part run again."""
    signal_all(part, signal.SIGCONT)
