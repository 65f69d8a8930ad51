"""The checks of orders that are submitted together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.ledger.account import Account, TradingState
from services.ledger.groups import as_bracket, as_pair
from services.ledger.order import Order
from services.risk.checks import Policy, evaluate_group
from tests.unit.risk.making import Board, account, buy, held, policy, sell


def _reason(state: Account, orders: tuple[Order, ...], rules: Policy, most: int = 0) -> str:
    """Reason of the first denial; empty when all pass."""
    verdicts = evaluate_group(state, orders, Board(), rules, most)
    assert all(verdict.approved for verdict in verdicts[:-1])
    assert len(verdicts) == len(orders) or not verdicts[-1].approved
    return verdicts[-1].reason


def _pair(first: Order, second: Order) -> tuple[Order, ...]:
    return as_pair(first, second)


def _bracket(entry: Order, *exits: Order) -> tuple[Order, ...]:
    return as_bracket(entry, exits)


def test_exit_pair_of_a_long_position_is_no_short() -> None:
    exits = _pair(sell(5, 110), sell(5, None, stop=90))
    assert _reason(account(0, held(5)), exits, policy()) == ""
    assert _reason(account(0, held(4)), exits, policy()) == "short_restriction"


@pytest.mark.parametrize("place", [0, 1])
def test_each_leg_is_checked_as_if_it_were_alone(place: int) -> None:
    legs = [buy(1, 90), buy(1, 95)]
    legs[place] = buy(11, 90)
    rules = policy(max_order_size_shares=10)
    assert _reason(account(), _pair(*legs), rules) == "order_size_limit"
    assert _reason(account(), _pair(buy(10, 90), buy(10, 95)), rules) == ""
    # Both together would be above the limit of the position.
    assert _reason(account(), _pair(buy(6, 90), buy(6, 95)), policy(max_position_size_usd=600)) == ""


def test_both_legs_count_as_open_orders() -> None:
    state = account(open_orders=3)
    assert _reason(state, _pair(buy(1, 90), buy(1, 95)), policy(), most=5) == ""
    assert _reason(state, _pair(buy(1, 90), buy(1, 95)), policy(), most=4) == "max_open_orders"


def test_exits_that_wait_do_not_count_as_open_orders() -> None:
    state = account(open_orders=3)
    group = _bracket(buy(1), sell(1, 110), sell(1, None, stop=90))
    assert _reason(state, group, policy(), most=4) == ""
    assert _reason(state, group, policy(), most=3) == "max_open_orders"


def test_exits_are_checked_on_the_account_as_the_entry_leaves_it() -> None:
    assert _reason(account(), _bracket(buy(2), sell(2, 110)), policy()) == ""
    # What the account is short already, an exit of the whole entry makes it again.
    short = account(1_000_000, held(-2))
    assert _reason(short, _bracket(buy(2), sell(2, 110)), policy()) == "short_restriction"
    assert _reason(short, _bracket(buy(2), sell(2, 110)), policy(allow_short=True)) == ""


def test_entry_is_checked_as_a_single_order() -> None:
    rules = policy(max_position_size_usd=150)
    assert _reason(account(), _bracket(buy(2), sell(2, 110)), rules) == "position_limit"


def test_exit_is_within_size_and_collar() -> None:
    rules = policy(max_deviation_pct=20)
    assert _reason(account(), _bracket(buy(2), sell(2, 121)), rules) == "price_collar"
    assert _reason(account(), _bracket(buy(2), sell(2, 120)), rules) == ""


def test_nothing_passes_while_trading_is_halted() -> None:
    state = replace(account(0, held(5)), trading_state=TradingState.HALTED)
    assert _reason(state, _pair(sell(5, 110), sell(5, 105)), policy()) == "trading_halted"


def test_broken_check_denies_the_group() -> None:
    class Broken(Board):
        def quote(self, symbol: str) -> None:
            raise ZeroDivisionError

    (verdict,) = evaluate_group(account(), _pair(buy(1), buy(1)), Broken(), policy())
    assert (verdict.approved, verdict.reason) == (False, "risk_check_error")
