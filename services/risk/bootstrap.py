"""Wires the service.

Start
1. build the engine: without a ledger it denies everything;
2. open gRPC and REST: `/health` tells what is missing;
3. own the probes, the history and the kept returns;
4. connect to NATS (waited for), and take ticks;
5. open the ledger (waited for), on the registry of opened accounts; reservations are rehearsed as soon as
   there is a mark; ready.

Stop
1. unhealthy;
2. REST and gRPC take no new calls and finish the open ones;
3. answer what the ledger still holds, close the connections.

QuestDB is never waited for: without daily returns orders are denied by the checks themselves.
"""

import asyncio
from collections.abc import Callable, Coroutine
from importlib.metadata import version
from typing import Any, Final, TypeVar

from nats.errors import Error as NatsError
from nats.js.kv import KeyValue

from gateway_http import create_app, local
from services.instruments import instruments_of
from services.ledger.errors import ForeignLedger, LedgerUnavailable, UnsafeValkey
from services.ledger.journal_tail import LedgerTail
from services.ledger.ledger import Ledger, LedgerOptions
from services.ledger.registry import KvAccountRegistry
from services.risk.engine import RiskEngine
from services.risk.history import History
from services.risk.kept_returns import KeptReturns
from services.risk.mark_rules import JumpRule
from services.risk.market import LiveMarket
from services.risk.marks import Marks
from services.risk.meter import Meter
from services.risk.questdb_probe import ping_http
from services.risk.rehearsal import rehearse
from services.risk.servicer import RiskServicer, ServiceInfo
from services.risk.settings import RiskSettings
from services.runtime.admission import Admission
from services.runtime.connections import open_questdb, open_valkey
from services.runtime.grpc_engine import GrpcService, Taking, open_server
from services.runtime.health import HealthBoard
from services.runtime.http_server import serve
from services.runtime.nats_client import NatsClient, open_nats
from services.runtime.service import WorkerContext
from services.runtime.settings import SettingsError
from services.runtime.streams import ACCOUNTS_BUCKET, LEDGER, ensure_bucket, ensure_streams
from services.runtime.tasks import end
from services.runtime.telemetry import get_logger
from trade2026.risk.v1 import risk_service_pb2
from trade2026.risk.v1.risk_service_pb2_grpc import add_RiskServiceServicer_to_server

SERVICE: Final = risk_service_pb2.DESCRIPTOR.services_by_name["RiskService"]
AHEAD: Final = {
    "Reserve": Taking(urgent=True),
    "BatchReserve": Taking(urgent=True),
    "Check": Taking(),
}
"""Reservations have milliseconds; checks that nothing follows make way for them. A batch of checks holds
up the loop for as long as its checks take, so batches are taken one after the other."""
_RETRY_SEC: Final = 0.2
_QUESTDB_SEC: Final = 10.0
_NATS_SEC: Final = 2.0
_NO_ACCOUNT: Final = "no.account"
"""A key that the registry can never hold: accounts have no points."""
_log = get_logger("risk")
T = TypeVar("T")


async def run(context: WorkerContext[RiskSettings]) -> None:
    """One worker, from its start to its end."""
    worker = Worker(context)
    settings = context.settings.service
    admission = Admission(settings.grpc_max_in_flight)
    grpc_server = await open_server(
        settings,
        [GrpcService(SERVICE.full_name, add_RiskServiceServicer_to_server, worker.servicer, AHEAD)],
        worker.health,
        workers=context.workers,
        admission=admission,
    )
    app = create_app(
        [local(SERVICE, worker.servicer)], title="risk", health=worker.health.body, admission=admission
    )
    grace = settings.stop_grace_sec / 2
    http_server = await serve(
        app,
        settings.host,
        settings.port,
        reuse_port=context.workers > 1,
        direct=app.direct,
        grace_sec=grace,
        on_failure=context.fail,
    )
    await worker.start()
    if not context.stop.is_set():
        await worker.health.probe_once()
        context.ready()
        await context.stop.wait()
    worker.health.stopping()
    await asyncio.gather(app.stop(grace), grpc_server.stop(grace))
    await http_server.stop()
    await worker.stop()


