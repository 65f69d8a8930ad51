"""Recorded candles: reading them, exactly."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from importlib import resources
from typing import Final

_FOLDER: Final = "services.market_data.candles"
DAILY_BARS: Final = "daily_bars.csv"
INTRADAY_BARS: Final = {"BTCUSDT": "btcusdt_2h_bars.csv"}
"""Symbols whose day is recorded in finer bars."""
INTRADAY_HOURS: Final = 2
HOURS_A_DAY: Final = 24


@dataclass(frozen=True, slots=True)
class Bar:
    """One candle of a symbol. Prices in the quote currency, volume in the base currency."""

    day: date
    """The UTC day it belongs to."""
    symbol: str
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal


def daily_bars() -> tuple[Bar, ...]:
    """Every recorded daily bar, ordered by day, then symbol."""
    bars = [_bar(row, date.fromisoformat(row["date"]), row["symbol"]) for row in _rows(DAILY_BARS)]
    return tuple(sorted(bars, key=lambda bar: (bar.day, bar.symbol)))


def bars_of_day(symbol: str, day: date) -> tuple[Bar, ...]:
    """The bars that cover `day` from its first to its last minute, equally long, as fine as they are
    recorded.

    Raises `LookupError` when the day is not recorded, or has gaps.
    """
    file = INTRADAY_BARS.get(symbol)
    if file is not None:
        bars = tuple(
            _bar(row, day, symbol) for row in _rows(file) if row["timestamp"].startswith(day.isoformat())
        )
        if len(bars) == HOURS_A_DAY // INTRADAY_HOURS:
            return bars
    bars = tuple(bar for bar in daily_bars() if bar.symbol == symbol and bar.day == day)
    if len(bars) != 1:
        raise LookupError(f"there are no candles of {symbol} on {day}")
    return bars


def _rows(file: str) -> Iterator[dict[str, str]]:
    with resources.files(_FOLDER).joinpath(file).open(encoding="ascii") as lines:
        yield from csv.DictReader(lines)


def _bar(row: dict[str, str], day: date, symbol: str) -> Bar:
    return Bar(
        day,
        symbol,
        *(Decimal(row[column]) for column in ("open", "high", "low", "close", "volume")),
    )
