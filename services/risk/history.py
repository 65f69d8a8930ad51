"""Daily returns for value at risk, loaded from QuestDB in the background: an order only reads a
dictionary."""

import asyncio
from collections.abc import Collection, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Final

import psycopg

from services.questdb.schema import DAILY_BARS
from services.risk.checks.market import Returns
from services.risk.daily_returns import DAY_NS, daily_returns, day_of
from services.runtime.clock import Clock
from services.runtime.connections import QuestdbPool
from services.runtime.telemetry import get_logger

_RETRY_SEC: Final = 1.0
_SLACK_DAYS: Final = 3
"""Days read beyond the lookback: the last bar may be two days old."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_log = get_logger("risk.history")


class History:
    """One a worker. `returns` never waits; `run` keeps it current."""

    def __init__(
        self,
        pool: QuestdbPool,
        symbols: Collection[str],
        clock: Clock,
        *,
        lookback_days: int,
        refresh_interval_sec: float,
    ) -> None:
        """Closes are read at the start, every `refresh_interval_sec`, and just after every UTC midnight."""
        self._pool = pool
        self._symbols = frozenset(symbols)
        self._clock = clock
        self._lookback_days = lookback_days
        self._refresh_interval_sec = refresh_interval_sec
        self._closes: dict[str, dict[int, Decimal]] = {}
        self._returns: Mapping[str, Returns] = {}
        self._loaded = False

    def returns(self, symbol: str) -> Returns | None:
        """Returns of exactly the lookback, ending on the same day for every symbol; None: too few or too
        old."""
        return self._returns.get(symbol)

    @property
    def last_bar(self) -> date | None:
        """The UTC day on which the returns end; None without any."""
        for returns in self._returns.values():
            return (_EPOCH + timedelta(days=returns.last_day)).date()
        return None

    async def probe(self) -> None:
        """For the health board: raises `LookupError` that names the symbols without returns."""
        missing = sorted(self._symbols - self._returns.keys())
        if missing:
            raise LookupError(f"no daily returns of {', '.join(missing)}")

    async def refresh(self) -> bool:
        """Reads the closes once and computes the returns anew; False when QuestDB does not answer.

        Without an answer the closes read before go on being used until they are too old.
        """
        failure = ""
        try:
            self._closes = await self._read()
        except (psycopg.Error, OSError, TimeoutError) as error:
            failure = f"{type(error).__name__}: {error}".strip()
        before = self._returns
        self._returns = daily_returns(self._closes, self._lookback_days, self._clock.now_ns())
        missing = sorted(self._symbols - self._returns.keys())
        if missing and (not self._loaded or before.keys() != self._returns.keys()):
            _log.warning("no daily returns", symbols=missing, error=failure)
        elif not missing and before.keys() != self._returns.keys():
            _log.info("daily returns loaded", last=self.last_bar, days=self._lookback_days)
        self._loaded = True
        return not failure

    async def run(self) -> None:
        """Refreshes until cancelled. To be owned by the worker."""
        while True:
            answered = await self.refresh()
            complete = answered and self._symbols <= self._returns.keys()
            await asyncio.sleep(self._pause(complete))

    def _pause(self, complete: bool) -> float:
        now_ns = self._clock.now_ns()
        midnight = (day_of(now_ns) + 1) * DAY_NS
        pause = self._refresh_interval_sec if complete else min(self._refresh_interval_sec, _RETRY_SEC)
        return min(pause, (midnight - now_ns) / 1e9 + 0.05)

    async def _read(self) -> dict[str, dict[int, Decimal]]:
        today = day_of(self._clock.now_ns())
        first = _EPOCH + timedelta(days=today - self._lookback_days - 1 - _SLACK_DAYS)
        query = (
            f"SELECT symbol, timestamp, close FROM {DAILY_BARS.name} WHERE timestamp >= %s AND timestamp < %s"
        )
        closes: dict[str, dict[int, Decimal]] = {}
        for symbol, start, close in await self._pool.execute(query, [first, _EPOCH + timedelta(days=today)]):
            if symbol in self._symbols and close is not None and close > 0:
                day = (start.replace(tzinfo=UTC) - _EPOCH).days
                closes.setdefault(symbol, {})[day] = close
        return closes
