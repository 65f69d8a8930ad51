"""Value at risk: the rank, the bound over fills, and the quick bound that spares the simulation."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.risk.checks import Returns, VarDataUnavailable, value_at_risk
from services.risk.checks.value_at_risk import loss_bound, var_rank
from tests.unit.risk.making import D

returns = st.lists(st.floats(-0.9, 0.9), min_size=30, max_size=30).map(tuple)


def of(changes: tuple[float, ...]) -> Returns:
    return Returns.of(1, changes)


@pytest.mark.parametrize(
    ("confidence", "days", "rank"),
    [("0.99", 30, 30), ("0.95", 30, 29), ("0.95", 20, 19), ("0.9", 10, 9), ("0.5", 3, 2), ("0.01", 30, 1),
     ("0.99", 100, 99), ("0.99", 250, 248)],
)  # fmt: skip
def test_rank_is_confidence_times_days_rounded_up_exactly(confidence: str, days: int, rank: int) -> None:
    assert var_rank(D(confidence), days) == rank


def test_known_value_of_a_plain_position() -> None:
    changes = tuple(-day / 100 for day in range(20))  # losses of 0, 1, … 19 % of 1,000
    assert value_at_risk([(1000.0, 1000.0, of(changes))], D("0.95")) == pytest.approx(180.0)
    assert value_at_risk([(1000.0, 1000.0, of(changes))], D("0.99")) == pytest.approx(190.0)


def test_a_book_that_only_gains_has_no_value_at_risk() -> None:
    assert value_at_risk([(1000.0, 1000.0, of((0.01,) * 30))], D("0.99")) == 0.0
    assert value_at_risk([], D("0.99")) == 0.0


def test_open_orders_count_on_the_side_that_hurts() -> None:
    # Long 10 with sells of 4 open and buys of 5: 15 if the price falls, 6 if it rises.
    assert value_at_risk([(15.0, 6.0, of((-0.1,) * 30))], D("0.99")) == pytest.approx(1.5)
    assert value_at_risk([(5.0, -4.0, of((0.1,) * 30))], D("0.99")) == pytest.approx(0.4)


def test_days_that_do_not_agree_are_refused() -> None:
    with pytest.raises(VarDataUnavailable):
        value_at_risk([(1.0, 1.0, of((0.0,) * 3)), (1.0, 1.0, Returns.of(2, (0.0,) * 3))], D("0.99"))


positions = st.tuples(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.floats(0, 1e6), returns)


@given(st.lists(positions, min_size=1, max_size=3), st.sampled_from(["0.5", "0.9", "0.95", "0.99"]))
def test_bound_over_fills_is_no_less_than_any_subset_of_fills_and_the_quick_bound_is_no_less_than_it(
    symbols: list[tuple[float, float, float, tuple[float, ...]]], confidence: str
) -> None:
    bound = value_at_risk([(q + b, q - s, of(r)) for q, b, s, r in symbols], D(confidence))
    tolerance = 1e-6 + 1e-9 * abs(bound)

    for fills in product([(0, 0), (1, 0), (0, 1), (1, 1), (0.3, 0.7)], repeat=len(symbols)):
        held = [
            (q + up * b - down * s, of(r)) for (q, b, s, r), (up, down) in zip(symbols, fills, strict=True)
        ]
        plain = value_at_risk([(value, value, daily) for value, daily in held], D(confidence))
        assert plain <= bound + tolerance

    assert bound <= loss_bound([(q + b, q - s, of(r)) for q, b, s, r in symbols]) + 1e-9


@given(positions, st.sampled_from(["0.5", "0.95", "0.99"]))
def test_without_open_orders_it_is_the_plain_historical_simulation(
    symbol: tuple[float, float, float, tuple[float, ...]], confidence: str
) -> None:
    value, _, _, changes = symbol
    losses = sorted(-value * change for change in changes)
    expected = max(0.0, losses[var_rank(D(confidence), len(changes)) - 1])

    assert value_at_risk([(value, value, of(changes))], D(confidence)) == pytest.approx(expected)
