"""Accounts, orders, markets and policies in the shapes that the tests of the checks need."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from services.ledger.account import Account, Position
from services.ledger.order import Order, OrderState, OrderType, Side, Terms, TimeInForce
from services.risk.checks import CHECK_NAMES, Limits, Policy, Quote, Returns, Verdict, evaluate
from services.runtime.ids import new_order_id

D = Decimal
BTC, ETH = "BTCUSDT", "ETHUSDT"
DAY = 20_000
ULP = D("0.000000000000000001")
"""The smallest number that the order path takes."""

DEFAULTS = Limits(
    max_order_size_usd=D(100_000),
    max_order_size_shares=D(10_000),
    max_position_size_usd=D(1_000_000),
    max_concentration_pct=D("25.0"),
    max_portfolio_var_usd=D(50_000),
    margin_requirement_pct=D("50.0"),
    max_deviation_pct=D(20),
)
_ENDLESS = D(10) ** 15
ENDLESS = Limits(
    max_order_size_usd=_ENDLESS,
    max_order_size_shares=_ENDLESS,
    max_position_size_usd=_ENDLESS,
    max_concentration_pct=_ENDLESS,
    max_portfolio_var_usd=_ENDLESS,
    margin_requirement_pct=D(0),
    max_deviation_pct=_ENDLESS,
)
"""Limits that nothing reaches, so that a test looks at one."""


def policy(
    base: Limits = ENDLESS,
    *,
    enabled: tuple[str, ...] = CHECK_NAMES,
    allow_short: bool = False,
    slippage_pct: str | int = 1,
    worst_fee_pct: str | int = 0,
    confidence: str = "0.99",
    **limits: Decimal | str | int,
) -> Policy:
    """`base` with some limits replaced; no fee unless given, so that sums are round."""
    values: dict[str, Any] = {name: getattr(base, name) for name in base.__dataclass_fields__}
    values |= {name: D(value) for name, value in limits.items()}
    return Policy(
        Limits(**values), frozenset(enabled), allow_short, D(slippage_pct), D(worst_fee_pct), D(confidence)
    )


class Board:
    """A market with set marks and returns."""

    def __init__(
        self,
        marks: Mapping[str, Quote | Decimal | str | int] | None = None,
        returns: Mapping[str, Returns | None] | None = None,
    ) -> None:
        given = {BTC: 100, ETH: 10} if marks is None else marks
        self.quotes = {
            symbol: mark if isinstance(mark, Quote) else Quote(D(mark), fresh=True)
            for symbol, mark in given.items()
        }
        self.flat = Returns.of(DAY, (0.0,) * 30)
        self.daily = dict(returns or {})

    def quote(self, symbol: str) -> Quote | None:
        return self.quotes.get(symbol)

    def returns(self, symbol: str) -> Returns | None:
        return self.daily.get(symbol, self.flat)


def account(
    cash: Decimal | str | int = 1_000_000,
    *positions: Position,
    limits: Mapping[str, Decimal] | None = None,
    **more: Any,
) -> Account:
    """An open account."""
    return Account(
        "acc",
        "incarnation",
        D(cash),
        D(cash),
        registered=True,
        limits=limits or {},
        positions={position.symbol: position for position in positions},
        **more,
    )


def held(quantity: str | int | Decimal, symbol: str = BTC, **more: Any) -> Position:
    """A position; `more` are its other fields as text or numbers."""
    return Position(symbol, D(quantity), **{name: D(value) for name, value in more.items()})


def order(
    side: Side = Side.BUY,
    quantity: str | int | Decimal = 1,
    price: str | int | Decimal | None = 100,
    *,
    stop: str | int | Decimal | None = None,
    symbol: str = BTC,
    order_type: OrderType | None = None,
    cumulative: int = 0,
) -> Order:
    """An order; its type follows from the prices that are given."""
    if order_type is None:
        order_type = {
            (True, False): OrderType.LIMIT,
            (False, False): OrderType.MARKET,
            (False, True): OrderType.STOP,
            (True, True): OrderType.STOP_LIMIT,
        }[(price is not None, stop is not None)]
    terms = Terms(D(quantity), None if price is None else D(price), None if stop is None else D(stop), None)
    return Order(
        order_id=new_order_id("acc"),
        account="acc",
        client_order_id="",
        digest="digest",
        symbol=symbol,
        side=side,
        order_type=order_type,
        time_in_force=TimeInForce.GTC,
        terms=terms,
        state=OrderState.PENDING_NEW,
        created_ns=0,
        updated_ns=0,
        expire_ns=0,
        cumulative=D(cumulative),
    )


def buy(quantity: str | int | Decimal = 1, price: str | int | Decimal | None = 100, **more: Any) -> Order:
    return order(Side.BUY, quantity, price, **more)


def sell(quantity: str | int | Decimal = 1, price: str | int | Decimal | None = 100, **more: Any) -> Order:
    return order(Side.SELL, quantity, price, **more)


def judge(
    state: Account, candidate: Order, rules: Policy | None = None, market: Board | None = None, **more: Any
) -> Verdict:
    """The verdict; an unexpected exception inside a check fails the test."""
    verdict = evaluate(state, candidate, market or Board(), rules or policy(), **more)
    if verdict.error is not None:
        raise verdict.error
    return verdict


def reason(
    state: Account, candidate: Order, rules: Policy | None = None, market: Board | None = None, **more: Any
) -> str:
    """Why the order is denied; empty when it is approved. The explanation has to agree."""
    verdict = judge(state, candidate, rules, market, **more)
    explained = judge(state, candidate, rules, market, explain=True, **more)
    assert (explained.approved, explained.reason) == (verdict.approved, verdict.reason)
    assert explained.message == verdict.message
    assert verdict.approved == (not verdict.reason) == all(control.passed for control in explained.controls)
    return verdict.reason
