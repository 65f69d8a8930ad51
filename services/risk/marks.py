"""Marks: the latest believed price of every symbol, from the ticks on NATS."""

from collections.abc import Collection
from typing import Final

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from services.ledger.numbers import ZERO
from services.messages import BadMessage, Tick, decode
from services.risk.checks.market import Quote
from services.risk.mark_rules import JumpRule, Mark, next_mark
from services.runtime.clock import Clock
from services.runtime.metrics import counter
from services.runtime.nats_client import NatsClient
from services.runtime.telemetry import get_logger

SUBJECT: Final = "ticks.>"
_LOUD_EVERY_SEC: Final = 60.0

_ticks: Final = counter("risk_ticks", "Ticks received")
_bad: Final = counter("risk_bad_ticks", "Ticks ignored because they make no sense")
_held_back: Final = counter("risk_ticks_quarantined", "Ticks held back because the price jumped", ["symbol"])
_fallbacks: Final = counter(
    "risk_stale_marks_used", "Decisions on a stale mark (marks.fallback: last)", ["symbol"]
)
_log = get_logger("risk.marks")


class Marks:
    """One a worker. `quote` is called for every order: it reads what the ticks left behind."""

    def __init__(
        self,
        symbols: Collection[str],
        clock: Clock,
        rule: JumpRule,
        *,
        max_age_sec: float,
        held_max_age_sec: float,
        fallback_to_last: bool = False,
    ) -> None:
        """Ticks of other than `symbols` are ignored. A mark is fresh when younger than `max_age_sec`, usable
        when younger than `held_max_age_sec`, both by the local monotonic clock since it arrived.
        `fallback_to_last` takes the last mark at any age for fresh, and says so in log and metrics."""
        self._symbols = frozenset(symbols)
        self._clock = clock
        self._rule = rule
        self._max_age_sec = max_age_sec
        self._held_max_age_sec = held_max_age_sec
        self._fallback_to_last = fallback_to_last
        self._marks: dict[str, Mark] = {}
        # For each mark the quote while it is fresh, made once a tick instead of once an order.
        self._fresh: dict[str, Quote] = {}
        self._loud_at: dict[str, float] = {}
        self._subscription: Subscription | None = None

    async def start(self, client: NatsClient) -> None:
        """Subscribes; the client renews the subscription after every reconnection."""
        self._subscription = await client.subscribe(SUBJECT, cb=self._on_message)

    async def stop(self) -> None:
        """Ends the subscription."""
        if self._subscription is not None:
            await self._subscription.unsubscribe()
            self._subscription = None

    def quote(self, symbol: str) -> Quote | None:
        """The believed price of `symbol` and whether its age allows to use it; None before the first tick."""
        mark = self._marks.get(symbol)
        if mark is None:
            return None
        age = self._clock.monotonic() - mark.received
        if age < self._max_age_sec:
            return self._fresh[symbol]
        if self._fallback_to_last:
            self._say_stale(symbol, age)
            return self._fresh[symbol]
        return Quote(mark.price, fresh=False, usable=age < self._held_max_age_sec)

    async def probe(self) -> None:
        """For the health board: raises `LookupError` that names the symbols without a fresh mark."""
        now = self._clock.monotonic()
        missing = [
            symbol
            for symbol in sorted(self._symbols)
            if symbol not in self._marks or now - self._marks[symbol].received >= self._max_age_sec
        ]
        if missing:
            raise LookupError(f"no fresh mark of {', '.join(missing)}")

    def take(self, subject: str, data: bytes) -> None:
        """Takes one tick. Anything that is none is counted and ignored."""
        _ticks.inc()
        try:
            tick = decode(Tick, data)
        except BadMessage:
            _bad.inc()
            return
        symbol, price = tick.symbol, tick.price
        if symbol not in self._symbols or price <= ZERO or subject.partition(".")[2] != symbol:
            _bad.inc()
            return
        before = self._marks.get(symbol)
        mark = self._marks[symbol] = next_mark(before, price, self._clock.monotonic(), self._rule)
        if before is None or mark.price is not before.price:
            self._fresh[symbol] = Quote(mark.price, fresh=True)
        if mark.agreeing:
            _held_back.labels(symbol).inc()
            if mark.agreeing == 1:
                _log.warning("mark jumps", symbol=symbol, mark=mark.price, tick=price)

    async def _on_message(self, message: Msg) -> None:
        self.take(message.subject, message.data)

    def _say_stale(self, symbol: str, age: float) -> None:
        _fallbacks.labels(symbol).inc()
        now = self._clock.monotonic()
        if now >= self._loud_at.get(symbol, now):
            self._loud_at[symbol] = now + _LOUD_EVERY_SEC
            _log.warning("stale mark in use", symbol=symbol, age_sec=round(age, 1))
