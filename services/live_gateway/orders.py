"""What the venue knows of an order, what it decides, and what an account holds there."""

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Final

from services.ledger.numbers import ZERO
from services.ledger.order import OrderState, OrderType, Side, Terms, TimeInForce

STOPS: Final = frozenset({OrderType.STOP, OrderType.STOP_LIMIT})
PRICED: Final = frozenset({OrderType.LIMIT, OrderType.STOP_LIMIT})
AT_ONCE: Final = frozenset({TimeInForce.IOC, TimeInForce.FOK})


class ReportKind(StrEnum):
    """What a report that is not a trade says (`messages.Execution.kind`)."""

    ACCEPTED = "accepted"
    CANCELED = "canceled"
    CANCEL_REJECTED = "cancel_rejected"
    REPLACED = "replaced"
    REPLACE_REJECTED = "replace_rejected"
    REJECTED = "rejected"
    EXPIRED = "expired"


class Reason(StrEnum):
    """Why the venue refused or ended something. A `cancel_rejected` has the state of the ended order
    instead.
    """

    NO_MARK = "no_mark"
    PROTECTION_PRICE = "protection_price"
    PRICE_OUT_OF_RANGE = "price_out_of_range"
    VALUE_OUT_OF_RANGE = "value_out_of_range"
    IMMEDIATE_OR_CANCEL = "immediate_or_cancel"
    FILL_OR_KILL = "fill_or_kill"
    UNKNOWN_ORDER = "unknown_order"
    UNKNOWN_SYMBOL = "unknown_symbol"
    INVALID_QUANTITY = "invalid_quantity"
    INVALID_PRICE = "invalid_price"
    ALREADY_EXECUTED = "already_executed"
    SIBLING_EXECUTED = "sibling_executed"
    """The other order of its pair executed, in whole or in part."""
    SELF_MATCH = "self_match"
    """It would have traded against an order of its own account."""
    TERMS_LOST = "terms_lost"
    """The journal was lost, and with it the order's terms: ORDERS does not hold them any more, or holds terms
    that allow less than was executed, because they had been amended."""


MALFORMED: Final = frozenset({Reason.UNKNOWN_SYMBOL, Reason.INVALID_QUANTITY, Reason.INVALID_PRICE})
"""An order refused for one of these should never have been sent; it goes to the dead letters too."""


class Liquidity(StrEnum):
    """Whether a trade took what was there or had waited for it."""

    TAKER = "taker"
    MAKER = "maker"


@dataclass(slots=True)
class WorkingOrder:
    """An order that has not ended. The engine changes it in place; nobody else does."""

    order_id: str
    account: str
    symbol: str
    side: Side
    order_type: OrderType
    time_in_force: TimeInForce
    terms: Terms
    expire_ns: int
    """When it ends, nanoseconds since the epoch; 0 = never."""
    arrival: int = 0
    """Number by which orders that become executable together take turns."""
    cumulative: Decimal = ZERO
    revision: int = 0
    """Number of the last amendment that was answered."""
    cancels: int = 0
    """Number of the last cancel that was answered."""
    triggered: bool = False
    """The mark has reached the stop price."""
    passive: bool = False
    """It has waited in the book, other than for its stop price: its trades are the maker's, at its own
    limit.
    """
    slices: int = 0
    """Trades so far under the present terms."""
    due_ns: int = 0
    """When its next trade is due; 0 = it waits for the mark, not for time."""
    working: bool = False
    sibling: str = ""
    """Id of the order of which the first execution ends this one, and which this one's ends."""
    version: int = 0
    """Number of its latest entry in the book; older entries are void. Not journaled."""

    @property
    def leaves(self) -> Decimal:
        """Quantity still to execute."""
        return self.terms.quantity - self.cumulative

    @property
    def state(self) -> OrderState:
        """NEW or PARTIALLY_FILLED."""
        return OrderState.PARTIALLY_FILLED if self.cumulative else OrderState.NEW

    @property
    def awaits_trigger(self) -> bool:
        """A stop whose price has not been reached."""
        return self.order_type in STOPS and not self.triggered


@dataclass(frozen=True, slots=True)
class SeenOrder:
    """What is kept of an order for ever: enough to refuse it and to answer for it."""

    state: OrderState
    """Of an order whose terms were lost with a journal, and which has not ended: what its reports said."""
    cumulative: Decimal = ZERO
    cancels: int = 0
    revision: int = 0


@dataclass(slots=True)
class Position:
    """Σ over an account's trades in one symbol."""

    quantity: Decimal = ZERO
    """Bought minus sold."""
    value: Decimal = ZERO
    """Σ signed quantity × price."""
    fees: Decimal = ZERO
    trades: int = 0


@dataclass(frozen=True, slots=True)
class Trade:
    """A decision: an execution. `fee` in the quote currency; `ns` since the epoch, UTC."""

    exec_id: str
    ns: int
    account: str
    order_id: str
    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal
    fee: Decimal
    liquidity: Liquidity
    revision: int
    status: OrderState
    """FILLED or PARTIALLY_FILLED."""
    cumulative: Decimal
    leaves: Decimal


@dataclass(frozen=True, slots=True)
class Report:
    """A decision that is not a trade. `status` is the order's state after it, empty for one never seen."""

    exec_id: str
    ns: int
    account: str
    order_id: str
    kind: ReportKind
    symbol: str
    revision: int
    status: str
    reason: str
    cumulative: Decimal
    leaves: Decimal


Decision = Trade | Report


@dataclass(slots=True)
class Changes:
    """What happened since the last look: everything that has to be journaled together."""

    decisions: list[Decision] = field(default_factory=list)
    touched: dict[str, WorkingOrder] = field(default_factory=dict)
    """Working orders that are new or changed."""
    removed: list[str] = field(default_factory=list)
    """Orders that were working and have ended."""
    seen: dict[str, SeenOrder] = field(default_factory=dict)
    positions: set[tuple[str, str]] = field(default_factory=set)
    """(account, symbol) of the positions that changed."""
    marks: dict[str, tuple[Decimal, int]] = field(default_factory=dict)
    """symbol → (mark, when it was received)."""
