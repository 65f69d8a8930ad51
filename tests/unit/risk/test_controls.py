"""Every control: its formula by known values, the boundary and one step beyond it, on both sides."""

from typing import Any

import pytest

from services.ledger.account import TradingState
from services.ledger.order import Side
from services.risk.checks import Quote, Returns
from tests.unit.risk.making import (
    BTC,
    DAY,
    ETH,
    ULP,
    Board,
    D,
    account,
    buy,
    held,
    judge,
    order,
    policy,
    reason,
    sell,
)

SIDES = pytest.mark.parametrize("side", [Side.BUY, Side.SELL])


# order_size_limit


@SIDES
def test_quantity_at_the_unit_limit_passes_and_one_step_more_is_denied(side: Side) -> None:
    rules = policy(max_order_size_shares=10, allow_short=True)
    assert reason(account(), order(side, 10), rules) == ""
    assert reason(account(), order(side, 10 + ULP), rules) == "order_size_limit"


@SIDES
def test_value_at_the_dollar_limit_passes_and_one_step_more_is_denied(side: Side) -> None:
    rules = policy(max_order_size_usd=1000, allow_short=True)
    assert reason(account(), order(side, 10, 100), rules) == ""
    assert reason(account(), order(side, 10 + ULP, 100), rules) == "order_size_limit"


@SIDES
def test_order_value_counts_the_larger_of_mark_and_limit(side: Side) -> None:
    rules = policy(max_order_size_usd=1000, allow_short=True)
    assert reason(account(), order(side, 10, 90), rules) == ""
    assert reason(account(), order(side, 10, 100 + ULP), rules) == "order_size_limit"


def test_order_value_of_a_market_buy_includes_the_slippage_allowance() -> None:
    assert reason(account(), buy(10, None), policy(max_order_size_usd=1010)) == ""
    assert reason(account(), buy(10, None), policy(max_order_size_usd=D(1010) - ULP)) == "order_size_limit"


def test_order_size_holds_for_a_reducing_order_too() -> None:
    assert reason(account(0, held(20)), sell(11), policy(max_order_size_shares=10)) == "order_size_limit"


def test_order_size_message_has_the_numbers() -> None:
    verdict = judge(account(), buy(10, 100), policy(max_order_size_usd=999))
    assert verdict.message == "order value 1000 USD is above max_order_size_usd 999"


# price_collar


@SIDES
@pytest.mark.parametrize(("edge", "beyond"), [(D(120), 120 + ULP), (D(80), 80 - ULP)])
def test_price_at_the_collar_passes_and_one_step_beyond_is_denied(side: Side, edge: D, beyond: D) -> None:
    rules = policy(max_deviation_pct=20, allow_short=True)
    assert reason(account(), order(side, 1, edge), rules) == ""
    assert reason(account(), order(side, 1, beyond), rules) == "price_collar"


def test_collar_looks_at_the_limit_price_of_a_stop_limit() -> None:
    rules = policy(max_deviation_pct=20)
    assert reason(account(), buy(1, 121, stop=110), rules) == "price_collar"
    assert reason(account(), buy(1, 120, stop=150), rules) == ""


def test_collar_has_nothing_to_say_about_market_and_stop_orders() -> None:
    rules = policy(max_deviation_pct=0)
    assert reason(account(), buy(1, None), rules) == ""
    assert reason(account(), buy(1, None, stop=150), rules) == ""


def test_collar_holds_for_a_reducing_order_too() -> None:
    assert reason(account(0, held(5)), sell(1, 79), policy(max_deviation_pct=20)) == "price_collar"


# max_open_orders


@SIDES
def test_last_allowed_open_order_passes_and_the_next_is_denied(side: Side) -> None:
    rules = policy(allow_short=True)
    assert reason(account(open_orders=9), order(side), rules, max_open_orders=10) == ""
    assert reason(account(open_orders=10), order(side), rules, max_open_orders=10) == "max_open_orders"
    assert reason(account(open_orders=10), order(side), rules, max_open_orders=0) == ""


# short_restriction


def test_sell_down_to_zero_passes_and_one_step_more_is_denied() -> None:
    assert reason(account(0, held(3)), sell(3)) == ""
    assert reason(account(1000, held(3)), sell(3 + ULP)) == "short_restriction"


def test_open_sells_count_towards_the_short_restriction() -> None:
    position = held(3, open_sell=2, sell_value=200)
    assert reason(account(1000, position), sell(1)) == ""
    assert reason(account(1000, position), sell(1 + ULP)) == "short_restriction"


def test_open_buys_do_not_make_a_short_sale_good() -> None:
    assert reason(account(1000, held(0, open_buy=5, buy_value=500)), sell(1)) == "short_restriction"


def test_short_sale_passes_when_shorting_is_allowed() -> None:
    assert reason(account(), sell(1), policy(allow_short=True)) == ""


# position_limit


