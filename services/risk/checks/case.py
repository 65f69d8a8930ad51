"""One order against one account: everything that the controls measure, computed once and only when asked."""

from decimal import Decimal
from typing import Final

from services.ledger.account import Account, Position
from services.ledger.numbers import ZERO
from services.ledger.order import OrderType, Side
from services.risk.checks.candidate import Candidate
from services.risk.checks.exposure import FLAT, AccountRisk, SymbolExposure, appraise, expose, is_live
from services.risk.checks.limits import Limits, LimitsUnreadable, Policy, limits_in_force
from services.risk.checks.market import Market, Quote
from services.risk.checks.valuation import UnitValuation, value_unit
from services.risk.checks.value_at_risk import Line, VarDataUnavailable, loss_bound, value_at_risk

_LIMIT_TYPES: Final = (OrderType.LIMIT, OrderType.STOP_LIMIT)


class NoReferencePrice(Exception):
    """A symbol cannot be valued; the message names it."""


class Case:
    """The order is not part of `account`; an amendment's account is the one without the old terms.

    `mark` is the symbol's mark when it is fresh, `limit_price` the order's when its type has one; both may be
    None. The properties are computed at their first use.
    """

    __slots__ = (
        "_held_marks",
        "_limits",
        "_own",
        "_reference",
        "_risk",
        "_unit",
        "account",
        "explain",
        "limit_price",
        "mark",
        "market",
        "max_open_orders",
        "open_quantity",
        "order",
        "policy",
        "position",
        "quote",
        "reducing",
    )

    def __init__(
        self,
        account: Account,
        order: Candidate,
        market: Market,
        policy: Policy,
        max_open_orders: int,
        explain: bool,
    ) -> None:
        self.account = account
        self.order = order
        self.market = market
        self.policy = policy
        self.max_open_orders = max_open_orders
        self.explain = explain
        leaves = order.terms.quantity - order.cumulative
        self.open_quantity = leaves if leaves > ZERO else ZERO
        self.position = account.positions.get(order.symbol, FLAT)
        self.quote = quote = market.quote(order.symbol)
        self.mark = quote.price if quote is not None and quote.fresh else None
        self.limit_price = order.terms.price if order.order_type in _LIMIT_TYPES else None
        self.reducing = _reduces(self.position, order.side, self.open_quantity)
        self._held_marks: dict[str, Decimal] | None = None
        self._limits: Limits | None = None if account.limits else policy.limits
        self._reference: Decimal | None = None
        self._unit: UnitValuation | None = None
        self._own: SymbolExposure | None = None
        self._risk: AccountRisk | None = None

    @property
    def limits(self) -> Limits:
        """The limits in force; raises `LimitsUnreadable`."""
        if self._limits is None:
            self._limits = limits_in_force(self.policy.limits, self.account.limits)
        return self._limits

    @property
    def unit(self) -> UnitValuation:
        """Valuation of one unit of the order; raises `NoReferencePrice`."""
        if self._unit is None:
            order, policy = self.order, self.policy
            self._unit = value_unit(
                order.side,
                order.order_type,
                order.terms,
                self._valued_at(),
                policy.slippage_pct,
                policy.worst_fee_pct,
            )
        return self._unit

    @property
    def own(self) -> SymbolExposure:
        """The exposure of the order's symbol, the order included; raises `NoReferencePrice`."""
        if self._own is None:
            held, quantity = self.position, self.open_quantity
            buy, buy_value, sell, sell_value = held.open_buy, held.buy_value, held.open_sell, held.sell_value
            value = quantity * self.unit.value
            if self.order.side is Side.BUY:
                buy, buy_value = buy + quantity, buy_value + value
            else:
                sell, sell_value = sell + quantity, sell_value + value
            symbol, mark = self.order.symbol, self._valued_at()
            self._own = expose(symbol, mark, held.quantity, buy, buy_value, sell, sell_value)
        return self._own

    @property
    def risk(self) -> AccountRisk:
        """The account with the order in it; raises `NoReferencePrice`."""
        if self._risk is None:
            reserved = self.open_quantity * (self.unit.loss + self.unit.fee)
            self._risk = appraise(self.account, self.held_marks, self.own, reserved)
        return self._risk

    @property
    def shortest(self) -> Decimal:
        """K of the order's symbol, for which no mark is needed."""
        position = self.position
        sold = self.open_quantity if self.order.side is Side.SELL else ZERO
        return position.quantity - position.open_sell - sold

    @property
    def held_marks(self) -> dict[str, Decimal]:
        """Marks of the other live symbols, each within the longer age; raises `NoReferencePrice`."""
        if self._held_marks is None:
            marks = {}
            symbol = self.order.symbol
            for other, position in self.account.positions.items():
                if other != symbol and is_live(position):
                    marks[other] = usable_price(self.market.quote(other), other)
            self._held_marks = marks
        return self._held_marks

    @property
    def value_at_risk(self) -> float:
        """VaR with the order in it; raises `VarDataUnavailable` or `NoReferencePrice`."""
        return value_at_risk(self._var_lines, self.policy.var_confidence_level)

    def value_at_risk_below(self, limit: Decimal) -> bool:
        """Whether VaR is certain to be ≤ `limit`, from a bound that is quick; raises as VaR does."""
        # The bound has room for the rounding of the limit.
        return loss_bound(self._var_lines) <= float(limit)

    @property
    def _var_lines(self) -> list[Line]:
        return var_lines(self.risk, self.market)

    def _valued_at(self) -> Decimal:
        """The price that stands for the mark m in every formula.

        That is the fresh mark. An order that reduces is taken without one, and valued at the next best price:
        the last mark, the last fill, its own price.
        """
        if self._reference is None:
            price = self.mark
            if price is None and self.reducing:
                terms = self.order.terms
                price = (
                    (self.quote.price if self.quote is not None else None)
                    or self.position.last_price
                    or terms.price
                    or terms.stop_price
                )
            if not price:
                raise NoReferencePrice(self.order.symbol)
            self._reference = price
        return self._reference


def usable_price(quote: Quote | None, symbol: str) -> Decimal:
    """The price to value a position by; raises `NoReferencePrice`."""
    if quote is None or not quote.usable:
        raise NoReferencePrice(symbol)
    return quote.price


def var_lines(risk: AccountRisk, market: Market) -> list[Line]:
    """What the VaR of an appraised account is computed from; raises `VarDataUnavailable`."""
    lines = []
    for exposure in risk.symbols:
        returns = market.returns(exposure.symbol)
        if returns is None:
            raise VarDataUnavailable(exposure.symbol)
        longest, shortest, mark = exposure.longest, exposure.shortest, exposure.mark
        most = float(longest * mark)
        lines.append((most, most if shortest is longest else float(shortest * mark), returns))
    return lines


def _reduces(position: Position, side: Side, quantity: Decimal) -> bool:
    """A sell with 0 ≤ K < q, all open sells included; a buy with q < L ≤ 0, all open buys included."""
    held = position.quantity
    if side is Side.SELL:
        return ZERO <= held - position.open_sell - quantity < held
    return held < held + position.open_buy + quantity <= ZERO


__all__ = [
    "Case",
    "LimitsUnreadable",
    "NoReferencePrice",
    "VarDataUnavailable",
    "usable_price",
    "var_lines",
]