class Worker:
    """Everything of one worker but its ports."""

    def __init__(self, context: WorkerContext[RiskSettings]) -> None:
        """Nothing is connected yet: the servicer denies, `health` is unhealthy."""
        settings = context.settings
        instruments = instruments_of(settings.instruments)
        lookback = settings.risk_checks.var_lookback_days
        performance = settings.performance
        self._context = context
        self._instruments = instruments
        self._nats: NatsClient | None = None
        self._registry: KvAccountRegistry | None = None
        self._ledger: Ledger | None = None
        self._owned: list[asyncio.Task[Any]] = []
        self._questdb = open_questdb(
            settings.questdb.pg_url, settings.questdb.http_url, timeout_sec=_QUESTDB_SEC
        )
        self._valkey = open_valkey(settings.valkey.url, settings.valkey.db, settings.valkey.max_connections)
        self._marks = _marks(settings, context)
        self._history = History(
            self._questdb,
            instruments,
            context.clock,
            lookback_days=lookback,
            refresh_interval_sec=settings.history.refresh_interval_sec,
        )
        self._returns = KeptReturns(self._history, self._valkey, instruments, context.clock, lookback)
        self._engine = RiskEngine(
            settings.policy(),
            settings.risk_checks.initial_buying_power_usd,
            LiveMarket(self._marks, self._returns),
            always_read=not may_cache(settings),
        )
        self._meter = Meter(performance.latency_sla_ms, settings.monitoring.latency_alert_threshold_ms)
        self.servicer = RiskServicer(
            self._engine,
            instruments,
            self._meter,
            context.clock,
            ServiceInfo(version("trade2026"), settings.service.grpc_engine, settings.ledger.partitions),
        )
        self.health = HealthBoard(settings.monitoring.health_check_interval_sec)
        self.health.register("nats", critical=True, probe=self._probe_nats)
        self.health.register("valkey", critical=True, probe=self._probe_valkey)
        self.health.register("ledger", critical=True, probe=self._probe_ledger)
        self.health.register("questdb", critical=False, probe=self._probe_questdb)
        self.health.register("history", critical=False, probe=self._history.probe)
        self.health.register("marks", critical=False, probe=self._marks.probe)

    async def start(self) -> None:
        """Steps 3 to 5 of the start; returns early when the worker is to stop."""
        context = self._context
        self._owned = [
            context.own(self.health.run(), "health"),
            context.own(self._history.run(), "history"),
            context.own(self._returns.run(), "kept returns"),
            context.own(self._meter.run(), "meter"),
        ]
        self._nats = await _unless_stopped(context, _connect(context, self.health))
        if self._nats is None:
            return
        await self._marks.start(self._nats)
        self._registry = await _unless_stopped(
            context, _open_registry(self._nats, context.settings.ledger.partitions)
        )
        if self._registry is None:
            return
        self._ledger = await _unless_stopped(context, _open_ledger(context, self._nats, self._registry))
        self._engine.ledger = self._ledger
        # Not owned by the worker: it ends by itself, and its failure is no reason to end anything else.
        rehearsal = rehearse(self._engine, self._instruments, context.clock)
        self._owned.append(asyncio.get_running_loop().create_task(rehearsal, name="rehearsal"))

    async def stop(self) -> None:
        """The last step of a stop."""
        await end(*self._owned)
        if self._ledger is not None:
            await self._ledger.close()
        if self._nats is not None:
            await self._nats.close()
        await self._valkey.aclose()
        await self._questdb.close()

    async def _probe_nats(self) -> None:
        if self._nats is None or self._registry is None:
            raise ConnectionError("not connected yet")
        await self._nats.flush(timeout=1)
        # After a restart the server answers before its streams do, and without them no account is opened.
        await self._registry.look_up(_NO_ACCOUNT)

    async def _probe_valkey(self) -> None:
        if self._ledger is None:
            raise ConnectionError("the ledger is not open yet")
        await self._ledger.ping()
        await self._valkey.ping()

    async def _probe_ledger(self) -> None:
        if self._ledger is None:
            raise ConnectionError("the ledger is not open yet")
        await self._ledger.check()

    async def _probe_questdb(self) -> None:
        await self._questdb.ping()
        await ping_http(self._context.settings.questdb.http_url)


