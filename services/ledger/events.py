"""What happened to an account. Folding the events of LEDGER in their order gives the stored state again."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final, TypeAlias

from services.ledger.numbers import ZERO
from services.ledger.order import Order, OrderState, Replacement, Reservation, Side


@dataclass(frozen=True, slots=True)
class Opened:
    incarnation: str
    opening_cash: Decimal


@dataclass(frozen=True, slots=True)
class Registered:
    """The registry of opened accounts has confirmed the account."""


@dataclass(frozen=True, slots=True)
class Reserved:
    """A new order passed its checks and holds its reservation."""

    order: Order


@dataclass(frozen=True, slots=True)
class Denied:
    """A new order failed a check, or was abandoned before its reservation came (a tombstone)."""

    order: Order
    abandoned: bool = False
    """A tombstone: no outcome of a check, so not remembered under the client order id."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    order_id: str
    stream_seq: int


@dataclass(frozen=True, slots=True)
class Filled:
    """A trade. `order_id` is empty, or names an order that is not known, when the venue traded on its own."""

    order_id: str
    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal
    fee: Decimal
    exec_id: str
    liquidity: str
    venue_ns: int
    stream_seq: int
    late: bool = False
    """The order had ended before."""
    overfill: Decimal = ZERO
    """Units beyond the order's quantity."""
    unknown: bool = False
    """The account has no such order."""


@dataclass(frozen=True, slots=True)
class Ended:
    """An order ended without (further) execution; its reservation is released."""

    order_id: str
    state: OrderState
    reason: str
    message: str
    stream_seq: int
    """0 when the end was not reported by the venue."""
    abandoned: bool = False
    """Given up by its submission: no outcome, so not remembered under the client order id."""


@dataclass(frozen=True, slots=True)
class HoldingChanged:
    """What an order of a group holds for itself and its sibling has changed."""

    order_id: str
    reservation: Reservation


@dataclass(frozen=True, slots=True)
class Activated:
    """An exit of a bracket is an order of the account from now on, and has to be sent to the venue."""

    order: Order
    """As it is now. If the exit that `group.linked` names is activated by the same commit, the two are sent
    together."""


@dataclass(frozen=True, slots=True)
class CancelRequested:
    order_id: str
    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class CancelRejected:
    order_id: str
    reason: str
    stream_seq: int


@dataclass(frozen=True, slots=True)
class ReplaceRequested:
    """New terms are asked of the venue. Comes again, with a higher `replacement.repeats`, when they are
    asked again."""

    order_id: str
    replacement: Replacement
    reservation: Reservation
    """What the order holds until the venue answers."""


@dataclass(frozen=True, slots=True)
class Replaced:
    order_id: str
    revision: int
    stream_seq: int


@dataclass(frozen=True, slots=True)
class ReplaceRejected:
    """The old terms stand."""

    order_id: str
    revision: int
    reason: str
    stream_seq: int
    """0 when the amendment was taken back before it was sent."""


@dataclass(frozen=True, slots=True)
class ReportIgnored:
    """A venue report without effect: repeated, or too late for the order. Only the sequence advances."""

    order_id: str
    kind: str
    exec_id: str
    why: str
    stream_seq: int


@dataclass(frozen=True, slots=True)
class PositionAdjusted:
    """An operator corrected a position: it and the cash moved as by a trade without a fee."""

    adjustment_id: str
    symbol: str
    quantity: Decimal
    """Signed; 0: nothing moved."""
    price: Decimal
    store_gap: Decimal
    """What the position exceeds Σ of the stored fills by, from now on taken as explained."""
    venue_gap: Decimal
    """Likewise, the venue's position."""
    reason: str
    requested_by: str


Event: TypeAlias = (
    Opened
    | Registered
    | Reserved
    | Denied
    | Acknowledged
    | Filled
    | Ended
    | HoldingChanged
    | Activated
    | CancelRequested
    | CancelRejected
    | ReplaceRequested
    | Replaced
    | ReplaceRejected
    | ReportIgnored
    | PositionAdjusted
)

EVENT_TYPES: Final[dict[str, type[Event]]] = {
    "opened": Opened,
    "registered": Registered,
    "reserved": Reserved,
    "denied": Denied,
    "acknowledged": Acknowledged,
    "filled": Filled,
    "ended": Ended,
    "holding_changed": HoldingChanged,
    "activated": Activated,
    "cancel_requested": CancelRequested,
    "cancel_rejected": CancelRejected,
    "replace_requested": ReplaceRequested,
    "replaced": Replaced,
    "replace_rejected": ReplaceRejected,
    "report_ignored": ReportIgnored,
    "position_adjusted": PositionAdjusted,
}
"""The name of each event as LEDGER carries it."""
