"""Keeps the table `daily_bars` equal to the shifted history, over midnights, outages and wiped disks."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import psycopg
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError

from services.market_data.bars import Bar
from services.market_data.dates import Shift, midnight, utc_day
from services.questdb.queries import TableSuspended, is_missing_table, wait_applied
from services.questdb.schema import DAILY_BARS
from services.questdb.writes import Row
from services.runtime.clock import Clock
from services.runtime.connections import QuestdbPool
from services.runtime.metrics import counter, gauge
from services.runtime.telemetry import get_logger

_RETRY_SEC: Final = 1.0
_ASIDE: Final = "daily_bars_next"
_rewritten: Final = counter("market_data_history_written", "Times that the daily bars were written")
_shift_days: Final = gauge("market_data_history_shift_days", "Whole days by which the history is moved")
_log = get_logger("market_data.bar_store")


class BarStore:
    """Writes the history when what is stored differs from it."""

    def __init__(
        self,
        pool: QuestdbPool,
        bars: Sequence[Bar],
        clock: Clock,
        check_interval_sec: float,
        choose: "Callable[[date], Any]",
    ) -> None:
        """`bars` are the recorded history; `choose(today)` is awaited for the shift of a UTC day."""
        self._pool = pool
        self._bars = bars
        self._clock = clock
        self._check_interval_sec = check_interval_sec
        self._choose = choose
        self.shift: Shift | None = None
        """The shift in use; None before it was chosen."""

    async def run(self) -> None:
        """Looks every interval, and just after every UTC midnight, until cancelled."""
        failing = False
        while True:
            try:
                await self.check()
            except (psycopg.Error, NatsError, JetStreamError, TableSuspended, OSError, TimeoutError) as error:
                if not failing:
                    _log.warning("daily bars wait", error=f"{type(error).__name__}: {error}".strip())
                failing = True
            else:
                failing = False
            await asyncio.sleep(_RETRY_SEC if failing else self._until_next_look())

    async def check(self) -> bool:
        """Chooses the shift, compares, writes what differs; True when it wrote.

        Raises what NATS and QuestDB raise when they do not answer.
        """
        today = utc_day(self._clock.now_ns())
        self.shift = await self._choose(today)
        assert self.shift is not None
        _shift_days.set(self.shift.days)
        rows = shifted_rows(self._bars, self.shift.days)
        if await self._stored_ends() == (rows[0][0], rows[-1][0], len(rows)):
            return False
        await self._write(rows)
        _rewritten.inc()
        _log.info(
            "daily bars written", bars=len(rows), first=str(rows[0][0].date()), last=str(rows[-1][0].date())
        )
        return True

    async def _write(self, rows: Sequence[Row]) -> None:
        """Makes the table hold `rows` and nothing else; a reader finds the old history, the new one, or no
        table for a moment, never a mixture."""
        values = [value for row in rows for value in row]
        # There is no DELETE, and bars of another shift may lie outside the new range: a table made aside
        # takes the name of the old one.
        await self._pool.execute(f"DROP TABLE IF EXISTS {_ASIDE}")
        await self._pool.execute(DAILY_BARS.create(_ASIDE))
        await self._pool.execute(DAILY_BARS.insert(len(rows), _ASIDE), values)
        await wait_applied(self._pool, _ASIDE)
        await self._pool.execute(f"DROP TABLE IF EXISTS {DAILY_BARS.name}")
        await self._pool.execute(f"RENAME TABLE {_ASIDE} TO {DAILY_BARS.name}")

    async def _stored_ends(self) -> tuple[datetime, datetime, int] | None:
        query = f"SELECT min(timestamp), max(timestamp), count() FROM {DAILY_BARS.name}"
        try:
            ((first, last, count),) = await self._pool.execute(query)
        except psycopg.DatabaseError as error:
            if is_missing_table(error):
                return None
            raise
        if not count:
            return None
        return first.replace(tzinfo=UTC), last.replace(tzinfo=UTC), count

    def _until_next_look(self) -> float:
        now_ns = self._clock.now_ns()
        tomorrow = midnight(utc_day(now_ns) + timedelta(days=1))
        return min(self._check_interval_sec, max(0.0, tomorrow.timestamp() - now_ns / 1e9) + 0.01)


def shifted_rows(bars: Sequence[Bar], days: int) -> list[tuple[Any, ...]]:
    """The rows of `daily_bars` for `bars` moved by `days`, ordered as the bars are."""
    move = timedelta(days=days)
    return [
        (
            midnight(bar.day + move),
            bar.symbol,
            *map(str, (bar.open, bar.high, bar.low, bar.close, bar.volume)),
        )
        for bar in bars
    ]
