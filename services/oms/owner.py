"""What the owner of a partition does: carries its outbox, applies its reports, sweeps its overdue orders,
cancels for clients that are gone.

Parts begin in the order relay, log of orders, reports when a partition is acquired, and end in reverse.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Final

from nats.js.kv import KeyValue

from services.ledger.connection import Endpoint
from services.ledger.continuity import JournalTail
from services.ledger.errors import NotConnected
from services.ledger.ledger import Ledger
from services.ledger.ownership import Ownership, OwnershipOptions, PartitionListener
from services.ledger.positions import Positions
from services.ledger.relay import Relay, RelayOptions
from services.oms.cancel import Canceler
from services.oms.disconnect import DisconnectWatch
from services.oms.dispatch import Dispatch
from services.oms.position_pass import PositionPass
from services.oms.reports import Own, ReportConsumer
from services.oms.retention import LedgerStream, Retention
from services.oms.settings import OmsSettings
from services.oms.steps import ending, until
from services.oms.sweeper import Sweeper
from services.questdb.order_archive import OrderArchive
from services.questdb.orders_log_store import OrdersLogStore
from services.runtime.clock import Clock
from services.runtime.nats_client import NatsClient
from services.runtime.publisher import Publisher
from services.runtime.tasks import end
from services.runtime.telemetry import get_logger

LOST_SEC: Final = 1.5
"""Time that each part of an owner's work has to end when its partition is given up."""

_log = get_logger("oms.owner")


class OwnersWork:
    """Everything that one worker does for the partitions it owns."""

    def __init__(
        self,
        settings: OmsSettings,
        worker: str,
        nats: NatsClient,
        publisher: Publisher,
        ledger: Ledger,
        journal: JournalTail,
        orders_log: OrdersLogStore,
        archive: OrderArchive,
        own: Own,
        dispatch: Dispatch,
        clock: Clock,
        regressed: Callable[[str], None],
    ) -> None:
        """`worker` is a name that no other process uses; `own` starts tasks whose death is fatal;
        `regressed` is told when stream EXECUTIONS lost reports."""
        stored, orders = settings.ledger, settings.order_management
        self._settings = settings
        self._ledger = ledger
        self._own = own
        self._dispatch = dispatch
        self._clock = clock
        self._connected: Callable[[], bool] = lambda: nats.is_connected
        self._over = asyncio.Event()
        self._tasks: list[asyncio.Task[object]] = []
        self._positions = Positions(
            nats,
            Endpoint.parse(settings.valkey.url, settings.valkey.db),
            settings.nats.position_subject_prefix,
        )
        realtime = orders.update_positions_realtime
        self._relay = Relay(
            RelayOptions(stored.url, stored.db, stored.partitions, realtime_positions=realtime),
            publisher,
            self._positions,
            dispatch.send_activated,
            journal,
        )
        self._reports = ReportConsumer(
            nats, ledger, publisher, own, fill_subject=settings.nats.fill_subject, regressed=regressed
        )
        self._retention = Retention(
            ledger, archive, orders_log, LedgerStream(nats), self._owned_now, orders.ended_orders_kept_sec
        )
        self._ownership = Ownership(
            OwnershipOptions(stored.url, stored.db, stored.partitions),
            worker,
            _Listeners(self._relay, orders_log, self._reports),
            clock,
        )

    @property
    def owned(self) -> Mapping[int, int]:
        """The partitions owned now, with their fencing numbers."""
        return self._ownership.owned

    @property
    def relay_full(self) -> bool:
        """Whether stream LEDGER does not take what this worker relays."""
        return self._relay.full

    def _owned_now(self) -> Collection[int]:
        return self.owned.keys()

    async def begin(self, registry: KeyValue) -> None:
        """Connects, however long it takes, and begins to own."""
        await until("positions", self._positions.open, (NotConnected, OSError))
        await until("relay", self._relay.open, (NotConnected, OSError))
        own, orders = self._own, self._settings.order_management
        relaying = own(self._relay.run(self._over), "relay")
        owning = own(self._ownership.run(self._over), "ownership")
        self._end_owning = ending(self._over.set, relaying, owning)
        sweeper = Sweeper(self._ledger, self._dispatch, self._connected, self._owned_now, self._clock)
        watch = DisconnectWatch(
            self._ledger.client_leases,
            self._ledger,
            Canceler(self._ledger, self._dispatch),
            self._owned_now,
            self._clock,
        )
        self._tasks = [
            own(self._reports.run(), "checkpoints"),
            own(sweeper.run(), "sweeper"),
            own(watch.run(), "disconnects"),
            own(self._retention.run(), "retention"),
        ]
        if not orders.update_positions_realtime:
            showing = PositionPass(
                registry,
                self._ledger,
                self._positions,
                self._owned_now,
                self._settings.ledger.partitions,
                orders.reconcile_positions_interval_sec,
                self._clock,
            )
            self._tasks.append(own(showing.run(), "position pass"))

    async def close(self) -> None:
        """Gives the partitions up at once, their checkpoints recorded, and closes the connections."""
        for task in self._tasks:
            await end(task)
        await self._end_owning()
        await self._relay.close()
        await self._positions.close()


class _Listeners:
    """Several listeners as one: begun in order, ended in reverse."""

    def __init__(self, *listeners: PartitionListener) -> None:
        self._listeners = listeners

    async def acquired(self, partition: int, fence: int) -> None:
        for listener in self._listeners:
            await listener.acquired(partition, fence)

    async def lost(self, partition: int) -> None:
        for listener in reversed(self._listeners):
            try:
                async with asyncio.timeout(LOST_SEC):
                    await listener.lost(partition)
            except TimeoutError:
                # Whatever it still does, the next owner repeats; the partition must not wait for it.
                part = type(listener).__name__
                _log.error("partition not given up in time", partition=partition, part=part)
