"""Which orders reduce, what they are exempt from, and what holds for them nevertheless."""

import pytest

from services.ledger.order import Order
from services.risk.checks import CHECK_NAMES, Quote
from tests.unit.risk.making import BTC, ULP, Board, D, account, buy, held, judge, policy, reason, sell

NOTHING_ALLOWED = policy(
    max_position_size_usd=0,
    max_concentration_pct=0,
    max_portfolio_var_usd=0,
    margin_requirement_pct=10**9,
)


@pytest.mark.parametrize(
    ("position", "candidate"),
    [
        (held(5), sell(5)),
        (held(5), sell(ULP)),
        (held(5, open_sell=2, sell_value=200), sell(3)),
        (held(5, open_buy=7, buy_value=700), sell(5)),
        (held(-5), buy(5)),
        (held(-5, open_buy=2, buy_value=200), buy(3)),
        (held(-5, open_sell=7, sell_value=700), buy(5)),
    ],
)
def test_order_that_only_reduces_passes_whatever_the_exposures_are(
    position: object, candidate: Order
) -> None:
    state = account(-1_000_000, position)  # type: ignore[arg-type]
    assert reason(state, candidate, NOTHING_ALLOWED, Board(returns={BTC: None})) == ""


@pytest.mark.parametrize(
    ("position", "candidate"),
    [
        (held(5), sell(5 + ULP)),
        (held(5, open_sell=2, sell_value=200), sell(3 + ULP)),
        (held(5), buy(ULP)),
        (held(0), sell(ULP)),
        (held(0), buy(ULP)),
        (held(-5), buy(5 + ULP)),
        (held(-5, open_buy=2, buy_value=200), buy(3 + ULP)),
        (held(-5), sell(ULP)),
    ],
)
def test_order_that_can_cross_or_grow_is_not_exempt(position: object, candidate: Order) -> None:
    state = account(1_000_000, position)  # type: ignore[arg-type]
    rules = policy(max_position_size_usd=0, allow_short=True)
    assert reason(state, candidate, rules) == "position_limit"


@pytest.mark.parametrize("candidate", [sell(5), sell(5, None), sell(5, None, stop=90), sell(5, 80, stop=90)])
@pytest.mark.parametrize("quotes", [{}, {BTC: Quote(D(95), fresh=False, usable=False)}])
def test_reducing_order_passes_without_a_mark(candidate: Order, quotes: dict[str, Quote]) -> None:
    state = account(0, held(5, last_price=98))
    assert reason(state, candidate, market=Board(quotes)) == ""


def test_reducing_order_without_a_mark_is_valued_at_the_last_one_then_at_the_last_fill() -> None:
    state = account(0, held(5, last_price=98))
    with_old_mark = judge(state, sell(5, None), market=Board({BTC: Quote(D(95), fresh=False, usable=False)}))
    without = judge(state, sell(5, None), market=Board({}))

    assert with_old_mark.unit is not None
    assert with_old_mark.unit.protection_price == D(95) * D("0.99")
    assert without.unit is not None
    assert without.unit.protection_price == D(98) * D("0.99")


def test_reducing_order_passes_although_another_symbol_has_no_mark() -> None:
    state = account(0, held(5), held(3, "ETHUSDT"))
    assert reason(state, sell(5), market=Board({BTC: 100})) == ""
    assert reason(state, buy(1), market=Board({BTC: 100})) == "no_reference_price"


def test_explanation_names_the_exempt_controls() -> None:
    verdict = judge(account(0, held(5)), sell(5), NOTHING_ALLOWED, explain=True)

    exempt = {control.name for control in verdict.controls if control.message.startswith("exempt")}
    assert exempt == {*CHECK_NAMES, "reference_price", "worst_equity"} - {"order_size_limit"}
    assert verdict.approved
    assert verdict.unit is not None


def test_size_and_open_orders_hold_for_a_reducing_order() -> None:
    state = account(0, held(5), open_orders=3)
    assert reason(state, sell(5), policy(max_order_size_usd=499)) == "order_size_limit"
    assert reason(state, sell(5), max_open_orders=3) == "max_open_orders"
