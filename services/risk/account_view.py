"""The risk of an account and its limits, as messages: the numbers that the checks compare, for display."""

from decimal import Decimal
from typing import Final

from services.ledger.account import Account
from services.ledger.numbers import ZERO, average
from services.risk.checks import (
    LIMIT_KEYS,
    AccountRisk,
    LimitsUnreadable,
    Market,
    Policy,
    VarDataUnavailable,
    appraise,
    limits_in_force,
    value_at_risk,
)
from services.risk.checks.case import NoReferencePrice, usable_price, var_lines
from services.risk.checks.exposure import is_live
from services.risk.checks.limits import Limits
from services.risk.encode import TRADING_STATES, decimal
from services.runtime.errors import Unavailable
from trade2026.risk.v1 import risk_pb2

_PERCENT: Final = Decimal("0.01")


def limits_of(account: Account, policy: Policy) -> Limits:
    """The limits in force; raises `Unavailable` when an override cannot be read."""
    try:
        return limits_in_force(policy.limits, account.limits)
    except LimitsUnreadable:
        raise Unavailable("the limits of the account cannot be read", reason="LIMITS_UNAVAILABLE") from None


def limits_response(name: str, account: Account, policy: Policy) -> risk_pb2.GetLimitsResponse:
    """Every limit by its configuration key. Raises `Unavailable`."""
    limits = limits_of(account, policy)
    response = risk_pb2.GetLimitsResponse(account=name)
    for key in LIMIT_KEYS:
        response.limits[key].value.CopyFrom(decimal(getattr(limits, key)))
        response.limits[key].overridden = key in account.limits
    return response


def risk_response(
    name: str, account: Account, market: Market, policy: Policy
) -> risk_pb2.GetAccountRiskResponse:
    """The account at the current marks. What cannot be valued is left out. Raises `Unavailable`."""
    limits = limits_of(account, policy)
    response = risk_pb2.GetAccountRiskResponse(
        account=name,
        cash=decimal(account.cash),
        open_orders=account.open_orders,
        trading_state=TRADING_STATES[account.trading_state],
    )
    marks: dict[str, Decimal] = {}
    live = [position for position in account.positions.values() if is_live(position)]
    for position in live:
        one = response.symbols.add(
            symbol=position.symbol,
            quantity=decimal(position.quantity),
            open_buy=decimal(position.open_buy),
            open_sell=decimal(position.open_sell),
        )
        try:
            marks[position.symbol] = usable_price(market.quote(position.symbol), position.symbol)
        except NoReferencePrice:
            continue
        one.mark.CopyFrom(decimal(marks[position.symbol]))
    if len(marks) == len(live):
        _add_measures(response, appraise(account, marks), market, limits, policy)
    return response


def _add_measures(
    response: risk_pb2.GetAccountRiskResponse,
    risk: AccountRisk,
    market: Market,
    limits: Limits,
    policy: Policy,
) -> None:
    equity = risk.worst_equity
    held = [one.quantity * one.mark for one in risk.symbols]
    response.equity.CopyFrom(decimal(risk.equity))
    response.worst_equity.CopyFrom(decimal(equity))
    response.gross_exposure.CopyFrom(decimal(sum(map(abs, held), ZERO)))
    response.net_exposure.CopyFrom(decimal(sum(held, ZERO)))
    margin = limits.margin_requirement_pct
    if margin:
        left = average(100 * equity, margin) - risk.total_worst
        response.buying_power.CopyFrom(decimal(max(ZERO, left)))

    def use(name: str, symbol: str, value: Decimal, limit: Decimal) -> None:
        response.utilisation.add(name=name, symbol=symbol, value=decimal(value), limit=decimal(limit))

    concentration = limits.max_concentration_pct * equity * _PERCENT
    for shown, exposure in zip(response.symbols, risk.symbols, strict=True):
        shown.worst_exposure.CopyFrom(decimal(exposure.worst))
        use("position_limit", exposure.symbol, exposure.worst, limits.max_position_size_usd)
        use("concentration_limit", exposure.symbol, exposure.worst, concentration)
    use("buying_power", "", risk.total_worst * margin * _PERCENT, equity)
    try:
        var = Decimal(value_at_risk(var_lines(risk, market), policy.var_confidence_level))
    except VarDataUnavailable:
        return
    response.var.CopyFrom(decimal(var))
    use("var_limit", "", var, limits.max_portfolio_var_usd)
