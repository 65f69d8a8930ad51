"""The recorded candles are what their README says."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal

import pytest

from services.market_data.bars import bars_of_day, daily_bars

REPLAYED = date(2024, 1, 10)


def test_daily_bars_have_no_gap() -> None:
    bars = daily_bars()
    days = {bar.day for bar in bars}
    first, last = min(days), max(days)
    assert (first, last) == (date(2023, 9, 1), date(2024, 3, 31))
    assert len(days) == (last - first).days + 1
    assert [(bar.day, bar.symbol) for bar in bars] == [
        (first + timedelta(days=number), symbol)
        for number in range(len(days))
        for symbol in ("BTCUSDT", "ETHUSDT", "SOLUSDT")
    ]


def test_every_bar_spans_its_open_and_close() -> None:
    for bar in (*daily_bars(), *bars_of_day("BTCUSDT", REPLAYED)):
        assert 0 < bar.low <= min(bar.open, bar.close) <= max(bar.open, bar.close) <= bar.high


def test_two_hour_bars_add_up_to_the_daily_bar_on_every_day_of_both_files() -> None:
    daily = {bar.day: bar for bar in daily_bars() if bar.symbol == "BTCUSDT"}
    day = date(2023, 12, 1)
    while day <= date(2024, 1, 31):
        bars = bars_of_day("BTCUSDT", day)
        assert len(bars) == 12
        assert bars[0].open == daily[day].open
        assert bars[-1].close == daily[day].close
        assert max(bar.high for bar in bars) == daily[day].high
        assert min(bar.low for bar in bars) == daily[day].low
        day += timedelta(days=1)


def test_the_replayed_day_moves_between_its_recorded_bounds() -> None:
    bars = bars_of_day("BTCUSDT", REPLAYED)
    assert min(bar.low for bar in bars) == Decimal("44300.36")
    assert max(bar.high for bar in bars) == Decimal("47695.93")


def test_a_symbol_without_fine_bars_has_its_daily_bar() -> None:
    (bar,) = bars_of_day("ETHUSDT", REPLAYED)
    assert (bar.open, bar.close) == (Decimal("2344.3"), Decimal("2584.38"))


@pytest.mark.parametrize(("symbol", "day"), [("XRPUSDT", REPLAYED), ("BTCUSDT", date(2020, 1, 1))])
def test_a_day_that_is_not_recorded_is_named(symbol: str, day: date) -> None:
    with pytest.raises(LookupError, match=f"{symbol} on {day}"):
        bars_of_day(symbol, day)
