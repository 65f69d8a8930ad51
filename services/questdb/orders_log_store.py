"""Every event of every order, from LEDGER into the table `orders_log`: none lost, none twice, all in order.

The owner of a partition reads its messages in the order of the stream. Where to start is read from the table
itself: the last sequence that is in it. So no checkpoint can disagree with the rows, and a crash between any
two steps repeats rows under the same keys. Two owners for a moment write the same rows.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import psycopg
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError

from services.dead_letters import LEDGER_SUBJECT, DeadLetters, refusal
from services.ledger.codec import Commit, UnknownFormat, decode_commits
from services.questdb.order_fold import LoggedOrder, Occurrence, Row, introduces, logged, order_of
from services.questdb.orders_log_end import OtherStream, last_logged
from services.questdb.queries import TableSuspended, logged_orders, wait_applied
from services.questdb.schema import ORDERS_LOG, ensure_tables
from services.questdb.writes import insert_rows
from services.runtime.connections import QuestdbPool
from services.runtime.journal_reader import Message, StreamReader, StreamRegressed
from services.runtime.metrics import counter, gauge
from services.runtime.nats_client import NatsClient
from services.runtime.publisher import Publisher, PublishError
from services.runtime.streams import LEDGER
from services.runtime.tasks import end
from services.runtime.telemetry import get_logger

BATCHES_WAITING: Final = 4
"""Batches of rows that may wait for QuestDB before reading pauses."""
MESSAGES_AT_ONCE: Final = 100
"""Messages read before other tasks have their turn."""
LINGER_SEC: Final = 0.2
"""How long a message waits for others to be read with it; rows wait for their batch anyhow."""
RETRY_SEC: Final = 1.0

_rows_stored: Final = counter(
    "orders_log_rows", "Rows of orders_log committed to QuestDB, repeated ones included"
)
_failures: Final = counter("orders_log_failures", "Reads and writes that QuestDB did not take")
_waiting_rows: Final = gauge("orders_log_waiting", "Rows of orders_log that wait to be written")
_log = get_logger("questdb.orders_log_store")

_UNAVAILABLE: Final = (psycopg.Error, OSError, TimeoutError, TableSuspended)


@dataclass(slots=True)
class _Partition:
    """An owned partition: the task that reads it, and its orders that are alive or not yet written."""

    number: int
    task: asyncio.Task[None] | None = None
    orders: dict[str, LoggedOrder] = field(default_factory=dict)
    stored_seq: int = 0


@dataclass(frozen=True, slots=True)
class _Entry:
    """What came out of one message."""

    partition: _Partition
    sequence: int
    rows: Sequence[Row]
    ended: Sequence[tuple[str, int]]
    """Orders that need not be remembered once the rows are written, with the number of their last event."""


class OrdersLogStore:
    """One a worker; a `PartitionListener`."""

    def __init__(
        self,
        client: NatsClient,
        publisher: Publisher,
        pool: QuestdbPool,
        *,
        batch_size: int,
        flush_interval_sec: float,
    ) -> None:
        """Writes when `batch_size` rows have come, or `flush_interval_sec` after the first of fewer."""
        self._client = client
        self._pool = pool
        self._batch_size = batch_size
        self._flush_interval_sec = flush_interval_sec
        self._dead_letters = DeadLetters(publisher, LEDGER_SUBJECT, LEDGER)
        self._owned: dict[int, _Partition] = {}
        self._entries: deque[_Entry] = deque()
        self._waiting = 0
        self._first_at = 0.0
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._stopping = asyncio.Event()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._failing = False

    def stored(self, partition: int) -> int:
        """Sequence in LEDGER up to which the owned `partition` is in the table; 0: not known yet, or not
        owned."""
        owned = self._owned.get(partition)
        return 0 if owned is None else owned.stored_seq

    async def acquired(self, partition: int, fence: int) -> None:
        """Starts reading `partition` where the table ends."""
        await self.lost(partition)
        owned = self._owned[partition] = _Partition(partition)
        owned.task = asyncio.get_running_loop().create_task(self._read(owned), name=f"orders log {partition}")
        owned.task.add_done_callback(self._ended)

    async def lost(self, partition: int) -> None:
        """Stops reading `partition`. What was read and is not written is read again by the next owner."""
        owned = self._owned.pop(partition, None)
        if owned is not None and owned.task is not None:
            await end(owned.task)

    async def run(self) -> None:
        """Writes until `stop`. To be owned by the worker; raises what made a reading task fail."""
        writing = asyncio.get_running_loop().create_task(self._write_always(), name="orders log writer")
        try:
            await asyncio.wait([writing, self._failed], return_when=asyncio.FIRST_COMPLETED)
            if self._failed.done():
                self._failed.result()
            writing.result()
        finally:
            for partition in list(self._owned):
                await self.lost(partition)
            await end(writing)

    def stop(self) -> None:
        """Asks `run` to write what it holds, if QuestDB takes it at the first attempt, and to return."""
        self._stopping.set()
        self._arrived.set()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and not self._failed.done():
            self._failed.set_exception(error)

    async def _read(self, owned: _Partition) -> None:
        while True:
            start = await self._start_sequence(owned.number)
            owned.orders.clear()
            reader = StreamReader(
                self._client, LEDGER, subjects=(f"ledger.{owned.number}.*",), start_sequence=max(start, 1)
            )
            try:
                async with reader:
                    async for batch in reader.batches(MESSAGES_AT_ONCE, LINGER_SEC):
                        await self._take(owned, batch)
            except StreamRegressed as error:
                _log.error("LEDGER lost messages; its rows are read anew", error=str(error))

    async def _take(self, owned: _Partition, batch: Sequence[Message]) -> None:
        commits = [(message, await self._decoded(message)) for message in batch]
        unknown = _unknown(owned, [commit for _, several in commits for commit in several])
        if unknown:
            owned.orders.update(await self._look_up(unknown))
        for message, several in commits:
            await self._room.wait()
            self._add(_entry(owned, message.sequence, several))
        await asyncio.sleep(0)

    async def _decoded(self, message: Message) -> tuple[Commit, ...]:
        try:
            return decode_commits(message.data)
        except UnknownFormat as error:
            reason = str(error)
        except Exception as error:
            reason = refusal(error, sequence=message.sequence)
        _log.error("message of LEDGER cannot be read", sequence=message.sequence, reason=reason)
        while True:
            try:
                await self._dead_letters.put(message, reason)
            except PublishError:
                await asyncio.sleep(RETRY_SEC)
            else:
                return ()

    def _add(self, entry: _Entry) -> None:
        if not self._entries:
            self._first_at = asyncio.get_running_loop().time()
            self._arrived.set()
        self._entries.append(entry)
        self._waiting += len(entry.rows)
        if self._waiting >= self._batch_size:
            self._arrived.set()
            if self._waiting >= BATCHES_WAITING * self._batch_size:
                self._room.clear()

    async def _write_always(self) -> None:
        while not self._stopping.is_set():
            self._arrived.clear()
            if not self._entries:
                await self._arrived.wait()
            elif self._waiting >= self._batch_size or self._due_in() <= 0:
                await self._flush()
            else:
                try:
                    async with asyncio.timeout(self._due_in()):
                        await self._arrived.wait()
                except TimeoutError:
                    pass
        while self._entries and await self._flush():
            pass

    def _due_in(self) -> float:
        return self._first_at + self._flush_interval_sec - asyncio.get_running_loop().time()

    async def _flush(self) -> bool:
        """Writes one batch, as often as it takes; False only when the store is to stop and QuestDB is
        away."""
        entries: list[_Entry] = []
        rows: list[Row] = []
        while self._entries and len(rows) < self._batch_size:
            entry = self._entries.popleft()
            entries.append(entry)
            rows.extend(entry.rows)
        while rows and not await self._written(rows):
            if self._stopping.is_set():
                return False
            await asyncio.sleep(RETRY_SEC)
        self._waiting -= len(rows)
        self._first_at = asyncio.get_running_loop().time()
        _waiting_rows.set(self._waiting)
        if self._waiting < BATCHES_WAITING * self._batch_size:
            self._room.set()
        for entry in entries:
            entry.partition.stored_seq = entry.sequence
            for order_id, account_seq in entry.ended:
                order = entry.partition.orders.get(order_id)
                if order is not None and order.account_seq == account_seq:
                    del entry.partition.orders[order_id]
        return True

    async def _written(self, rows: Sequence[Row]) -> bool:
        try:
            await insert_rows(self._pool, ORDERS_LOG, rows)
        except _UNAVAILABLE as error:
            self._note(error)
            return False
        _rows_stored.inc(len(rows))
        if self._failing:
            self._failing = False
            _log.info("order events are stored again")
        return True

    def _note(self, error: BaseException) -> None:
        _failures.inc()
        if not self._failing:
            self._failing = True
            _log.warning("order events wait for QuestDB", error=f"{type(error).__name__}: {error}".strip())

    async def _start_sequence(self, partition: int) -> int:
        """Sequence of the last message whose rows are in the table; 1 when there is none of this stream."""
        while True:
            try:
                await ensure_tables(self._pool, ORDERS_LOG)
                await wait_applied(self._pool, ORDERS_LOG)
                return max(1, await last_logged(self._client, self._pool, partition))
            except OtherStream as other:
                _log.warning("LEDGER is another stream; it is read from its start", reason=str(other))
                return 1
            except (*_UNAVAILABLE, NatsError, JetStreamError) as error:
                self._note(error)
                await asyncio.sleep(RETRY_SEC)

    async def _look_up(self, order_ids: Sequence[str]) -> dict[str, LoggedOrder]:
        while True:
            try:
                return await logged_orders(self._pool, order_ids)
            except _UNAVAILABLE as error:
                self._note(error)
                await asyncio.sleep(RETRY_SEC)


def _unknown(owned: _Partition, commits: Sequence[Commit]) -> list[str]:
    """Orders that the commits go on with, and that neither the memory nor the commits introduce."""
    unknown: dict[str, None] = {}
    introduced: set[str] = set()
    for commit in commits:
        for event in commit.events:
            order_id = order_of(event)
            if not order_id or order_id in owned.orders or order_id in introduced:
                continue
            if introduces(event):
                introduced.add(order_id)
            else:
                unknown[order_id] = None
    return list(unknown)


def _entry(owned: _Partition, sequence: int, commits: Sequence[Commit]) -> _Entry:
    rows: list[Row] = []
    ended: list[tuple[str, int]] = []
    for commit in commits:
        for number, event in enumerate(commit.events, commit.seq):
            order_id = order_of(event)
            if not order_id:
                continue
            at = Occurrence(commit.account, number, commit.time_ns, owned.number, sequence)
            order, row = logged(owned.orders.get(order_id), event, at)
            if row is None or order is None:
                continue
            owned.orders[order_id] = order
            rows.append(row)
            if order.ended or order.state is None:
                ended.append((order_id, number))
    return _Entry(owned, sequence, rows, ended)
