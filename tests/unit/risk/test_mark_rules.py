"""Which prices are believed as marks."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.risk.mark_rules import JumpRule, Mark, next_mark

RULE = JumpRule(jump_pct=Decimal(10), confirmations=3)


def after(*prices: int | str, rule: JumpRule = RULE) -> Mark:
    """The mark after these prices, one a second from 1 on."""
    mark = None
    for second, price in enumerate(prices, 1):
        mark = next_mark(mark, Decimal(price), float(second), rule)
    assert mark is not None
    return mark


def test_the_first_price_is_believed() -> None:
    assert after(100) == Mark(Decimal(100), 1.0)


@pytest.mark.parametrize("price", ["90", "100", "110"])
def test_a_step_up_to_the_limit_is_believed(price: str) -> None:
    assert after(100, price) == Mark(Decimal(price), 2.0)


@pytest.mark.parametrize("price", ["89.99", "110.01", "1", "100000"])
def test_a_jump_is_held_back_and_does_not_renew_the_mark(price: str) -> None:
    mark = after(100, price)
    assert (mark.price, mark.received) == (Decimal(100), 1.0)
    assert (mark.candidate, mark.agreeing) == (Decimal(price), 1)


def test_a_jump_is_believed_once_enough_prices_agree() -> None:
    assert after(100, 200, 205).price == 100
    assert after(100, 200, 205, 210) == Mark(Decimal(210), 4.0)


def test_a_price_near_the_mark_ends_the_quarantine() -> None:
    assert after(100, 200, 205, 101) == Mark(Decimal(101), 4.0)
    assert after(100, 200, 205, 101, 200, 205).price == 101


def test_prices_that_disagree_with_each_other_start_the_count_anew() -> None:
    mark = after(100, 200, 300, 310)
    assert (mark.price, mark.candidate, mark.agreeing) == (Decimal(100), Decimal(310), 2)
    assert after(100, 200, 300, 310, 305) == Mark(Decimal(305), 5.0)


def test_one_confirmation_believes_everything() -> None:
    assert after(100, 10_000, rule=JumpRule(Decimal(10), 1)).price == 10_000


@given(prices=st.lists(st.decimals("0.01", "1000000", places=2), min_size=1, max_size=30))
def test_a_believed_step_is_small_or_confirmed(prices: list[Decimal]) -> None:
    mark = next_mark(None, prices[0], 0.0, RULE)
    for second, price in enumerate(prices[1:], 1):
        before, mark = mark, next_mark(mark, price, float(second), RULE)
        if mark.received == second:
            assert mark.price == price
            small = abs(price - before.price) * 100 <= 10 * before.price
            assert small or before.agreeing == RULE.confirmations - 1
        else:
            assert (mark.price, mark.received) == (before.price, before.received)
            assert 1 <= mark.agreeing < RULE.confirmations
