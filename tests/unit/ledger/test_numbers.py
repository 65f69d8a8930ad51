"""Exact decimals: bounds, division, notation."""

from __future__ import annotations

import decimal
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ledger.numbers import (
    NumberOutOfRange,
    average,
    bounded,
    install_context,
    plain,
    released_cost,
)


@pytest.fixture(autouse=True)
def _exact() -> None:
    install_context()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", "0"),
        ("0.000", "0"),
        ("-0", "0"),
        ("1E+3", "1000"),
        ("99999999999999999999", "99999999999999999999"),
        ("0.000000000000000001", "0.000000000000000001"),
        ("1.0000000000000000000000", "1"),
        ("-12.5", "-12.5"),
    ],
)
def test_number_in_range_keeps_its_value(text: str, expected: str) -> None:
    assert bounded(Decimal(text)) == Decimal(expected)
    assert bounded(Decimal(text)).as_tuple().exponent <= 0  # type: ignore[operator]


@pytest.mark.parametrize(
    "text", ["NaN", "Infinity", "-Infinity", "sNaN", "100000000000000000000", "1E+20", "1E+999999",
             "0.0000000000000000001", "1E-19"],
)  # fmt: skip
def test_number_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(NumberOutOfRange):
        bounded(Decimal(text))


def test_silent_rounding_is_impossible() -> None:
    with pytest.raises(decimal.Inexact):
        Decimal(1) / Decimal(3)


_amount = st.decimals(min_value="-1e18", max_value="1e18", places=18)
_quantity = st.decimals(min_value="1e-18", max_value="1e18", places=18)


@given(cost=_amount, quantity=_quantity, part=st.fractions(min_value=0, max_value=1))
def test_released_cost_is_within_half_a_unit_of_the_exact_share(
    cost: Decimal, quantity: Decimal, part: Fraction
) -> None:
    closed = (quantity * Decimal(part.numerator)).quantize(Decimal("1e-18"), context=_LOOSE)
    closed = _LOOSE.divide(closed, Decimal(part.denominator)).quantize(Decimal("1e-18"), context=_LOOSE)
    released = released_cost(cost, closed, quantity)
    exact = Fraction(cost) * Fraction(closed) / Fraction(quantity)
    assert abs(Fraction(released) - exact) <= Fraction(1, 2 * 10**18)


@given(cost=st.decimals(min_value="-1e18", max_value="1e18", places=36), quantity=_quantity)
def test_full_close_releases_the_whole_cost(cost: Decimal, quantity: Decimal) -> None:
    assert released_cost(cost, quantity, quantity) == cost


def test_average_of_nothing_is_zero() -> None:
    assert average(Decimal(5), Decimal(0)) == 0


def test_average_is_rounded_to_eighteen_places() -> None:
    assert str(average(Decimal(1), Decimal(3))) == "0.333333333333333333"


@given(_amount)
def test_plain_keeps_the_value_and_drops_trailing_zeros(number: Decimal) -> None:
    assert plain(number) == number
    assert plain(number).as_tuple().exponent <= 0  # type: ignore[operator]
    text = format(plain(number), "f")
    assert "." not in text or not text.endswith("0")


_LOOSE = decimal.Context(prec=200, rounding=decimal.ROUND_HALF_EVEN, traps=[decimal.InvalidOperation])
