"""risk with real Valkey, NATS and QuestDB around it, each a part that can be hurt, and a market that a test
sets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import nats
import psycopg
import redis
from nats.errors import Error as NatsError

from services.messages import Tick, encode
from services.questdb.schema import DAILY_BARS
from services.risk.settings import RiskSettings
from services.runtime.local_stack.assembly import PORTS, SERVICES, ServicePart, StackOptions, addresses
from services.runtime.local_stack.nats import NatsServer
from services.runtime.local_stack.part import Part, http_get, loopback
from services.runtime.local_stack.ports import free_port_offset, free_ports
from services.runtime.local_stack.questdb import QuestDbServer
from services.runtime.local_stack.valkey import ValkeyServer
from services.runtime.settings import load_settings
from tests.support import wait_until

MARKS: Final = {"BTCUSDT": Decimal(45_000), "ETHUSDT": Decimal(2_300), "SOLUSDT": Decimal(100)}
BARS: Final = 45
VARIABLES: Final = {"TRADE2026_RISK__MONITORING__HEALTH_CHECK_INTERVAL_SEC": "0.5"}


class RiskService(ServicePart):
    """risk with variables of its own."""

    def __init__(
        self,
        options: StackOptions,
        variables: Mapping[str, str],
        where: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        spec = next(spec for spec in SERVICES if spec.name == "risk")
        super().__init__(spec, options, addresses(options.port_offset) if where is None else where)
        self.variables = dict(variables)

    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), **self.variables}


class RiskPlatform:
    """The servers, risk, and the market."""

    def __init__(self, folder: Path, variables: Mapping[str, str] | None = None) -> None:
        offset = free_port_offset(port for ports in PORTS.values() for port in ports.values())
        ports = {name: {key: port + offset for key, port in by.items()} for name, by in PORTS.items()}
        self.addresses = addresses(offset)
        self.valkey = ValkeyServer(folder / "valkey", ports["valkey"]["redis"])
        self.nats = NatsServer(folder / "nats", ports["nats"]["nats"], ports["nats"]["monitor"])
        questdb = ports["questdb"]
        self.questdb = QuestDbServer(folder / "questdb", questdb["http"], questdb["pg"], questdb["health"])
        self.options = StackOptions(folder, offset, 1)
        self.risk = RiskService(self.options, {**VARIABLES, **(variables or {})})

    @property
    def servers(self) -> list[Part]:
        return [self.valkey, self.nats, self.questdb]

    def start(self) -> None:
        """Starts everything, with a history, and waits until risk serves."""
        try:
            for server in self.servers:
                server.start()
            for server in self.servers:
                server.wait_healthy()
            self.store_bars()
            self.risk.start()
            self.risk.wait_healthy()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        for part in (self.risk, *reversed(self.servers)):
            part.resume()
            part.stop()

    def another_risk(self, folder: Path, variables: Mapping[str, str]) -> RiskService:
        """A second risk beside the one that runs, not started, with data in `folder` and ports of its own."""
        rest, grpc, metrics = free_ports(3)
        where = {**self.addresses, "risk": {"rest": loopback(rest), "grpc": loopback(grpc)}}
        own = {
            "TRADE2026_RISK__SERVICE__PORT": str(rest),
            "TRADE2026_RISK__SERVICE__GRPC_PORT": str(grpc),
            "TRADE2026_RISK__MONITORING__METRICS_PORT": str(metrics),
        }
        return RiskService(
            replace(self.options, data=folder), {**self.risk.variables, **variables, **own}, where
        )

    def mend(self) -> None:
        """Undoes what an earlier test did: everything runs and nothing is missing but marks."""
        for part in (*self.servers, self.risk):
            part.resume()
            if not part.running:
                part.start()
        for part in (*self.servers, self.risk):
            part.wait_healthy()
        wait_until(lambda: self.missing() <= {"marks"}, within_sec=20)

    def store_bars(self, bars: int = BARS) -> None:
        """Daily bars of every symbol up to yesterday, each closing 1 % above or below the one before."""
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
        with psycopg.connect(self.questdb.pg_url, autocommit=True) as connection:
            connection.execute(DAILY_BARS.create())
            for symbol, mark in MARKS.items():
                rows: list[Any] = []
                for back in range(bars, 0, -1):
                    close = mark * (Decimal("1.01") if back % 2 else Decimal(1))
                    rows += [today - timedelta(days=back), symbol, *map(str, [close] * 4), "1"]
                connection.execute(DAILY_BARS.insert(bars), rows)

            def stored() -> bool:
                ((count,),) = connection.execute("SELECT count() FROM daily_bars").fetchall()
                return bool(count >= bars * len(MARKS))

            wait_until(stored, within_sec=20)

    async def tick(self, **marks: Decimal | str) -> None:
        """Publishes a mark of each named symbol, or of all."""
        async with self.nats_client() as client:
            await publish_marks(client, marks or MARKS)
            await client.flush()

    @asynccontextmanager
    async def ticking(self) -> AsyncIterator[None]:
        """Publishes every mark, again and again, whenever NATS is there."""

        async def publish() -> None:
            while True:
                with contextlib.suppress(NatsError, OSError):
                    if client.is_connected:
                        await publish_marks(client, MARKS)
                await asyncio.sleep(0.1)

        async with self.nats_client() as client:
            publishing = asyncio.ensure_future(publish())
            try:
                yield
            finally:
                publishing.cancel()

    @asynccontextmanager
    async def nats_client(self) -> AsyncIterator[Any]:
        async def quiet(_: Exception) -> None:
            """The server is hurt on purpose."""

        client = await nats.connect(
            self.nats.url,
            connect_timeout=5,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.1,
            error_cb=quiet,
        )
        try:
            yield client
        finally:
            await client.close()

    def health(self) -> tuple[int, dict[str, Any]]:
        status, body = http_get(self.addresses["risk"]["rest"], "/health")
        return status, json.loads(body)

    def missing(self) -> set[str]:
        """What `/health` names; risk itself when nobody answers."""
        try:
            _, body = self.health()
        except OSError:
            return {"risk"}
        return {*body.get("missing", ()), *body.get("degraded", ())}

    def settings(self, **variables: str) -> RiskSettings:
        """The settings of a risk in this process, beside the one that runs."""
        environment = {**self.risk.environment(), **variables}
        for port in ("SERVICE__PORT", "SERVICE__GRPC_PORT", "MONITORING__METRICS_PORT"):
            environment[f"TRADE2026_RISK__{port}"] = "0"
        return load_settings("risk", RiskSettings, environment)

    def keys(self, account: str, db: int = 0) -> list[bytes]:
        """What Valkey holds of an account."""
        with redis.Redis.from_url(self.valkey.url, db=db) as client:
            return [key for key in client.scan_iter("*") if account.encode() in key]

    def log(self, start: int = 0) -> list[dict[str, Any]]:
        """The lines that risk has logged from byte `start` on."""
        text = self.risk.log_path.read_bytes()[start:].decode()
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def metric(self, sample: str) -> float:
        """A sample of risk's metrics, named with its labels as it is printed; 0 when there is none."""
        _, body = http_get(self.addresses["risk"]["metrics"], "/metrics")
        for line in body.decode().splitlines():
            if line.startswith(sample + " "):
                return float(line.rpartition(" ")[2])
        return 0.0


async def publish_marks(client: Any, marks: Mapping[str, Decimal | str]) -> None:
    """One tick of each symbol."""
    for symbol, price in marks.items():
        tick = Tick(symbol=symbol, price=Decimal(price), timestamp=Decimal(1))
        await client.publish(f"ticks.{symbol}", encode(tick))


@contextmanager
def running_platform(variables: Mapping[str, str] | None = None) -> Iterator[RiskPlatform]:
    """A platform for the tests of one package."""
    with tempfile.TemporaryDirectory(prefix="risk-", ignore_cleanup_errors=True) as folder:
        platform = RiskPlatform(Path(folder), variables)
        platform.start()
        try:
            yield platform
        finally:
            platform.stop()
