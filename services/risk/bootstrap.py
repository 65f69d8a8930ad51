"""Wires the service.

Start
1. build the engine: without a ledger it denies everything;
2. open gRPC and REST: `/health` tells what is missing;
3. own the probes, the history and the kept returns;
4. connect to NATS (waited for), and take ticks;
5. open the ledger (waited for), on the registry of opened accounts; ready.

Stop
1. unhealthy;
2. REST and gRPC take no new calls and finish the open ones;
3. answer what the ledger still holds, close the connections.

QuestDB is never waited for: without daily returns orders are denied by the checks themselves.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final, TypeVar

from nats.errors import Error as NatsError
from nats.js.kv import KeyValue

from gateway_http import create_app, local
from services.instruments import instruments_of
from services.ledger.errors import ForeignLedger, LedgerUnavailable, UnsafeValkey
from services.ledger.ledger import LedgerOptions
from services.ledger.registry import KvAccountRegistry
from services.risk.engine import RiskEngine
from services.risk.history import History
from services.risk.kept_returns import KeptReturns
from services.risk.mark_rules import JumpRule
from services.risk.market import LiveMarket
from services.risk.marks import Marks
from services.risk.meter import Meter
from services.risk.questdb_probe import ping_http
from services.risk.risk_ledger import RiskLedger
from services.risk.servicer import RiskServicer, ServiceInfo
from services.risk.settings import RiskSettings
from services.runtime.connections import NatsClient, open_nats, open_questdb, open_valkey
from services.runtime.grpc_engine import Admission, GrpcService, open_server
from services.runtime.health import HealthBoard
from services.runtime.http_server import serve
from services.runtime.service import WorkerContext
from services.runtime.settings import SettingsError
from services.runtime.streams import ACCOUNTS_BUCKET, ensure_bucket
from services.runtime.telemetry import get_logger
from trade2026.risk.v1 import risk_service_pb2
from trade2026.risk.v1.risk_service_pb2_grpc import add_RiskServiceServicer_to_server

SERVICE: Final = risk_service_pb2.DESCRIPTOR.services_by_name["RiskService"]
_RETRY_SEC: Final = 0.2
_log = get_logger("risk")
T = TypeVar("T")


@dataclass(slots=True)
class _Opened:
    """What is connected so far."""

    nats: NatsClient | None = None
    ledger: RiskLedger | None = None


async def run(context: WorkerContext[RiskSettings]) -> None:
    """One worker, from its start to its end."""
    settings = context.settings
    policy = settings.policy()
    instruments = instruments_of(settings.instruments)
    marks = _marks(settings, context)
    questdb = open_questdb(settings.questdb.pg_url, timeout_sec=10)
    lookback = settings.risk_checks.var_lookback_days
    history = History(
        questdb,
        instruments,
        context.clock,
        lookback_days=lookback,
        refresh_interval_sec=settings.history.refresh_interval_sec,
    )
    valkey = open_valkey(settings.valkey.url, settings.valkey.db, settings.valkey.max_connections)
    returns = KeptReturns(history, valkey, instruments, context.clock, lookback)
    engine = RiskEngine(
        policy,
        settings.risk_checks.initial_buying_power_usd,
        LiveMarket(marks, returns),
        always_read=not (settings.performance.cache_positions and settings.performance.cache_limits),
    )
    meter = Meter(settings.performance.latency_sla_ms, settings.monitoring.latency_alert_threshold_ms)
    info = ServiceInfo(version("trade2026"), settings.service.grpc_engine, settings.ledger.partitions)
    servicer = RiskServicer(engine, instruments, meter, context.clock, info)

    opened = _Opened()

    async def probe_nats() -> None:
        if opened.nats is None:
            raise ConnectionError("not connected yet")
        await opened.nats.flush(timeout=1)

    async def probe_valkey() -> None:
        if opened.ledger is None:
            raise ConnectionError("the ledger is not open yet")
        await opened.ledger.ping()
        await valkey.ping()

    async def probe_questdb() -> None:
        await questdb.ping()
        await ping_http(settings.questdb.http_url)

    health = HealthBoard(settings.monitoring.health_check_interval_sec)
    health.register("nats", critical=True, probe=probe_nats)
    health.register("valkey", critical=True, probe=probe_valkey)
    health.register("questdb", critical=False, probe=probe_questdb)
    health.register("history", critical=False, probe=history.probe)
    health.register("marks", critical=False, probe=marks.probe)

    admission = Admission(settings.service.grpc_max_in_flight)
    grpc_server = await open_server(
        settings.service,
        [GrpcService(SERVICE.full_name, add_RiskServiceServicer_to_server, servicer)],
        health,
        workers=context.workers,
        admission=admission,
    )
    app = create_app([local(SERVICE, servicer)], title="risk", health=health.body, admission=admission)
    http_server = await serve(
        app,
        settings.service.host,
        settings.service.port,
        reuse_port=context.workers > 1,
        grace_sec=settings.service.stop_grace_sec / 2,
        on_failure=context.fail,
    )

    context.own(health.run(), "health")
    context.own(history.run(), "history")
    context.own(returns.run(), "kept returns")
    opened.nats = await _unless_stopped(context, _connect(context, health))
    if opened.nats is not None:
        await marks.start(opened.nats)
        opened.ledger = await _unless_stopped(context, _open_ledger(settings, context, opened.nats))
    if opened.ledger is not None:
        engine.ledger = opened.ledger
        await health.probe_once()
        context.ready()
        await context.stop.wait()

    health.stopping()
    grace = settings.service.stop_grace_sec / 2
    await asyncio.gather(app.stop(grace), grpc_server.stop(grace))
    await http_server.stop()
    await context.cancel_owned()
    if opened.ledger is not None:
        await opened.ledger.close()
    if opened.nats is not None:
        await opened.nats.close()
    await valkey.aclose()
    await questdb.close()


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
    while not working.done():
        # More than once: a cancellation that meets a client between two attempts can get lost.
        working.cancel()
        await asyncio.wait([working], timeout=0.1)
    return None


async def _connect(context: WorkerContext[RiskSettings], health: HealthBoard) -> NatsClient:
    settings = context.settings

    async def disconnected() -> None:
        if not context.stop.is_set():
            health.report("nats", False, "disconnected")

    async def reconnected() -> None:
        health.report("nats", True)

    async def gave_up() -> None:
        if not context.stop.is_set():
            context.fail(ConnectionError("the connection to NATS was closed"), "nats")

    client = await open_nats(
        settings.nats.url,
        f"{settings.service.name}-{context.index}",
        on_disconnected=disconnected,
        on_reconnected=reconnected,
        on_closed=gave_up,
    )
    health.report("nats", True)
    return client


async def _open_ledger(
    settings: RiskSettings, context: WorkerContext[RiskSettings], client: NatsClient
) -> RiskLedger:
    """The ledger, waited for. Raises `SettingsError` for one that must not be used."""
    if settings.ledger.allow_unsafe:
        _log.warning("a Valkey that may lose data is taken", key="ledger.allow_unsafe")
    options = LedgerOptions(
        url=settings.ledger.url,
        db=settings.ledger.db,
        partitions=settings.ledger.partitions,
        opening_cash=settings.risk_checks.initial_buying_power_usd,
        position_cache_ttl=settings.valkey.position_cache_ttl_sec,
        cache_accounts=settings.performance.cache_positions and settings.performance.cache_limits,
        allow_unsafe=settings.ledger.allow_unsafe,
    )
    told = ""
    while True:
        try:
            bucket: KeyValue = await ensure_bucket(client.jetstream(timeout=2), ACCOUNTS_BUCKET)
            ledger = await RiskLedger.open(options, KvAccountRegistry(bucket), context.clock)
            assert isinstance(ledger, RiskLedger)
            return ledger
        except (UnsafeValkey, ForeignLedger) as error:
            raise SettingsError(f"ledger.url: {error}") from None
        except (LedgerUnavailable, NatsError, TimeoutError, OSError) as error:
            reason = f"{type(error).__name__}: {error}"
            if reason != told:
                _log.warning("the ledger is waited for", reason=reason)
                told = reason
        await asyncio.sleep(_RETRY_SEC)
