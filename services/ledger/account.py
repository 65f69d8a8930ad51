"""The state of one account."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from services.ledger.numbers import ZERO, released_cost
from services.ledger.order import Order, Side
from services.ledger.values import changed


class TradingState(StrEnum):
    ACTIVE = "active"
    REDUCING = "reducing"
    HALTED = "halted"


@dataclass(frozen=True, slots=True)
class Position:
    """One symbol of one account. Quantities in units of the instrument, money in the quote currency (USD)."""

    symbol: str
    quantity: Decimal = ZERO
    """Signed: negative is short."""
    cost: Decimal = ZERO
    """Signed open cost of `quantity`; average price = cost ÷ quantity, for display only."""
    realised: Decimal = ZERO
    """Realised profit before fees."""
    fees: Decimal = ZERO
    open_buy: Decimal = ZERO
    open_sell: Decimal = ZERO
    buy_value: Decimal = ZERO
    """Σ reserved unit value × open quantity of the buy orders; `sell_value` likewise."""
    sell_value: Decimal = ZERO
    adverse_loss: Decimal = ZERO
    """Σ reserved adverse loss of both sides, ≥ 0."""
    worst_fee: Decimal = ZERO
    last_price: Decimal = ZERO
    """Price of the last fill; 0 before the first."""
    store_gap: Decimal = ZERO
    """What `quantity` exceeds Σ of the stored fills by, as an operator has acknowledged it."""
    venue_gap: Decimal = ZERO
    """Likewise, the venue's position."""

    def with_fill(
        self,
        side: Side,
        quantity: Decimal,
        price: Decimal,
        fee: Decimal,
        order: Order | None = None,
        released: Decimal = ZERO,
    ) -> "Position":
        """Books a fill and releases `released` units (≥ 0) of what `order` holds. `quantity` > 0.

        Reductions release cost pro rata; what crosses zero opens anew.
        """
        signed = quantity if side is Side.BUY else -quantity
        held = self.quantity
        closed = min(abs(held), quantity) if held and (held > 0) != (signed > 0) else ZERO
        cost, realised = self.cost, self.realised
        if closed:
            part = released_cost(cost, closed, abs(held))
            closing = -closed if signed < 0 else closed
            realised += -closing * price - part
            cost -= part
        opened = quantity - closed
        cost += (opened if signed > 0 else -opened) * price
        changes = {} if order is None or not released else self._reserved(order, -released)
        changes["quantity"] = held + signed
        changes["cost"] = cost
        changes["realised"] = realised
        changes["fees"] = self.fees + fee
        changes["last_price"] = price
        return changed(self, changes)

    def with_reserved(self, order: Order, quantity: Decimal) -> "Position":
        """Adds the reservation of `order` for `quantity` units; a negative `quantity` releases it."""
        return changed(self, self._reserved(order, quantity))

    def _reserved(self, order: Order, quantity: Decimal) -> dict[str, Decimal]:
        held = order.reservation
        value = quantity * held.unit_value
        changes = {
            "adverse_loss": self.adverse_loss + quantity * held.unit_loss,
            "worst_fee": self.worst_fee + quantity * held.unit_fee,
        }
        if order.side is Side.BUY:
            changes["open_buy"] = self.open_buy + quantity
            changes["buy_value"] = self.buy_value + value
        else:
            changes["open_sell"] = self.open_sell + quantity
            changes["sell_value"] = self.sell_value + value
        return changes


@dataclass(frozen=True, slots=True)
class Account:
    """Everything the checks need to know of an account; orders are records of their own."""

    account: str
    incarnation: str
    """Names the opening of the account, as the registry of opened accounts has it."""
    opening_cash: Decimal
    cash: Decimal
    registered: bool = False
    """The registry of opened accounts has confirmed the account; nothing is reserved before."""
    trading_state: TradingState = TradingState.ACTIVE
    limits: Mapping[str, Decimal] = field(default_factory=dict)
    """Overrides of configured limits by their configuration key."""
    open_orders: int = 0
    event_seq: int = 0
    """Number of the account's last event; events are numbered from 1 without gaps."""
    applied_seq: int = 0
    """Stream sequence of the last venue report that was applied."""
    foreign_exec_ids: tuple[str, ...] = ()
    """The latest fills without a known order, so that a repeated one is recognised."""
    adjustments: tuple[str, ...] = ()
    """Ids of the latest adjustments, so that a repeated one is recognised."""
    positions: Mapping[str, Position] = field(default_factory=dict)

    @property
    def last_adjustment(self) -> str:
        """Id of the latest adjustment; empty before the first."""
        return self.adjustments[-1] if self.adjustments else ""

    def position(self, symbol: str) -> Position:
        return self.positions.get(symbol) or Position(symbol)
