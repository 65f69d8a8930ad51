"""The table of controls as a whole: order, switches, explanations, and what breaks."""

from typing import Any

import pytest

from services.ledger.account import Account, TradingState
from services.ledger.commands import Approved, Refused
from services.ledger.order import Order, Reservation
from services.risk.checks import CHECK_NAMES, Quote, evaluate
from services.risk.checks.controls import CONTROLS
from services.risk.encode import REASONS
from tests.unit.risk.making import (
    BTC,
    DEFAULTS,
    ULP,
    Board,
    D,
    account,
    buy,
    held,
    judge,
    policy,
    reason,
    sell,
)

ORDER = (
    "trading_state",
    "readable_limits",
    "reference_price",
    "order_size_limit",
    "price_collar",
    "max_open_orders",
    "short_restriction",
    "position_limit",
    "concentration_limit",
    "worst_equity",
    "buying_power",
    "var_limit",
)


def test_controls_stand_in_the_documented_order() -> None:
    assert tuple(rule.name for rule in CONTROLS) == ORDER


def test_the_six_switches_are_the_documented_ones() -> None:
    assert {rule.switch for rule in CONTROLS if rule.switch} == set(CHECK_NAMES)
    assert all(rule.name == rule.switch for rule in CONTROLS if rule.switch)


def test_an_order_that_fails_everything_is_denied_by_each_control_in_turn() -> None:
    """Repairs one failure after the other and watches the next one become the reason."""
    state = account(1, trading_state=TradingState.HALTED, limits={"unknown": D(1)}, open_orders=5)
    candidate = sell(10, 150)
    market = Board({BTC: Quote(D(100), fresh=False)}, {BTC: None})
    strict = policy(DEFAULTS, max_order_size_usd=1, max_position_size_usd=1)
    seen = [reason(state, candidate, strict, market, max_open_orders=1)]

    state = account(1, limits={"unknown": D(1)}, open_orders=5)
    seen.append(reason(state, candidate, strict, market, max_open_orders=1))
    state = account(1, open_orders=5)
    seen.append(reason(state, candidate, strict, market, max_open_orders=1))
    market.quotes[BTC] = Quote(D(100), fresh=True)
    seen.append(reason(state, candidate, strict, market, max_open_orders=1))
    strict = policy(DEFAULTS, max_position_size_usd=1)
    seen.append(reason(state, candidate, strict, market, max_open_orders=1))
    candidate = sell(10, 110)
    seen.append(reason(state, candidate, strict, market, max_open_orders=1))
    seen.append(reason(state, candidate, strict, market))
    strict = policy(DEFAULTS, max_position_size_usd=1, allow_short=True)
    seen.append(reason(state, candidate, strict, market))
    strict = policy(DEFAULTS, allow_short=True)
    seen.append(reason(state, candidate, strict, market))
    strict = policy(DEFAULTS, allow_short=True, max_concentration_pct=10**9)
    seen.append(reason(state, candidate, strict, market))
    strict = policy(DEFAULTS, allow_short=True, max_concentration_pct=10**9, margin_requirement_pct=0)
    seen.append(reason(state, candidate, strict, market))
    seen.append(reason(state, candidate, strict, Board()))

    assert seen == [
        "trading_halted",
        "limits_unavailable",
        "no_reference_price",
        "order_size_limit",
        "price_collar",
        "max_open_orders",
        "short_restriction",
        "position_limit",
        "concentration_limit",
        "buying_power",
        "var_data_unavailable",
        "",
    ]


@pytest.mark.parametrize("name", CHECK_NAMES)
def test_a_check_that_is_switched_off_denies_nothing_and_is_not_listed(name: str) -> None:
    state, candidate = account(10), sell(10, 110)
    market = Board(returns={BTC: None})
    strict: dict[str, Any] = {"max_order_size_usd": 1, "max_position_size_usd": 1, "max_concentration_pct": 1}
    alone = policy(DEFAULTS, enabled=(name,), **strict)
    without = policy(DEFAULTS, enabled=tuple(one for one in CHECK_NAMES if one != name), **strict)
    expected = "var_data_unavailable" if name == "var_limit" else name

    assert reason(state, candidate, alone, market) == expected
    assert reason(state, candidate, without, market) not in (expected, "")
    assert reason(state, candidate, policy(DEFAULTS, enabled=(), **strict), market) == ""
    assert name not in {control.name for control in judge(state, candidate, without, explain=True).controls}


