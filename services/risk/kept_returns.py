"""Risk's own data in Valkey: the daily returns that were last read, for a start while QuestDB is away.

They are as good as what QuestDB would answer, for as long as they are young enough; without them every order
that does not reduce would be denied until QuestDB is back.
"""

import asyncio
from collections.abc import Collection
from typing import Final

import msgspec
import redis.asyncio
from redis.exceptions import RedisError

from services.messages import UNREADABLE
from services.risk.checks.market import Returns
from services.risk.daily_returns import DAY_NS, OLDEST_CLOSE_NS
from services.risk.market import ReturnsSource
from services.runtime.clock import Clock
from services.runtime.telemetry import get_logger

KEY: Final = "risk:daily_returns"
_CHECK_SEC: Final = 1.0
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Returns).decode
_log = get_logger("risk.kept_returns")


class KeptReturns:
    """A source of returns that falls back on the kept ones while the live source has none at all."""

    def __init__(
        self,
        live: ReturnsSource,
        valkey: "redis.asyncio.Redis",
        symbols: Collection[str],
        clock: Clock,
        lookback_days: int,
    ) -> None:
        self._live = live
        self._valkey = valkey
        self._symbols = sorted(symbols)
        self._clock = clock
        self._lookback_days = lookback_days
        self._kept: dict[str, Returns] = {}
        self._written: dict[str, Returns] = {}
        self._live_seen = False

    def returns(self, symbol: str) -> Returns | None:
        """Returns of exactly the lookback, or None: too few, or too old."""
        live = self._live.returns(symbol)
        if live is not None or self._live_seen:
            return live
        kept = self._kept.get(symbol)
        if kept is None or self._clock.now_ns() - (kept.last_day + 1) * DAY_NS > OLDEST_CLOSE_NS:
            return None
        return kept

    async def run(self) -> None:
        """Reads what is kept, then keeps what the live source has; until cancelled."""
        read = False
        while True:
            try:
                if not read:
                    await self._read()
                    read = True
                await self._write()
            except (RedisError, OSError, TimeoutError) as error:
                _log.debug("returns are not kept", error=f"{type(error).__name__}: {error}")
            await asyncio.sleep(_CHECK_SEC)

    async def _read(self) -> None:
        kept: dict[bytes, bytes] = await self._valkey.hgetall(KEY)  # type: ignore[assignment] # bytes, as opened
        for field, text in kept.items():
            try:
                returns = _decode(text)
            except UNREADABLE:
                continue
            if len(returns) == len(returns.rises) == self._lookback_days:
                self._kept[field.decode()] = returns
        if self._kept:
            _log.info("daily returns at hand", symbols=sorted(self._kept))

    async def _write(self) -> None:
        current = {symbol: self._live.returns(symbol) for symbol in self._symbols}
        found = {symbol: returns for symbol, returns in current.items() if returns is not None}
        if not found:
            return
        # From now on the live source knows best, also when it finds that data is missing.
        self._live_seen = True
        if found != self._written:
            await self._valkey.hset(KEY, mapping={name: _encode(one) for name, one in found.items()})
            self._written = found
