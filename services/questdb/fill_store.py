"""Trades from EXECUTIONS into the table `fills`: none lost, none twice.

A message is acknowledged after QuestDB has committed its row, never before. A crash between the two means
that it is delivered and written again, under the same keys (timestamp, fill_id). While QuestDB is away the
messages wait in the stream. Any number of workers may run the store: they share one durable consumer.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import psycopg

from services.dead_letters import FILLS_SUBJECT, DeadLetters, refusal
from services.questdb.durable_pull import Delivered, DurablePull
from services.questdb.fill_rows import fill_row
from services.questdb.schema import FILLS, ensure_tables
from services.questdb.writes import insert_rows
from services.runtime.connections import QuestdbPool
from services.runtime.metrics import counter, histogram
from services.runtime.nats_client import NatsClient
from services.runtime.publisher import Publisher, PublishError
from services.runtime.streams import EXECUTIONS
from services.runtime.telemetry import get_logger

DURABLE: Final = "fill-store"
SUBJECT: Final = "*.fills.*"
BATCHES_PENDING: Final = 8
"""Batches that may be unacknowledged over all workers."""
INTERVALS_UNTIL_AGAIN: Final = 3
"""Flush intervals after which an unacknowledged message is delivered again."""
LEAST_ACK_WAIT_SEC: Final = 10.0
"""Time that one batch may take to be written, when the flush interval is short."""
RETRY_FIRST_SEC: Final = 0.2
RETRY_LAST_SEC: Final = 2.0
_YIELD_EVERY: Final = 50

_stored: Final = counter("fill_store_fills", "Fills committed to QuestDB, repeated ones included")
_failures: Final = counter("fill_store_failures", "Writes that QuestDB did not take")
_duration: Final = histogram("fill_store_write_ms", "Time to commit one batch of fills")
_log = get_logger("questdb.fill_store")


class FillStore:
    """Runs in a worker until `stop`."""

    def __init__(
        self,
        client: NatsClient,
        publisher: Publisher,
        pool: QuestdbPool,
        *,
        batch_size: int,
        flush_interval_sec: float,
    ) -> None:
        """Writes when `batch_size` fills have come, or `flush_interval_sec` after the first of fewer."""
        self._client = client
        self._pool = pool
        self._batch_size = batch_size
        self._flush_interval_sec = flush_interval_sec
        self._dead_letters = DeadLetters(publisher, FILLS_SUBJECT, EXECUTIONS)
        self._stopping = asyncio.Event()
        self._pull: DurablePull | None = None
        self._table_exists = False
        self._failing = False

    async def run(self) -> None:
        """Stores until `stop`. To be owned by the worker. The streams have to exist."""
        async with DurablePull(
            self._client,
            EXECUTIONS,
            DURABLE,
            SUBJECT,
            max_ack_pending=BATCHES_PENDING * self._batch_size,
            ack_wait_sec=max(LEAST_ACK_WAIT_SEC, INTERVALS_UNTIL_AGAIN * self._flush_interval_sec),
        ) as pull:
            self._pull = pull
            await self._show_table()
            while not self._stopping.is_set():
                batch = await pull.batch(self._batch_size, self._flush_interval_sec)
                if batch:
                    await self._take(pull, batch)

    async def _show_table(self) -> None:
        """Makes the table at the start, for those who only look; without QuestDB the first write does."""
        try:
            await ensure_tables(self._pool, FILLS)
        except (psycopg.Error, OSError, TimeoutError) as error:
            _log.debug("table not made yet", error=f"{type(error).__name__}: {error}".strip())
        else:
            self._table_exists = True

    def stop(self) -> None:
        """Asks `run` to write what it holds, if QuestDB takes it at the first attempt, and to return."""
        self._stopping.set()
        if self._pull is not None:
            self._pull.interrupt()

    async def _take(self, pull: DurablePull, batch: Sequence[Delivered]) -> None:
        good: list[Delivered] = []
        rows: list[Sequence[Any]] = []
        bad: list[tuple[Delivered, str]] = []
        for count, message in enumerate(batch, 1):
            try:
                rows.append(fill_row(message))
                good.append(message)
            except Exception as error:
                bad.append((message, refusal(error, sequence=message.sequence)))
            if count % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
        if not rows or await self._written(rows):
            await pull.acknowledge(good)
        else:
            await pull.release(good)
        for message, reason in bad:
            await self._set_aside(pull, message, reason)

    async def _written(self, rows: Sequence[Sequence[Any]]) -> bool:
        """Writes `rows`, as often as it takes; False only when the store is to stop and QuestDB is away."""
        delay = RETRY_FIRST_SEC
        started = asyncio.get_running_loop().time()
        while True:
            try:
                if not self._table_exists:
                    await ensure_tables(self._pool, FILLS)
                    self._table_exists = True
                await insert_rows(self._pool, FILLS, rows)
            except (psycopg.Error, OSError, TimeoutError) as error:
                self._table_exists = False
                _failures.inc()
                if not self._failing:
                    self._failing = True
                    _log.warning("fills wait for QuestDB", error=f"{type(error).__name__}: {error}".strip())
            else:
                break
            if self._stopping.is_set():
                return False
            try:
                async with asyncio.timeout(delay):
                    await self._stopping.wait()
            except TimeoutError:
                delay = min(2 * delay, RETRY_LAST_SEC)
        _stored.inc(len(rows))
        _duration.observe((asyncio.get_running_loop().time() - started) * 1000)
        if self._failing:
            self._failing = False
            _log.info("fills are stored again", rows=len(rows))
        return True

    async def _set_aside(self, pull: DurablePull, message: Delivered, reason: str) -> None:
        try:
            await self._dead_letters.put(message, reason)
        except PublishError as error:
            # Not answered: it comes again after the acknowledgement's time, and is tried again.
            _log.warning("dead letter not stored", sequence=message.sequence, error=str(error))
            return
        _log.warning("not a fill", sequence=message.sequence, subject=message.subject, reason=reason)
        await pull.terminate([message])