def test_explanation_lists_every_control_with_its_numbers() -> None:
    state = account(4000, held(2, open_buy=1, buy_value=100), open_orders=1)
    verdict = judge(
        state, buy(3, 110), policy(DEFAULTS, max_concentration_pct=50), max_open_orders=9, explain=True
    )

    numbers = {control.name: (control.value, control.limit) for control in verdict.controls}
    assert verdict.approved
    assert tuple(numbers) == ORDER
    assert numbers["reference_price"] == (D(100), None)
    assert numbers["order_size_limit"] == (D(330), D(100_000))
    assert numbers["price_collar"] == (D(110), D(120))
    assert numbers["max_open_orders"] == (D(2), D(9))
    assert numbers["short_restriction"] == (D(2), D(0))
    assert numbers["position_limit"] == (D(630), D(1_000_000))  # 2 × 100 + 100 + 330
    assert numbers["concentration_limit"] == (D(630), D(2085))  # 50 % of 4,000 + 200 - 30
    assert numbers["worst_equity"] == (D(4170), D(0))
    assert numbers["buying_power"] == (D(315), D(4170))
    assert numbers["var_limit"] == (D(0), D(50_000))


def test_explanation_goes_on_after_the_first_failure() -> None:
    verdict = judge(account(), buy(10, 130), policy(DEFAULTS, max_order_size_usd=1), explain=True)

    failed = [control.name for control in verdict.controls if not control.passed]
    assert failed == ["order_size_limit", "price_collar"]
    assert verdict.reason == "order_size_limit"


def test_explanation_says_what_cannot_be_measured() -> None:
    verdict = evaluate(account(), buy(), Board({}), policy(), explain=True)

    assert verdict.reason == "no_reference_price"
    assert {control.message for control in verdict.controls if control.name == "position_limit"} == {
        "cannot be measured"
    }


class Broken(Board):
    """A market whose returns cannot be read."""

    def returns(self, symbol: str) -> None:
        raise RuntimeError("secret of the inside")


@pytest.mark.parametrize("explain", [False, True])
def test_whatever_breaks_in_a_check_denies_and_its_text_stays_inside(explain: bool) -> None:
    verdict = evaluate(account(), buy(), Broken(), policy(), explain=explain)

    assert (verdict.approved, verdict.reason) == (False, "risk_check_error")
    assert isinstance(verdict.error, RuntimeError)
    assert "secret" not in verdict.message + "".join(control.message for control in verdict.controls)
    assert isinstance(verdict.decision(buy()), Refused)


def test_arithmetic_that_would_round_denies_instead() -> None:
    state = account(D("1e100"), held(ULP))
    verdict = evaluate(state, buy(), Board(), policy())
    assert verdict.reason == "risk_check_error"


def test_approval_reserves_value_loss_and_fee_of_every_unit() -> None:
    candidate = buy(3, None)
    verdict = judge(account(), candidate, policy(worst_fee_pct="0.1"))

    decision = verdict.decision(candidate)
    assert isinstance(decision, Approved)
    assert decision.reservation == Reservation(D(3), D(101), D(1), D("0.101"))
    assert decision.terms.protection_price == D(101)
    assert decision.terms.quantity == D(3)


def test_amendment_is_judged_by_what_is_left_of_it_and_by_its_whole_size() -> None:
    rules = policy(max_position_size_usd=1000, max_order_size_shares=12)
    state = account(1_000_000, held(4))
    amended = buy(10, cumulative=4)
    assert reason(state, amended, rules) == ""
    assert reason(state, buy("10.01", cumulative=4), rules) == "position_limit"
    assert reason(account(), buy(13, cumulative=12), rules) == "order_size_limit"


def test_every_reason_is_one_of_the_contract() -> None:
    published = {
        "order_size_limit", "position_limit", "buying_power", "concentration_limit", "var_limit",
        "var_data_unavailable", "short_restriction", "no_reference_price", "max_open_orders",
        "ledger_unavailable", "risk_check_error", "risk_check_failed", "risk_timeout", "risk_error",
        "price_collar", "trading_halted", "trading_reducing", "limits_unavailable",
    }  # fmt: skip
    assert published <= set(REASONS)


def test_evaluation_changes_nothing() -> None:
    state: Account = account(1000, held(1))
    candidate: Order = buy(1)
    before = (repr(state), repr(candidate))
    judge(state, candidate)
    assert (repr(state), repr(candidate)) == before
