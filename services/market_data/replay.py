"""The replayed day: where each price is at each moment of it. Pure, exact, and the same in every run.

A bar tells four prices but not their order. A bar that closed at or above its open is walked open → low →
high → close, one that fell open → high → low → close, each leg taking a third of the bar, in a straight line.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import time
from decimal import Decimal
from typing import Final

from services.market_data.bars import Bar

DAY_NS: Final = 24 * 3600 * 1_000_000_000
_LEGS: Final = 3


@dataclass(frozen=True, slots=True)
class PricePath:
    """The price of one symbol over a day, as straight lines between points."""

    increment: Decimal
    """Every price is a whole multiple of it."""
    offsets: tuple[int, ...]
    """Nanoseconds from midnight, rising, from 0 to `DAY_NS`."""
    units: tuple[int, ...]
    """Price at each offset, in increments."""

    def price_at(self, offset_ns: int) -> Decimal:
        """The price `offset_ns` after midnight (0 ≤ offset < `DAY_NS`), to the nearest increment, halves
        up."""
        leg = bisect_right(self.offsets, offset_ns) - 1
        start, end = self.offsets[leg], self.offsets[leg + 1]
        first, last = self.units[leg], self.units[leg + 1]
        span = end - start
        moved = (2 * (last - first) * (offset_ns - start) + span) // (2 * span)
        return (first + moved) * self.increment


def path_through(bars: Sequence[Bar], increment: Decimal) -> PricePath:
    """The path through bars that divide a day into equal parts, in order; prices rounded to `increment`."""
    length = DAY_NS // len(bars)
    offsets: list[int] = []
    units: list[int] = []
    for number, bar in enumerate(bars):
        low_first = bar.close >= bar.open
        prices = (bar.open, bar.low, bar.high) if low_first else (bar.open, bar.high, bar.low)
        for leg, price in enumerate(prices):
            offsets.append(number * length + leg * length // _LEGS)
            units.append(_nearest(price, increment))
    offsets.append(DAY_NS)
    units.append(_nearest(bars[-1].close, increment))
    return PricePath(increment, tuple(offsets), tuple(units))


@dataclass(frozen=True, slots=True)
class Replay:
    """The whole market over the replayed day, again and again."""

    paths: Mapping[str, PricePath]
    start_ns: int
    """Position in the day at which the replay begins, nanoseconds after midnight."""
    speed: Decimal
    """Replayed time over real time; 0 = the market stands still at the start."""

    def position(self, elapsed_ns: int) -> int:
        """Where in the day (nanoseconds after midnight) the replay is, `elapsed_ns` ≥ 0 after its begin."""
        return (self.start_ns + int(elapsed_ns * self.speed)) % DAY_NS

    def prices(self, elapsed_ns: int) -> list[tuple[str, Decimal]]:
        """Every symbol's price `elapsed_ns` after the begin."""
        position = self.position(elapsed_ns)
        return [(symbol, path.price_at(position)) for symbol, path in self.paths.items()]


def nanoseconds_of(moment: time) -> int:
    """A time of day as nanoseconds after midnight."""
    seconds = moment.hour * 3600 + moment.minute * 60 + moment.second
    return seconds * 1_000_000_000 + moment.microsecond * 1000


def time_of(position_ns: int) -> time:
    """Nanoseconds after midnight as a time of day, to the second."""
    seconds = position_ns // 1_000_000_000
    return time(seconds // 3600, seconds // 60 % 60, seconds % 60)


def _nearest(price: Decimal, increment: Decimal) -> int:
    return int((2 * price + increment) // (2 * increment))
