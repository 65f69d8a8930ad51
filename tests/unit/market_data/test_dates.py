"""How the dates of the history move."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from services.market_data.bar_store import shifted_rows
from services.market_data.bars import daily_bars
from services.market_data.dates import choose_shift, history, utc_day

LAST = date(2024, 1, 9)
TODAY = date(2026, 11, 22)
SHIFT = (date(2026, 11, 21) - LAST).days


def test_the_history_ends_the_day_before_the_replayed_one() -> None:
    bars = history(daily_bars(), date(2024, 1, 10))
    assert bars[-1].day == LAST
    assert bars[0].day == date(2023, 9, 1)


def test_the_first_choice_ends_yesterday() -> None:
    shift = choose_shift(None, LAST, TODAY)
    assert (shift.days, shift.stale) == (SHIFT, None)
    rows = shifted_rows(history(daily_bars(), date(2024, 1, 10)), shift.days)
    assert rows[-1][0] == datetime(2026, 11, 21, tzinfo=UTC)


def test_the_stored_choice_stays_while_it_ends_yesterday() -> None:
    assert choose_shift(SHIFT, LAST, TODAY).stale is None


@pytest.mark.parametrize("days", [1, 3, 400, -1])
def test_a_choice_of_another_day_is_stale(days: int) -> None:
    shift = choose_shift(SHIFT, LAST, TODAY + timedelta(days=days))
    assert (shift.days, shift.stale) == (SHIFT + days, SHIFT)


def test_a_moment_belongs_to_its_utc_day() -> None:
    midnight = int(datetime(2026, 11, 22, tzinfo=UTC).timestamp()) * 1_000_000_000
    assert utc_day(midnight) == TODAY
    assert utc_day(midnight - 1) == TODAY - timedelta(days=1)
