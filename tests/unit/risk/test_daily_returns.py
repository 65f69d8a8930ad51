"""Daily returns from daily closes."""

from __future__ import annotations

from decimal import Decimal

import pytest

from services.risk.daily_returns import DAY_NS, daily_returns

TODAY = 20_000
NOW_NS = TODAY * DAY_NS + 10 * 3600 * 1_000_000_000
HOUR_NS = 3600 * 1_000_000_000


def closes(*prices: int, last: int = TODAY - 1) -> dict[int, Decimal]:
    """Closes of consecutive days, the last on day `last`."""
    first = last - len(prices) + 1
    return {first + number: Decimal(price) for number, price in enumerate(prices)}


def test_returns_are_simple_and_split_by_sign() -> None:
    returns = daily_returns({"A": closes(100, 110, 99)}, 2, NOW_NS)["A"]
    assert returns.last_day == TODAY - 1
    assert returns.rises == pytest.approx((0.1, 0.0))
    assert returns.falls == pytest.approx((0.0, 0.1))
    assert (returns.worst_rise, returns.worst_fall) == pytest.approx((0.1, 0.1))


def test_only_the_lookback_counts() -> None:
    returns = daily_returns({"A": closes(1, 100, 110, 99)}, 2, NOW_NS)["A"]
    assert len(returns) == 2


def test_the_unfinished_day_does_not_count() -> None:
    days = {**closes(100, 110, 99), TODAY: Decimal(5000), TODAY + 1: Decimal(1)}
    assert daily_returns({"A": days}, 2, NOW_NS)["A"].last_day == TODAY - 1


def test_too_few_days_give_no_returns() -> None:
    assert daily_returns({"A": closes(100, 110, 99)}, 3, NOW_NS) == {}


def test_a_gap_gives_no_returns() -> None:
    days = closes(100, 110, 99)
    del days[TODAY - 2]
    assert daily_returns({"A": days, "B": closes(1, 2, 3)}, 2, NOW_NS).keys() == {"B"}


@pytest.mark.parametrize(("hours", "usable"), [(0, True), (48, True), (49, False), (500, False)])
def test_closes_older_than_48_hours_give_no_returns(hours: int, usable: bool) -> None:
    last_close_ns = TODAY * DAY_NS
    found = daily_returns({"A": closes(100, 110, 99)}, 2, last_close_ns + hours * HOUR_NS)
    assert ("A" in found) is usable


def test_symbols_end_on_the_same_day() -> None:
    found = daily_returns({"A": closes(100, 110, 99, 98), "B": closes(1, 2, 3, 4, last=TODAY - 2)}, 2, NOW_NS)
    assert {symbol: returns.last_day for symbol, returns in found.items()} == {
        "A": TODAY - 2,
        "B": TODAY - 2,
    }
    assert found["A"].rises == pytest.approx((0.1, 0.0))


def test_a_symbol_that_ended_long_ago_does_not_hold_the_others_back() -> None:
    found = daily_returns({"A": closes(100, 110, 99), "B": closes(1, 2, 3, last=TODAY - 9)}, 2, NOW_NS)
    assert found.keys() == {"A"}
    assert found["A"].last_day == TODAY - 1


def test_nothing_gives_nothing() -> None:
    assert daily_returns({}, 2, NOW_NS) == {}
    assert daily_returns({"A": {}}, 2, NOW_NS) == {}