@SIDES
def test_exposure_at_the_position_limit_passes_and_one_step_more_is_denied(side: Side) -> None:
    rules = policy(max_position_size_usd=1000, allow_short=True)
    assert reason(account(), order(side, 10), rules) == ""
    assert reason(account(), order(side, 10 + ULP), rules) == "position_limit"


@SIDES
def test_open_orders_of_the_same_side_count_towards_the_position_limit(side: Side) -> None:
    sign = 1 if side is Side.BUY else -1
    open_orders: dict[str, Any] = (
        {"open_buy": 3, "buy_value": 300} if side is Side.BUY else {"open_sell": 3, "sell_value": 300}
    )
    state = account(1_000_000, held(sign * 2, **open_orders))
    rules = policy(max_position_size_usd=1000, allow_short=True)
    assert reason(state, order(side, 5), rules) == ""
    assert reason(state, order(side, 5 + ULP), rules) == "position_limit"


@SIDES
def test_open_orders_count_at_their_reserved_value_when_it_is_above_the_mark(side: Side) -> None:
    reserved: dict[str, Any] = (
        {"open_buy": 3, "buy_value": 330} if side is Side.BUY else {"open_sell": 3, "sell_value": 330}
    )
    state = account(1_000_000, held(0, **reserved))
    rules = policy(max_position_size_usd=530, allow_short=True)
    assert reason(state, order(side, 2), rules) == ""
    assert reason(state, order(side, 2 + ULP), rules) == "position_limit"


def test_orders_of_the_other_side_do_not_net_an_exposure() -> None:
    state = account(1_000_000, held(5, open_sell=5, sell_value=500))
    assert reason(state, buy(5), policy(max_position_size_usd=1000)) == ""
    assert reason(state, buy(5 + ULP), policy(max_position_size_usd=1000)) == "position_limit"


def test_other_symbols_do_not_count_towards_the_position_limit() -> None:
    state = account(1_000_000, held(10_000, ETH))
    assert reason(state, buy(10), policy(max_position_size_usd=1000)) == ""


# concentration_limit


@SIDES
def test_exposure_at_its_part_of_the_worst_equity_passes_and_one_step_more_is_denied(side: Side) -> None:
    rules = policy(max_concentration_pct=25, allow_short=True)
    assert reason(account(4000), order(side, 10), rules) == ""
    assert reason(account(4000), order(side, 10 + ULP), rules) == "concentration_limit"


def test_concentration_counts_the_equity_of_positions_at_their_marks() -> None:
    # 100 × 1,000 ≤ 25 × (3,000 + 100 × 10)
    state = account(3000, held(100, ETH))
    rules = policy(max_concentration_pct=25)
    assert reason(state, buy(10), rules) == ""
    assert reason(account(3000 - ULP, held(100, ETH)), buy(10), rules) == "concentration_limit"


def test_concentration_counts_adverse_loss_and_worst_fee_of_the_order() -> None:
    # Value 10 × 101 = 1,010, loss 10 × 1, fee 1,010 × 0.1 %: 4 × 1,010 + 10 + 1.01
    rules = policy(max_concentration_pct=25, worst_fee_pct="0.1")
    assert reason(account("4051.01"), buy(10, None), rules) == ""
    assert reason(account(D("4051.01") - ULP), buy(10, None), rules) == "concentration_limit"


def test_concentration_counts_losses_and_fees_that_open_orders_of_other_symbols_reserve() -> None:
    state = account(4030, held(0, ETH, open_buy=1, buy_value=10, adverse_loss=20, worst_fee=10))
    rules = policy(max_concentration_pct=25)
    assert reason(state, buy(10), rules) == ""
    poorer = account(4030 - ULP, state.positions[ETH])
    assert reason(poorer, buy(10), rules) == "concentration_limit"


# worst equity and buying_power


@SIDES
def test_margin_equal_to_the_worst_equity_passes_and_one_step_more_is_denied(side: Side) -> None:
    rules = policy(margin_requirement_pct=50, allow_short=True)
    assert reason(account(500), order(side, 10), rules) == ""
    assert reason(account(500), order(side, 10 + ULP), rules) == "buying_power"


def test_margin_is_asked_for_every_symbol_of_the_account() -> None:
    # 50 % of (10 × 100 + 100 × 10) = 1,000 = cash 0 + 100 × 10
    rules = policy(margin_requirement_pct=50)
    assert reason(account(0, held(100, ETH)), buy(10), rules) == ""
    assert reason(account(0, held(100, ETH)), buy(10 + ULP), rules) == "buying_power"


@SIDES
@pytest.mark.parametrize("cash", [D(0), D(-1)])
def test_without_worst_equity_nothing_is_approved_that_does_not_reduce(side: Side, cash: D) -> None:
    rules = policy(enabled=(), allow_short=True)
    assert reason(account(cash), order(side, ULP), rules) == "buying_power"
    assert reason(account(ULP), order(side, ULP), rules) == ""


# var_limit


