"""Daily returns from daily closes. Pure; the one place of the checks where binary floats are made."""

from collections.abc import Mapping
from decimal import Decimal
from itertools import pairwise
from typing import Final

from services.risk.checks.market import Returns

DAY_NS: Final = 86_400_000_000_000
OLDEST_CLOSE_NS: Final = 2 * DAY_NS
"""Age of the last close, counted from the end of its day, beyond which the returns are not used."""


def day_of(now_ns: int) -> int:
    """The UTC day of a moment in nanoseconds since the epoch, as days since the epoch."""
    return now_ns // DAY_NS


def daily_returns(
    closes: Mapping[str, Mapping[int, Decimal]], lookback: int, now_ns: int
) -> dict[str, Returns]:
    """Simple close-to-close returns of exactly `lookback` finished days, by symbol, all ending on the same
    day.

    `closes`: symbol → day (since the epoch) → close > 0. The day is the last one that every symbol has, not
    counting symbols whose last close is more than 48 h old. A symbol that is older, or has a gap among the
    `lookback` + 1 days, has no returns: it is absent.
    """
    today = day_of(now_ns)
    last_days = {}
    for symbol, days in closes.items():
        last = max((day for day in days if day < today), default=None)
        if last is not None and now_ns - (last + 1) * DAY_NS <= OLDEST_CLOSE_NS:
            last_days[symbol] = last
    if not last_days:
        return {}
    end = min(last_days.values())
    found = {}
    for symbol in last_days:
        days = closes[symbol]
        needed = range(end - lookback, end + 1)
        if all(day in days for day in needed):
            prices = [float(days[day]) for day in needed]
            changes = tuple(after / before - 1.0 for before, after in pairwise(prices))
            found[symbol] = Returns.of(end, changes)
    return found