def _marks(settings: RiskSettings, context: WorkerContext[RiskSettings]) -> Marks:
    chosen = settings.marks
    if chosen.fallback != "deny":
        _log.warning("orders are priced by marks of any age", fallback=chosen.fallback)
    return Marks(
        instruments_of(settings.instruments),
        context.clock,
        JumpRule(chosen.jump_pct, chosen.jump_confirmations),
        max_age_sec=chosen.max_age_sec,
        held_max_age_sec=chosen.held_max_age_sec,
        fallback_to_last=chosen.fallback == "last",
    )


async def _unless_stopped(context: WorkerContext[RiskSettings], work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`; None when the worker is to stop before. Raises what `work` raises."""
    working = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(context.stop.wait())
    await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if working.done():
        return working.result()
    await end(working)
    return None


async def _connect(context: WorkerContext[RiskSettings], health: HealthBoard) -> NatsClient:
    settings = context.settings

    async def disconnected() -> None:
        if not context.stop.is_set():
            health.report("nats", False, "disconnected")

    async def gave_up() -> None:
        if not context.stop.is_set():
            context.fail(ConnectionError("the connection to NATS was closed"), "nats")

    return await open_nats(
        settings.nats.url,
        f"{settings.service.name}-{context.index}",
        on_disconnected=disconnected,
        on_closed=gave_up,
    )


def ledger_options(settings: RiskSettings) -> LedgerOptions:
    """How a worker uses the ledger."""
    return LedgerOptions(
        url=settings.ledger.url,
        db=settings.ledger.db,
        partitions=settings.ledger.partitions,
        opening_cash=settings.risk_checks.initial_buying_power_usd,
        position_cache_ttl=settings.valkey.position_cache_ttl_sec,
        cache_accounts=may_cache(settings),
        read_ahead=True,
        allow_unsafe=settings.ledger.allow_unsafe,
    )


def may_cache(settings: RiskSettings) -> bool:
    """Whether copies of accounts may be used; limits are part of the account, so both keys have to agree."""
    return settings.performance.cache_positions and settings.performance.cache_limits


async def _open_registry(client: NatsClient, partitions: int) -> KvAccountRegistry:
    """The registry of opened accounts, waited for."""

    async def attempt() -> KvAccountRegistry:
        js = client.jetstream(timeout=_NATS_SEC)
        # The journal that the ledger has to continue.
        await ensure_streams(js, (LEDGER,), partitions=partitions)
        bucket: KeyValue = await ensure_bucket(js, ACCOUNTS_BUCKET)
        return KvAccountRegistry(bucket)

    return await _waited_for("the registry of opened accounts", attempt, (NatsError, TimeoutError, OSError))


async def _open_ledger(
    context: WorkerContext[RiskSettings], client: NatsClient, registry: KvAccountRegistry
) -> Ledger:
    """The ledger, waited for. Raises `SettingsError` for one that must not be used."""
    options = ledger_options(context.settings)
    if options.allow_unsafe:
        _log.warning("a Valkey that may lose data is taken", key="ledger.allow_unsafe")

    async def attempt() -> Ledger:
        return await Ledger.open(options, registry, LedgerTail(client), context.clock)

    try:
        return await _waited_for("the ledger", attempt, (LedgerUnavailable,))
    except (UnsafeValkey, ForeignLedger) as error:
        raise SettingsError(f"ledger.url: {error}") from None


async def _waited_for(
    what: str, attempt: Callable[[], Coroutine[Any, Any, T]], expected: tuple[type[Exception], ...]
) -> T:
    """The result of the first attempt that does not fail with one of the `expected` errors."""
    told = ""
    while True:
        try:
            return await attempt()
        except expected as error:
            reason = f"{type(error).__name__}: {error}"
            if reason != told:
                _log.warning("waiting", what=what, reason=reason)
                told = reason
        await asyncio.sleep(_RETRY_SEC)
