"""The controls, as a table in the order of evaluation. The first that fails is the reason of the denial."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, NamedTuple, TypeAlias

from services.ledger.account import TradingState
from services.ledger.numbers import ZERO
from services.risk.checks.case import Case, LimitsUnreadable, NoReferencePrice, VarDataUnavailable
from services.risk.checks.display import rounded

_PERCENT: Final = Decimal("0.01")


class Failure(NamedTuple):
    """Why a control fails: the published reason, and a sentence with {value}, {limit} and {symbol}."""

    reason: str
    sentence: str


Finding: TypeAlias = tuple[Failure | None, Decimal | None, Decimal | None]
"""What a control found: None when it passes, what was measured, what is allowed."""


@dataclass(frozen=True, slots=True)
class ControlRule:
    """One row of the table."""

    name: str
    """Published name."""
    measure: Callable[[Case], Finding]
    about: str
    """What is compared, as a sentence with the same places."""
    switch: str = ""
    """Its name in `risk_checks.enabled`; empty: always on."""
    spares_reducing: bool = False
    """An order that only reduces the position is exempt."""


_HALTED: Final = Failure("trading_halted", "trading is halted for the account")
_REDUCING: Final = Failure("trading_reducing", "only orders that reduce a position are taken")
_UNREADABLE: Final = Failure("limits_unavailable", "the limits of the account cannot be read")
_NO_MARK: Final = Failure("no_reference_price", "there is no recent mark for {symbol}")
_NO_HELD_MARK: Final = Failure("no_reference_price", "there is no recent mark for every symbol that is held")
_UNITS: Final = Failure("order_size_limit", "quantity {value} is above max_order_size_shares {limit}")
_VALUE: Final = Failure("order_size_limit", "order value {value} USD is above max_order_size_usd {limit}")
_FAR: Final = Failure("price_collar", "price {value} is beyond {limit}, the collar around the mark")
_OPEN: Final = Failure("max_open_orders", "{value} open orders are more than {limit}")
_SHORT: Final = Failure("short_restriction", "{symbol} could reach {value}, and shorting is not allowed")
_POSITION: Final = Failure(
    "position_limit", "exposure of {value} USD in {symbol} is above max_position_size_usd {limit}"
)
_CONCENTRATION: Final = Failure(
    "concentration_limit",
    "exposure of {value} USD in {symbol} is above {limit} USD, max_concentration_pct of the worst equity",
)
_INSOLVENT: Final = Failure("buying_power", "the worst equity of {value} USD is not above 0")
_MARGIN: Final = Failure("buying_power", "margin of {value} USD is above the worst equity of {limit} USD")
_VAR: Final = Failure("var_limit", "value at risk of {value} USD is above max_portfolio_var_usd {limit}")
_NO_RETURNS: Final = Failure(
    "var_data_unavailable", "daily returns are missing for a symbol of the account, so there is no VaR"
)


def _trading_state(case: Case) -> Finding:
    state = case.account.trading_state
    if state is TradingState.ACTIVE:
        return None, None, None
    if state is TradingState.REDUCING:
        return (None if case.reducing else _REDUCING), None, None
    return _HALTED, None, None


def _readable_limits(case: Case) -> Finding:
    try:
        _ = case.limits
    except LimitsUnreadable:
        return _UNREADABLE, None, None
    return None, None, None


def _reference_price(case: Case) -> Finding:
    mark = case.mark
    if mark is None:
        return _NO_MARK, None, None
    try:
        _ = case.held_marks
    except NoReferencePrice:
        return _NO_HELD_MARK, None, None
    return None, mark, None


def _order_size(case: Case) -> Finding:
    quantity, limits = case.order.terms.quantity, case.limits
    if quantity > limits.max_order_size_shares:
        return _UNITS, quantity, limits.max_order_size_shares
    value = quantity * case.unit.value
    if value > limits.max_order_size_usd:
        return _VALUE, value, limits.max_order_size_usd
    return None, value, limits.max_order_size_usd


def _price_collar(case: Case) -> Finding:
    price, mark = case.limit_price, case.mark
    # Without a fresh mark only an order that reduces comes this far, and missing data does not stop it.
    if price is None or mark is None:
        return None, price, None
    away = mark * case.limits.max_deviation_pct * _PERCENT
    bound = mark + away if price >= mark else mark - away
    return (_FAR if abs(price - mark) > away else None), price, bound


def _max_open_orders(case: Case) -> Finding:
    count, limit = case.account.open_orders + 1, case.max_open_orders
    if not limit:
        return None, Decimal(count), None
    return (_OPEN if count > limit else None), Decimal(count), Decimal(limit)


def _short(case: Case) -> Finding:
    if case.policy.allow_short:
        return None, case.shortest, None
    return (_SHORT if case.shortest < 0 else None), case.shortest, ZERO


def _position(case: Case) -> Finding:
    worst, limit = case.own.worst, case.limits.max_position_size_usd
    return (_POSITION if worst > limit else None), worst, limit


def _concentration(case: Case) -> Finding:
    worst, allowed = case.own.worst, case.limits.max_concentration_pct * case.risk.worst_equity
    return (_CONCENTRATION if 100 * worst > allowed else None), worst, allowed * _PERCENT


def _worst_equity(case: Case) -> Finding:
    equity = case.risk.worst_equity
    return (_INSOLVENT if equity <= 0 else None), equity, ZERO


def _buying_power(case: Case) -> Finding:
    risk = case.risk
    margin = risk.total_worst * case.limits.margin_requirement_pct
    return (_MARGIN if margin > 100 * risk.worst_equity else None), margin * _PERCENT, risk.worst_equity


def _value_at_risk(case: Case) -> Finding:
    limit = case.limits.max_portfolio_var_usd
    try:
        if not case.explain and case.value_at_risk_below(limit):
            return None, None, limit
        var = Decimal(case.value_at_risk)
    except VarDataUnavailable:
        return _NO_RETURNS, None, limit
    return (_VAR if var > limit else None), rounded(var), limit


CONTROLS: Final = (
    ControlRule("trading_state", _trading_state, "trading is open for the order"),
    ControlRule("readable_limits", _readable_limits, "the limits of the account can be read"),
    ControlRule(
        "reference_price",
        _reference_price,
        "a recent mark for {symbol} and for every symbol that is held",
        spares_reducing=True,
    ),
    ControlRule(
        "order_size_limit",
        _order_size,
        "order value {value} USD against max_order_size_usd {limit}, quantity against max_order_size_shares",
        switch="order_size_limit",
    ),
    ControlRule("price_collar", _price_collar, "price {value} against {limit}, the collar around the mark"),
    ControlRule("max_open_orders", _max_open_orders, "{value} open orders against {limit}"),
    ControlRule(
        "short_restriction",
        _short,
        "smallest position {value} of {symbol} against {limit}",
        switch="short_restriction",
        spares_reducing=True,
    ),
    ControlRule(
        "position_limit",
        _position,
        "worst exposure {value} USD in {symbol} against max_position_size_usd {limit}",
        switch="position_limit",
        spares_reducing=True,
    ),
    ControlRule(
        "concentration_limit",
        _concentration,
        "worst exposure {value} USD in {symbol} against {limit} USD, a part of the worst equity",
        switch="concentration_limit",
        spares_reducing=True,
    ),
    ControlRule(
        "worst_equity",
        _worst_equity,
        "worst equity {value} USD has to be above {limit}",
        spares_reducing=True,
    ),
    ControlRule(
        "buying_power",
        _buying_power,
        "margin {value} USD of all worst exposures against the worst equity {limit} USD",
        switch="buying_power",
        spares_reducing=True,
    ),
    ControlRule(
        "var_limit",
        _value_at_risk,
        "value at risk {value} USD against max_portfolio_var_usd {limit}",
        switch="var_limit",
        spares_reducing=True,
    ),
)
