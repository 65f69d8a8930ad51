"""Wires order management.

Start:
1. NATS is connected, streams and the registry's bucket are made to exist;
2. the ledger is opened and tied to stream EXECUTIONS;
3. connections to risk are begun, each verified before its use;
4. owner's work: relay, report consumer, sweeper, for the partitions that this worker comes to own;
5. fills and the log of orders are stored from now on;
6. REST and gRPC are served; they are opened after two seconds even when a dependency is still missing, and
   answer 503 and UNAVAILABLE until it is there.

Stop (SIGTERM):
1. not healthy any more, drop copies end, new calls are refused, open ones are answered;
2. every submission that was begun is finished, and settled as far as it can be;
3. partitions are given up at once, their checkpoints recorded;
4. what the stores hold is written, if QuestDB takes it at the first attempt;
5. the ledger answers what it has, for two seconds at most, and connections are closed.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from nats.js.kv import KeyValue

from services.instruments import instruments_of
from services.ledger.errors import ForeignLedger, LedgerUnavailable, UnsafeValkey
from services.ledger.journal_tail import LedgerTail
from services.ledger.ledger import Ledger, LedgerOptions
from services.ledger.registry import KvAccountRegistry
from services.oms.amend import Amender
from services.oms.cancel import Canceler
from services.oms.dispatch import Dispatch, check_subjects
from services.oms.executions import DropCopies
from services.oms.journal_room import JournalRoom
from services.oms.order_entry import OrderEntry
from services.oms.outcomes import SubmissionRecord
from services.oms.owner import OwnersWork
from services.oms.queries import Queries
from services.oms.questdb_probe import ping_questdb
from services.oms.reconciliation.reconciler import Reconciler
from services.oms.reconciliation.servicer import ReconciliationService
from services.oms.reconciliation.sources import Sources
from services.oms.risk_channel import LedgerFacts, RiskChannels
from services.oms.risk_client import RiskClient
from services.oms.servicer import Desk, OrderService
from services.oms.serving import open_ports
from services.oms.settings import OmsSettings
from services.oms.steps import Step, ending, until
from services.oms.submit import SubmitRules, Submitter
from services.oms.submit_group import GroupSubmitter
from services.questdb.fill_store import FillStore
from services.questdb.order_archive import OrderArchive
from services.questdb.orders_log_store import OrdersLogStore
from services.questdb.resume import keep_resumed
from services.runtime.connections import open_questdb, open_valkey
from services.runtime.health import HealthBoard
from services.runtime.ids import new_ulid
from services.runtime.nats_client import NatsClient, open_nats
from services.runtime.publisher import Publisher
from services.runtime.service import WorkerContext
from services.runtime.settings import SettingsError
from services.runtime.streams import (
    ACCOUNTS_BUCKET,
    DEADLETTER,
    EXECUTIONS,
    LEDGER,
    ORDERS,
    ensure_bucket,
    ensure_streams,
)
from services.runtime.tasks import end
from services.runtime.telemetry import get_logger

EARLY_SEC: Final = 2.0
"""After so long the ports are opened although a dependency is missing."""
MAX_BATCH: Final = 512
"""Commands of one account in one commit."""
DRAIN_SEC: Final = 10.0
"""Time that open calls and begun submissions have to finish at a stop."""

LOG_BATCHES: Final = 4
"""Rows of the log of orders in one commit, in batches of fills: it makes twice as many rows, nobody waits for
them, and QuestDB spends half as much on a row in a commit of 4,000 as in one of 1,000."""

_Context = WorkerContext[OmsSettings]
_log = get_logger("oms.bootstrap")


async def run(context: _Context) -> None:
    """One worker's life; see the steps above."""
    worker = Worker(context)
    board = worker.board
    context.own(board.run(), "health")
    wiring = asyncio.create_task(worker.wire(), name="wiring")
    stopped = asyncio.create_task(context.stop.wait(), name="stop")
    try:
        await asyncio.wait({wiring, stopped}, timeout=EARLY_SEC, return_when=asyncio.FIRST_COMPLETED)
        if wiring.done():
            worker.service.attach(wiring.result())
            await board.probe_once()
        if context.stop.is_set():
            return
        await worker.serve()
        await asyncio.wait({wiring, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if wiring.done():
            worker.service.attach(wiring.result())
            await board.probe_once()
            context.ready()
            await stopped
    finally:
        board.stopping()
        await end(wiring)
        await end(stopped)
        await worker.stop()
        await context.cancel_owned()


class Worker:
    """What one worker has open; every part that is opened notes how it is closed."""

    def __init__(self, context: _Context) -> None:
        self._context = context
        self._settings = context.settings
        self._clock = context.clock
        self._name = f"oms-{context.index}-{new_ulid()}"
        self._refusals: list[Step] = []
        """Steps of a stop that refuse new work and finish what was accepted, all at once."""
        self._closings: list[Step] = []
        """How the parts are closed, in the order of their opening."""
        self._nats: NatsClient | None = None
        self._room: JournalRoom | None = None
        self.ledger: Ledger | None = None
        self._risk: RiskChannels | None = None
        self._work: OwnersWork | None = None
        self._closing = False
        self._questdb = open_questdb(context.settings.questdb.pg_url, context.settings.questdb.http_url)
        valkey = context.settings.valkey
        self._valkey = open_valkey(valkey.url, valkey.db, valkey.max_connections, name="oms-projection")
        self.board = HealthBoard(context.settings.monitoring.health_check_interval_sec)
        self.service = OrderService(context.clock)
        self._reconciliation = ReconciliationService(context.clock)
        self._register_health()

    def _register_health(self) -> None:
        risk = self._settings.risk_service
        board = self.board
        board.register("valkey", critical=True, probe=self._check_valkey)
        board.register("ledger", critical=True, probe=self._check_ledger)
        board.register("nats", critical=True, probe=self._check_nats)
        board.register("executions", critical=True)
        board.report("executions", True)
        board.register("questdb", critical=False, probe=self._check_questdb)
        board.register("streams", critical=False, probe=self._check_streams)
        board.register("journals", critical=True)
        board.report("journals", True)
        if risk.enabled:
            board.register("risk", critical=risk.fail_closed, probe=self._check_risk)
        if not risk.enabled or not risk.fail_closed:
            board.register("risk_checks", critical=False)
        if not risk.enabled:
            board.report(
                "risk_checks", False, "risk_service.enabled is false: every order is reserved unchecked"
            )
        elif not risk.fail_closed:
            board.report(
                "risk_checks", False, "risk_service.fail_closed is false: orders may be reserved unchecked"
            )

    async def _check_valkey(self) -> None:
        if self.ledger is None:
            raise ConnectionError("the ledger is not open")
        await self.ledger.ping()
        await self._valkey.ping()

    async def _check_ledger(self) -> None:
        if self.ledger is None:
            raise ConnectionError("the ledger is not open")
        await self.ledger.check()

    async def _check_questdb(self) -> None:
        await ping_questdb(self._questdb, self._settings.questdb.http_url)

    async def _check_nats(self) -> None:
        if self._nats is None or not self._nats.is_connected:
            raise ConnectionError("not connected")
        await self._nats.jetstream(timeout=2).stream_info(ORDERS)

    async def _check_streams(self) -> None:
        if self._room is None:
            raise ConnectionError("not connected")
        try:
            await self._room.measure()
        finally:
            lacking = self._room.lacking()
            self.board.report("journals", not lacking, lacking)

    async def _check_risk(self) -> None:
        if self._risk is None:
            raise ConnectionError("not connected")
        await self._risk.ping()

    async def wire(self) -> Desk:
        """Opens everything, however long it takes. Raises `SettingsError` for what waiting does not cure."""
        settings = self._settings
        nats = self._nats = await self._open_nats()
        room = self._room = JournalRoom(nats, lambda: self._work is not None and self._work.relay_full)
        registry = await self._streams(nats)
        ledger = self.ledger = await self._open_ledger(nats, registry)
        publisher = Publisher(nats)
        await publisher.start()
        self._closings.append(publisher.close)
        risk = self._open_risk(ledger)
        orders = settings.order_management
        dispatch = Dispatch(
            publisher, settings.nats.order_subject_prefix, orders.publish_timeout_sec, self._clock
        )
        submitter, groups = self._submitters(risk, ledger, dispatch, nats, room)
        drop_copies = DropCopies(nats, settings.ledger.partitions)
        self._refusals.append(ending(drop_copies.stop))
        archive = OrderArchive(self._questdb)
        work = self._work = OwnersWork(
            settings,
            self._name,
            nats,
            publisher,
            ledger,
            LedgerTail(nats),
            self._store(nats, publisher),
            archive,
            self._context.own,
            dispatch,
            self._clock,
            lambda why: self.board.report("executions", False, why),
        )
        await work.begin(registry)
        self._closings.append(work.close)
        reconciler = self._reconciler(nats, ledger, registry)
        self._reconciliation.attach(reconciler)
        comparing = self._context.own(reconciler.run(), "reconciliation")
        self._closings.append(lambda: end(comparing))
        if self._risk is not None:
            # An order that came before would be rejected for nothing.
            await self._risk.wait_usable(EARLY_SEC)
        return Desk(
            submitter,
            groups,
            Canceler(ledger, dispatch),
            self._amender(risk, ledger, dispatch, nats),
            Queries(ledger, self._questdb, archive, orders.ended_orders_kept_sec, self._clock),
            drop_copies,
            ledger.client_leases,
            frozenset(instruments_of(settings.instruments)),
        )

    async def _open_nats(self) -> NatsClient:
        async def disconnected() -> None:
            self.board.report("nats", False, "disconnected")

        async def closed() -> None:
            if not self._closing:
                self._context.fail(ConnectionError("the connection to NATS was given up"), "nats")

        client = await open_nats(
            self._settings.nats.url, self._name, on_disconnected=disconnected, on_closed=closed
        )

        async def close() -> None:
            self._closing = True
            await client.close()

        self._closings.append(close)
        return client

    async def _streams(self, nats: NatsClient) -> KeyValue:
        async def ensure() -> KeyValue:
            js = nats.jetstream(timeout=2)
            partitions = self._settings.ledger.partitions
            await ensure_streams(js, (ORDERS, EXECUTIONS, LEDGER, DEADLETTER), partitions=partitions)
            await check_subjects(js, self._settings.nats.order_subject_prefix)
            return await ensure_bucket(js, ACCOUNTS_BUCKET)

        return await until("streams", ensure, (NatsError, JetStreamError, OSError, TimeoutError))

    async def _open_ledger(self, nats: NatsClient, registry: KeyValue) -> Ledger:
        settings = self._settings
        checked = settings.risk_service.enabled and settings.risk_service.fail_closed
        options = LedgerOptions(
            url=settings.ledger.url,
            db=settings.ledger.db,
            partitions=settings.ledger.partitions,
            # Risk decides on it; until it has told, no account is opened, unless oms may do without risk.
            opening_cash=None if checked else settings.ledger.opening_cash_usd,
            position_cache_ttl=settings.valkey.position_ttl_sec,
            allow_unsafe=settings.ledger.allow_unsafe,
            max_batch=MAX_BATCH,
        )

        async def open_ledger() -> Ledger:
            return await Ledger.open(options, KvAccountRegistry(registry), LedgerTail(nats), self._clock)

        async def bind() -> None:
            for name in (EXECUTIONS, LEDGER):
                info = await nats.jetstream(timeout=2).stream_info(name)
                await ledger.bind_stream(name, str(info.created))

        try:
            ledger = await until("ledger", open_ledger, (LedgerUnavailable,))
            self._closings.append(ledger.close)
            await until(
                "streams of the ledger",
                bind,
                (LedgerUnavailable, NatsError, JetStreamError, OSError, TimeoutError),
            )
        except (UnsafeValkey, ForeignLedger) as error:
            raise SettingsError(f"ledger.url: {error}") from error
        return ledger

    def _open_risk(self, ledger: Ledger) -> RiskClient | None:
        settings = self._settings.risk_service
        if not settings.enabled:
            _log.warning("RISK CHECKS ARE SWITCHED OFF: every order is reserved unchecked")
            return None
        if not settings.fail_closed:
            _log.warning("RISK IS NOT FAIL-CLOSED: orders that risk does not answer are reserved unchecked")

        def changed() -> None:
            client.channel_changed()
            if channels.foreign:
                self.board.report("risk", False, channels.foreign)

        channels = self._risk = RiskChannels(
            settings.target,
            LedgerFacts(ledger.identity, self._settings.ledger.partitions),
            changed,
            ledger.set_opening_cash,
            authorities=settings.grpc_authorities,
        )
        client = RiskClient(channels, settings.timeout_sec)
        channels.open()
        self._closings.append(channels.close)
        self._closings.append(client.close)
        return client

    def _submitters(
        self,
        risk: RiskClient | None,
        ledger: Ledger,
        dispatch: Dispatch,
        nats: NatsClient,
        room: JournalRoom,
    ) -> tuple[Submitter, GroupSubmitter]:
        orders = self._settings.order_management
        entry = OrderEntry(
            instruments_of(self._settings.instruments),
            frozenset(orders.supported_order_types),
            orders.order_timeout_sec,
            orders.max_open_orders_per_account,
        )
        record = self._record()
        rules = SubmitRules(self._settings.risk_service.fail_closed, orders.max_open_orders_per_account)

        def require_room() -> None:
            room.require()
            if risk is not None:
                risk.require_room()

        submitter = Submitter(
            entry, risk, ledger, dispatch, lambda: nats.is_connected, record, rules, self._clock, require_room
        )
        self._refusals.append(submitter.drain)
        return submitter, GroupSubmitter(submitter, entry, risk, ledger, dispatch, record, rules, self._clock)

    def _amender(
        self, risk: RiskClient | None, ledger: Ledger, dispatch: Dispatch, nats: NatsClient
    ) -> Amender:
        return Amender(
            instruments_of(self._settings.instruments),
            risk,
            ledger,
            dispatch,
            lambda: nats.is_connected,
            self._record(),
            self._settings.risk_service.fail_closed,
            self._clock,
        )

    def _record(self) -> SubmissionRecord:
        performance = self._settings.performance
        return SubmissionRecord(performance.latency_sla_ms, performance.max_latency_ms)

    def _reconciler(self, nats: NatsClient, ledger: Ledger, registry: KeyValue) -> Reconciler:
        settings = self._settings
        sources = Sources(
            nats,
            ledger,
            registry,
            self._questdb,
            settings.ledger.partitions,
            settings.questdb.flush_interval_sec,
        )
        interval_sec = settings.order_management.reconcile_positions_interval_sec
        return Reconciler(sources, ledger, lambda: self.owned.keys(), interval_sec, self._clock)

    def _store(self, nats: NatsClient, publisher: Publisher) -> OrdersLogStore:
        questdb = self._settings.questdb
        batch, flush = questdb.batch_size, questdb.flush_interval_sec
        fills = FillStore(nats, publisher, self._questdb, batch_size=batch, flush_interval_sec=flush)
        log = OrdersLogStore(
            nats, publisher, self._questdb, batch_size=LOG_BATCHES * batch, flush_interval_sec=flush
        )
        resuming = self._context.own(keep_resumed(self._questdb), "resume tables")
        self._closings.append(lambda: end(resuming))
        for store, name in ((fills, "fill store"), (log, "orders log")):
            self._closings.append(ending(store.stop, self._context.own(store.run(), name)))
        return log

    @property
    def owned(self) -> Mapping[int, int]:
        """The partitions owned now, with their fencing numbers."""
        return self._work.owned if self._work is not None else {}

    async def serve(self) -> None:
        """Opens REST and gRPC."""
        close = await open_ports(self._context, self.service, self._reconciliation, self.board, DRAIN_SEC)
        self._refusals.append(close)

    async def stop(self) -> None:
        """Steps 1 to 5 of a stop."""
        refused = asyncio.gather(*(step() for step in self._refusals), return_exceptions=True)
        try:
            async with asyncio.timeout(DRAIN_SEC + 1):
                outcomes = await refused
        except TimeoutError:
            _log.warning("stopped with submissions that were not finished; the sweeper settles them")
        else:
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    _log.error("stop step failed", exc_info=outcome)
        for close in reversed(self._closings):
            try:
                await close()
            except Exception as error:
                _log.error("closing failed", exc_info=error)
        await self._questdb.close()
        await self._valkey.aclose()
