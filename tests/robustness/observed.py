"""What the platform holds of one account at rest, told by each of its stores on its own."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal

from tests.robustness.history import Copied


@dataclass(frozen=True, slots=True)
class LedgerOrder:
    """An order as ListOrders tells it."""

    order_id: str
    client_order_id: str
    symbol: str
    side: str
    state: str
    quantity: Decimal
    cumulative: Decimal
    leaves: Decimal
    group_id: str = ""


@dataclass(frozen=True, slots=True)
class LedgerPosition:
    """A position as GetPositions tells it."""

    quantity: Decimal
    open_buy: Decimal
    open_sell: Decimal


@dataclass(frozen=True, slots=True)
class StoredFill:
    """A trade in QuestDB or in stream EXECUTIONS."""

    fill_id: str
    order_id: str
    symbol: str
    side: str
    quantity: Decimal
    price: Decimal


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """A row of `orders_log`."""

    number: int
    order_id: str
    event: str


@dataclass(slots=True)
class Observed:
    """One account."""

    account: str
    orders: dict[str, LedgerOrder] = field(default_factory=dict)
    positions: dict[str, LedgerPosition] = field(default_factory=dict)
    open_orders: int = 0
    """As risk counts them."""
    venue_open: dict[str, Decimal] = field(default_factory=dict)
    """Working orders of the venue: id → leaves."""
    venue_positions: dict[str, Decimal] = field(default_factory=dict)
    stored_fills: list[StoredFill] = field(default_factory=list)
    """Table `fills`."""
    reported_fills: list[StoredFill] = field(default_factory=list)
    """Stream EXECUTIONS."""
    logged: list[LoggedEvent] = field(default_factory=list)
    """Table `orders_log`."""
    journal: Counter[str] = field(default_factory=Counter)
    """Stream ORDERS: order id → messages that bring it to the venue."""
    together: dict[str, set[str]] = field(default_factory=dict)
    """Stream ORDERS: order id → the orders that came in one message with it, an empty id for none."""
    projected: dict[str, Decimal] = field(default_factory=dict)
    """`position:{account}:{symbol}` in Valkey."""
    drop_copy: list[Copied] = field(default_factory=list)
    """A drop copy from the first event on."""