def test_value_at_risk_at_its_limit_passes_and_above_is_denied() -> None:
    market = Board(returns={BTC: Returns.of(DAY, (0.0,) * 29 + (-0.5,))})
    assert reason(account(), buy(10), policy(max_portfolio_var_usd=500), market) == ""
    assert reason(account(), buy("10.01"), policy(max_portfolio_var_usd=500), market) == "var_limit"


def test_value_at_risk_of_a_short_sale_comes_from_rising_days() -> None:
    market = Board(returns={BTC: Returns.of(DAY, (0.25,) + (-0.5,) * 29)})
    rules = policy(max_portfolio_var_usd=250, allow_short=True)
    assert reason(account(), sell(10), rules, market) == ""
    assert reason(account(), sell("10.01"), rules, market) == "var_limit"


def test_symbols_that_move_against_each_other_offset_their_losses() -> None:
    falls = Returns.of(DAY, (0.0,) * 29 + (-0.5,))
    rises = Returns.of(DAY, (0.0,) * 29 + (0.5,))
    state = account(1_000_000, held(50, ETH))
    rules = policy(max_portfolio_var_usd=250)
    assert reason(state, buy(10), rules, Board(returns={BTC: falls, ETH: rises})) == ""
    assert reason(state, buy(10), rules, Board(returns={BTC: falls, ETH: falls})) == "var_limit"


@pytest.mark.parametrize("missing", [BTC, ETH])
def test_order_without_daily_returns_of_every_symbol_is_denied(missing: str) -> None:
    state = account(1_000_000, held(1, ETH))
    assert reason(state, buy(), market=Board(returns={missing: None})) == "var_data_unavailable"


def test_returns_of_a_symbol_that_is_not_held_are_not_missed() -> None:
    assert reason(account(1_000_000, held(0, ETH)), buy(), market=Board(returns={ETH: None})) == ""


@pytest.mark.parametrize("other", [Returns.of(DAY - 1, (0.0,) * 30), Returns.of(DAY, (0.0,) * 29)])
def test_returns_that_do_not_cover_the_same_days_are_not_added_up(other: Returns) -> None:
    state = account(1_000_000, held(1, ETH))
    assert reason(state, buy(), market=Board(returns={ETH: other})) == "var_data_unavailable"


# no_reference_price


@SIDES
@pytest.mark.parametrize("quote", [None, Quote(D(100), fresh=False)])
def test_order_without_a_fresh_mark_is_denied(side: Side, quote: Quote | None) -> None:
    market = Board({} if quote is None else {BTC: quote})
    assert reason(account(), order(side), policy(allow_short=True), market) == "no_reference_price"


def test_other_held_symbol_is_valued_by_an_older_mark_up_to_the_longer_age() -> None:
    state = account(1_000_000, held(1, ETH))
    older = {BTC: Quote(D(100), fresh=True), ETH: Quote(D(10), fresh=False, usable=True)}
    too_old = {BTC: Quote(D(100), fresh=True), ETH: Quote(D(10), fresh=False, usable=False)}
    assert reason(state, buy(), market=Board(older)) == ""
    assert reason(state, buy(), market=Board(too_old)) == "no_reference_price"
    assert reason(state, buy(), market=Board({BTC: 100})) == "no_reference_price"


def test_open_order_of_another_symbol_needs_its_mark_too() -> None:
    state = account(1_000_000, held(0, ETH, open_buy=1, buy_value=10))
    assert reason(state, buy(), market=Board({BTC: 100})) == "no_reference_price"


# trading state and limits


@SIDES
@pytest.mark.parametrize(
    ("state", "expected"),
    [(TradingState.HALTED, "trading_halted"), (TradingState.REDUCING, "trading_reducing")],
)
def test_order_in_a_closed_trading_state_is_denied(side: Side, state: TradingState, expected: str) -> None:
    rules = policy(allow_short=True)
    assert reason(account(trading_state=state), order(side), rules) == expected


def test_reducing_order_passes_in_reducing_and_not_in_halted() -> None:
    assert reason(account(0, held(5), trading_state=TradingState.REDUCING), sell(5)) == ""
    assert reason(account(0, held(5), trading_state=TradingState.HALTED), sell(5)) == "trading_halted"


@pytest.mark.parametrize(
    "override",
    [{"max_order_size": D(1)}, {"max_order_size_usd": D(-1)}, {"max_order_size_usd": D("NaN")},
     {"max_order_size_usd": D("Infinity")}],
)  # fmt: skip
def test_override_that_is_no_limit_denies_everything(override: dict[str, D]) -> None:
    assert reason(account(limits=override), buy()) == "limits_unavailable"
    assert reason(account(0, held(5), limits=override), sell(5)) == "limits_unavailable"


def test_override_of_an_account_replaces_the_configured_limit() -> None:
    rules = policy(max_order_size_shares=10)
    assert reason(account(limits={"max_order_size_shares": D(5)}), buy(6), rules) == "order_size_limit"
    assert reason(account(limits={"max_order_size_shares": D(20)}), buy(20), rules) == ""
