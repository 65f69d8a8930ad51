"""Ticks into QuestDB: gathered in a bounded buffer, written in batches, never in the publisher's way."""

import asyncio
from collections import deque
from datetime import datetime
from decimal import Decimal
from typing import Final

import psycopg

from services.messages import Tick
from services.questdb.schema import TICKS, ensure_tables
from services.questdb.writes import insert_rows, moment
from services.runtime.connections import QuestdbPool
from services.runtime.metrics import counter
from services.runtime.telemetry import get_logger

_stored: Final = counter("market_data_ticks_stored", "Ticks written to QuestDB")
_dropped: Final = counter(
    "market_data_ticks_dropped", "Ticks that gave way because QuestDB was away too long"
)
_log = get_logger("market_data.tick_store")


class TickStore:
    """Writes ticks; while QuestDB is away the newest `limit` ones wait."""

    def __init__(self, pool: QuestdbPool, batch_size: int, flush_interval_sec: float, limit: int) -> None:
        self._pool = pool
        self._batch_size = batch_size
        self._flush_interval_sec = flush_interval_sec
        self._limit = limit
        self._waiting: deque[Tick] = deque()
        self._table_exists = False
        self._failing = False

    @property
    def waiting_ticks(self) -> tuple[Tick, ...]:
        """Ticks that are not stored yet, oldest first."""
        return tuple(self._waiting)

    def add(self, tick: Tick) -> None:
        """Takes a tick; the oldest gives way when the buffer is full. Never blocks."""
        if len(self._waiting) >= self._limit:
            self._waiting.popleft()
            _dropped.inc()
        self._waiting.append(tick)

    async def run(self) -> None:
        """Writes until cancelled. A failure keeps the ticks for the next interval."""
        while True:
            await asyncio.sleep(self._flush_interval_sec)
            await self.flush()

    async def flush(self) -> bool:
        """Writes what waits; False when QuestDB did not take all of it."""
        try:
            while self._waiting:
                await self._write()
        except (psycopg.Error, OSError, TimeoutError) as error:
            self._table_exists = False
            if not self._failing:
                self._failing = True
                _log.warning("ticks wait for QuestDB", error=f"{type(error).__name__}: {error}".strip())
            return False
        if self._failing:
            self._failing = False
            _log.info("ticks are stored again")
        return True

    async def _write(self) -> None:
        if not self._table_exists:
            await ensure_tables(self._pool, TICKS)
            self._table_exists = True
        # Taken out first: `add` may drop the oldest while the write is on its way.
        batch = [self._waiting.popleft() for _ in range(min(self._batch_size, len(self._waiting)))]
        try:
            await insert_rows(self._pool, TICKS, [_row(tick) for tick in batch])
        except BaseException:
            # Some may be stored: writing them again replaces them.
            room = self._limit - len(self._waiting)
            _dropped.inc(max(0, len(batch) - room))
            self._waiting.extendleft(batch[: -room - 1 : -1])
            raise
        _stored.inc(len(batch))


def _row(tick: Tick) -> tuple[datetime, str, Decimal]:
    return moment(tick.timestamp), tick.symbol, tick.price
