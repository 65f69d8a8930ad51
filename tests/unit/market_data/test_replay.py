"""Where the replayed prices are at each moment."""

from __future__ import annotations

from datetime import date, time
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ledger.numbers import install_context
from services.market_data.bars import Bar, bars_of_day
from services.market_data.bootstrap import replay_of
from services.market_data.replay import (
    DAY_NS,
    PricePath,
    Replay,
    nanoseconds_of,
    path_through,
    time_of,
)
from services.market_data.settings import MarketDataConfig, ReplaySettings

DAY = date(2024, 1, 10)
CENT = Decimal("0.01")
SECOND = 1_000_000_000


@pytest.fixture(autouse=True)
def _exact() -> None:
    install_context()


def bar(*prices: str) -> Bar:
    opened, high, low, close = map(Decimal, prices)
    return Bar(DAY, "X", opened, high, low, close, Decimal(1))


def at(path: PricePath, moment: time) -> Decimal:
    return path.price_at(nanoseconds_of(moment))


def test_a_risen_bar_is_walked_low_first() -> None:
    path = path_through([bar("10", "16", "8", "13")], CENT)
    prices = [at(path, time(hour)) for hour in (0, 4, 8, 12, 16, 20)]
    assert prices == [Decimal(text) for text in ("10", "9", "8", "12", "16", "14.5")]


def test_a_fallen_bar_is_walked_high_first() -> None:
    path = path_through([bar("13", "16", "8", "10")], CENT)
    assert [at(path, time(hour)) for hour in (0, 8, 16)] == [13, 16, 8]


def test_bars_follow_each_other_without_a_step() -> None:
    path = path_through([bar("10", "16", "8", "13"), bar("13", "14", "9", "10")], CENT)
    assert at(path, time(11, 59, 59, 999_999)) == Decimal("13.00")
    assert at(path, time(12)) == 13


@pytest.mark.parametrize(
    ("increment", "expected"), [("0.01", "10.33"), ("0.05", "10.35"), ("1", "10"), ("0.0001", "10.3333")]
)
def test_prices_are_whole_increments(increment: str, expected: str) -> None:
    path = path_through([bar("10", "11", "10", "11")], Decimal(increment))
    moment = DAY_NS // 3 + DAY_NS // 9  # a third of the way from the low to the high
    assert path.price_at(moment) == Decimal(expected)


def default_replay() -> Replay:
    return replay_of(MarketDataConfig())


def test_the_default_start_has_btcusdt_at_45000() -> None:
    prices = dict(default_replay().prices(0))
    assert prices["BTCUSDT"] == Decimal("45000.00")
    assert set(prices) == {"BTCUSDT", "ETHUSDT", "SOLUSDT"}


def test_btcusdt_stays_near_45000_for_two_hours_from_the_default_start() -> None:
    replay = default_replay()
    prices = [dict(replay.prices(minute * 60 * SECOND))["BTCUSDT"] for minute in range(24 * 60)]
    assert all(Decimal(45000) <= price <= Decimal(46000) for price in prices[:41])
    assert all(Decimal(44300) < price < Decimal(47696) for price in prices)


@pytest.mark.parametrize("symbol", ["BTCUSDT", "ETHUSDT", "SOLUSDT"])
def test_the_path_reaches_the_days_high_and_low(symbol: str) -> None:
    bars = bars_of_day(symbol, DAY)
    path = path_through(bars, CENT)
    prices = [path.price_at(offset) for offset in path.offsets[:-1]]
    assert max(prices) == max(one.high for one in bars)
    assert min(prices) == min(one.low for one in bars)
    assert path.price_at(DAY_NS - 1) == bars[-1].close


def at_speed(speed: str) -> Replay:
    return replay_of(MarketDataConfig(replay=ReplaySettings(speed=Decimal(speed))))


SPEEDS = ("0", "0.5", "1", "60", "1440")
TWICE = {speed: (at_speed(speed), at_speed(speed)) for speed in SPEEDS}
RANGES = {
    symbol: (min(one.low for one in bars), max(one.high for one in bars))
    for symbol in ("BTCUSDT", "ETHUSDT", "SOLUSDT")
    for bars in [bars_of_day(symbol, DAY)]
}


@given(elapsed=st.integers(0, 40 * DAY_NS), speed=st.sampled_from(SPEEDS))
def test_two_replays_agree_at_every_moment_and_the_day_repeats(elapsed: int, speed: str) -> None:
    install_context()
    one, other = TWICE[speed]
    prices = one.prices(elapsed)
    assert prices == other.prices(elapsed)
    if speed == "1":
        assert prices == one.prices(elapsed + DAY_NS)
    for symbol, price in prices:
        low, high = RANGES[symbol]
        assert low <= price <= high
        assert price == price.quantize(CENT)


def test_speed_zero_stands_still() -> None:
    replay = at_speed("0")
    assert replay.prices(0) == replay.prices(10 * DAY_NS)


def test_speed_multiplies_time() -> None:
    fast = at_speed("60")
    assert fast.prices(SECOND) == default_replay().prices(60 * SECOND)


def test_time_of_day_and_back() -> None:
    assert time_of(nanoseconds_of(time(23, 59, 58))) == time(23, 59, 58)
