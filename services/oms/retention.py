"""Ended orders leave the ledger's memory soon after they are stored, and never before.

An order's record is needed while it works, and a little longer: a late fill belongs to it, and a repeated one
is recognised by it. Then it is a burden: at a thousand orders a second a day of them is more than a server
has. So the owner of a partition looks for orders that ended some time ago, and lets them go when

- their last event has left the outbox, stands in LEDGER and is written to `orders_log`, and
- the whole record is written to the table `orders` and can be found there.

What remains is what a repeated request is answered, under the client order id, for 24 h. Every step may be
repeated: a crash between two steps costs work and nothing else. While QuestDB is away, nothing goes.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import psycopg
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from nats.js.errors import NotFoundError

from services.ledger.errors import LedgerError
from services.ledger.order import Order
from services.ledger.reading import EndedOrder
from services.questdb.queries import TableSuspended
from services.runtime.nats_client import NatsClient
from services.runtime.streams import LEDGER
from services.runtime.telemetry import counter, gauge, get_logger

INTERVAL_SEC: Final = 1.0
PAGE: Final = 1_000
"""Orders of one partition that are let go at once."""
BATCH: Final = 4_000
"""Orders that are written at once, at most, give or take a page."""
_API_TIMEOUT_SEC: Final = 2.0

_retired: Final = counter("oms_retired_orders", "Ended orders whose records left the ledger")
_waiting: Final = gauge("oms_orders_to_retire", "Ended orders that wait to be stored before they may go")
_failures: Final = counter("oms_retention_failures", "Passes that could not be finished; nothing is lost")
_log = get_logger("oms.retention")

_UNAVAILABLE: Final = (
    LedgerError, psycopg.Error, TableSuspended, NatsError, JetStreamError, OSError, TimeoutError,
)  # fmt: skip


class Ledger(Protocol):
    """What retention needs of the account ledger."""

    async def ended(self, partition: int, kept_ms: int, limit: int = 1000) -> tuple[EndedOrder, ...]: ...

    async def retire(self, partition: int, ended: Sequence[EndedOrder]) -> int: ...


class Archive(Protocol):
    """Where whole orders are stored."""

    async def store(self, orders: Sequence[Order]) -> None: ...


class Logged(Protocol):
    """The log of orders, as far as it is known how far it is."""

    def stored(self, partition: int) -> int: ...


class Journal(Protocol):
    """Stream LEDGER, as far as its end goes."""

    async def last_sequence(self, partition: int) -> int: ...


class LedgerStream:
    """`Journal` on NATS."""

    def __init__(self, client: NatsClient) -> None:
        self._client = client

    async def last_sequence(self, partition: int) -> int:
        """Sequence of the partition's last message; 0 without one. Raises the client's errors."""
        js = self._client.jetstream(timeout=_API_TIMEOUT_SEC)
        try:
            message = await js.get_last_msg(LEDGER, f"ledger.{partition}.*")
        except NotFoundError:
            return 0
        return message.seq or 0


@dataclass(frozen=True, slots=True)
class _Leaving:
    """Orders of a partition that may go once its log has come to `sequence`."""

    orders: tuple[EndedOrder, ...]
    sequence: int


class Retention:
    """Lets ended orders of the owned partitions go."""

    def __init__(
        self,
        ledger: Ledger,
        archive: Archive,
        logged: Logged,
        journal: Journal,
        owned: Callable[[], Collection[int]],
        kept_sec: float,
    ) -> None:
        """`owned` tells the partitions owned now; `kept_sec`: how long an ended order stays at least."""
        self._ledger = ledger
        self._archive = archive
        self._logged = logged
        self._journal = journal
        self._owned = owned
        self._kept_ms = round(kept_sec * 1000)
        self._leaving: dict[int, _Leaving] = {}
        self._failing = False

    async def run(self) -> None:
        """Passes until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_SEC)
            try:
                while await self.retire() >= BATCH:
                    await asyncio.sleep(0)
            except _UNAVAILABLE as error:
                _failures.inc()
                if not self._failing:
                    self._failing = True
                    what = f"{type(error).__name__}: {error}".strip()
                    _log.warning("ended orders stay in the ledger for now", error=what)
            else:
                if self._failing:
                    self._failing = False
                    _log.info("ended orders leave the ledger again")

    async def retire(self) -> int:
        """One pass; returns how many orders went. Raises an error of the ledger, QuestDB or NATS."""
        owned = set(self._owned())
        for partition in self._leaving.keys() - owned:
            del self._leaving[partition]
        for partition in owned - self._leaving.keys():
            orders = await self._ledger.ended(partition, self._kept_ms, PAGE)
            if orders:
                # Their events have left the outbox: the journal holds them up to its present end.
                sequence = await self._journal.last_sequence(partition)
                self._leaving[partition] = _Leaving(orders, sequence)
        _waiting.set(sum(len(one.orders) for one in self._leaving.values()))
        ready = self._ready()
        await self._archive.store(
            [one.order for leaving in ready.values() for one in leaving.orders if one.order is not None]
        )
        retired = 0
        for partition, leaving in ready.items():
            retired += await self._ledger.retire(partition, leaving.orders)
            del self._leaving[partition]
        _retired.inc(retired)
        return retired

    def _ready(self) -> Mapping[int, _Leaving]:
        """What is logged, up to a batch."""
        ready: dict[int, _Leaving] = {}
        count = 0
        for partition, leaving in self._leaving.items():
            if count < BATCH and self._logged.stored(partition) >= leaving.sequence:
                ready[partition] = leaving
                count += len(leaving.orders)
        return ready
