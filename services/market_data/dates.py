"""How the dates of the recorded history move, so that it ends yesterday. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from services.market_data.bars import Bar


@dataclass(frozen=True, slots=True)
class Shift:
    """By how many whole days the recorded history is moved."""

    days: int
    stale: int | None = None
    """The shift that was stored before and did not fit any more; None when there was none or it still
    fits."""


def choose_shift(stored: int | None, last_recorded: date, today: date) -> Shift:
    """The shift to use on the UTC day `today`: the stored one while the history it gives ends yesterday.

    A stored shift becomes stale at every UTC midnight, and when the clock is set. All bars move together, so
    the sequence of returns, and with it every measure of risk, stays the same; only the dates change.
    """
    days = (today - timedelta(days=1) - last_recorded).days
    return Shift(days, stale=None if stored in (None, days) else stored)


def history(bars: Iterable[Bar], before: date) -> tuple[Bar, ...]:
    """The bars of the days before `before`."""
    return tuple(bar for bar in bars if bar.day < before)


def midnight(day: date) -> datetime:
    """The start of a UTC day."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def utc_day(now_ns: int) -> date:
    """The UTC day of a moment in nanoseconds since the epoch."""
    return datetime.fromtimestamp(now_ns // 1_000_000_000, UTC).date()
