"""An order, its life as a table of states, and what it holds reserved."""

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Final

from services.ledger.numbers import ZERO


class Side(StrEnum):
    BUY = "buy"
    SELL = "sell"


class OrderType(StrEnum):
    MARKET = "market"
    LIMIT = "limit"
    STOP = "stop"
    STOP_LIMIT = "stop_limit"


class TimeInForce(StrEnum):
    """How long an order works. TIMEOUT, the default, ends after the configured `order_timeout_sec`."""

    TIMEOUT = "timeout"
    DAY = "day"
    GTC = "gtc"
    GTD = "gtd"
    IOC = "ioc"
    FOK = "fok"


class OrderState(StrEnum):
    WAITING = "waiting"
    PENDING_NEW = "pending_new"
    NEW = "new"
    PARTIALLY_FILLED = "partially_filled"
    PENDING_CANCEL = "pending_cancel"
    PENDING_REPLACE = "pending_replace"
    FILLED = "filled"
    CANCELED = "canceled"
    REJECTED = "rejected"
    DENIED = "denied"
    EXPIRED = "expired"


TERMINAL: Final = frozenset(
    {OrderState.FILLED, OrderState.CANCELED, OrderState.REJECTED, OrderState.DENIED, OrderState.EXPIRED}
)


class OrderEvent(StrEnum):
    """What can happen to an order that exists."""

    ACCEPTED = "accepted"
    PARTIAL_FILL = "partial_fill"
    FULL_FILL = "full_fill"
    CANCEL_REQUESTED = "cancel_requested"
    CANCEL_REJECTED = "cancel_rejected"
    REPLACE_REQUESTED = "replace_requested"
    REPLACED = "replaced"
    REPLACE_REJECTED = "replace_rejected"
    CANCELED = "canceled"
    REJECTED = "rejected"
    EXPIRED = "expired"
    ABANDONED = "abandoned"
    ACTIVATED = "activated"


_S, _E = OrderState, OrderEvent

_ENDS: Final = {
    _E.CANCELED: _S.CANCELED,
    _E.REJECTED: _S.REJECTED,
    _E.EXPIRED: _S.EXPIRED,
    _E.FULL_FILL: _S.FILLED,
}

TRANSITIONS: Final[dict[tuple[OrderState, OrderEvent], OrderState]] = {
    **{(state, event): end for state in OrderState if state not in TERMINAL for event, end in _ENDS.items()},
    (_S.WAITING, _E.ACTIVATED): _S.PENDING_NEW,
    (_S.WAITING, _E.ABANDONED): _S.CANCELED,
    (_S.PENDING_NEW, _E.ACCEPTED): _S.NEW,
    (_S.PENDING_NEW, _E.PARTIAL_FILL): _S.PARTIALLY_FILLED,
    (_S.PENDING_NEW, _E.CANCEL_REQUESTED): _S.PENDING_CANCEL,
    (_S.PENDING_NEW, _E.ABANDONED): _S.CANCELED,
    (_S.NEW, _E.PARTIAL_FILL): _S.PARTIALLY_FILLED,
    (_S.NEW, _E.CANCEL_REQUESTED): _S.PENDING_CANCEL,
    (_S.NEW, _E.REPLACE_REQUESTED): _S.PENDING_REPLACE,
    (_S.PARTIALLY_FILLED, _E.PARTIAL_FILL): _S.PARTIALLY_FILLED,
    (_S.PARTIALLY_FILLED, _E.CANCEL_REQUESTED): _S.PENDING_CANCEL,
    (_S.PARTIALLY_FILLED, _E.REPLACE_REQUESTED): _S.PENDING_REPLACE,
    # An acceptance or a replacement that was on its way when the cancel was requested does not end the wait.
    (_S.PENDING_CANCEL, _E.ACCEPTED): _S.PENDING_CANCEL,
    (_S.PENDING_CANCEL, _E.PARTIAL_FILL): _S.PENDING_CANCEL,
    (_S.PENDING_CANCEL, _E.CANCEL_REQUESTED): _S.PENDING_CANCEL,
    (_S.PENDING_CANCEL, _E.CANCEL_REJECTED): _S.NEW,
    (_S.PENDING_CANCEL, _E.REPLACED): _S.PENDING_CANCEL,
    (_S.PENDING_CANCEL, _E.REPLACE_REJECTED): _S.PENDING_CANCEL,
    (_S.PENDING_REPLACE, _E.PARTIAL_FILL): _S.PENDING_REPLACE,
    (_S.PENDING_REPLACE, _E.CANCEL_REQUESTED): _S.PENDING_CANCEL,
    (_S.PENDING_REPLACE, _E.REPLACED): _S.NEW,
    (_S.PENDING_REPLACE, _E.REPLACE_REJECTED): _S.NEW,
}
"""(state, event) → state. A pair that is absent is ignored: the event repeats or comes too late.

Where the table says NEW for an order that has executed already, its state is PARTIALLY_FILLED (`next_state`).
"""


def next_state(state: OrderState, event: OrderEvent, executed: bool) -> OrderState | None:
    """The state after `event`, or None when the event has no effect in `state`."""
    after = TRANSITIONS.get((state, event))
    return OrderState.PARTIALLY_FILLED if after is OrderState.NEW and executed else after


@dataclass(frozen=True, slots=True)
class Terms:
    """What an amendment may change. `quantity` is the total; a price is None where the type has none."""

    quantity: Decimal
    price: Decimal | None
    stop_price: Decimal | None
    protection_price: Decimal | None
    """Worst price at which the venue may fill a market or stop order; None for limits."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """What an order holds in its account, for each of `quantity` - cumulative units."""

    quantity: Decimal
    unit_value: Decimal
    unit_loss: Decimal
    """Adverse loss against the mark at reservation time, ≥ 0."""
    unit_fee: Decimal

    def covering(self, other: "Reservation") -> "Reservation":
        """The reservation that is enough for either of two sets of terms."""
        return Reservation(
            max(self.quantity, other.quantity),
            max(self.unit_value, other.unit_value),
            max(self.unit_loss, other.unit_loss),
            max(self.unit_fee, other.unit_fee),
        )


NO_RESERVATION: Final = Reservation(ZERO, ZERO, ZERO, ZERO)


@dataclass(frozen=True, slots=True)
class Replacement:
    """An amendment in flight: what the order becomes if the venue agrees, and falls back to if not."""

    revision: int
    terms: Terms
    reservation: Reservation
    fallback: Reservation
    request_id: str = ""
    """Which request it is: two may ask for the same revision at once, and only one of them gets it."""
    repeats: int = 0
    """How often it was sent again by others than the worker that was asked for it."""


class GroupRole(StrEnum):
    """LEG: of a pair of which one cancels the other. ENTRY, EXIT: of a bracket."""

    LEG = "leg"
    ENTRY = "entry"
    EXIT = "exit"


@dataclass(frozen=True, slots=True)
class Group:
    """An order's place among the orders that were submitted together with it."""

    group_id: str
    """Id of the group's first order."""
    role: GroupRole
    linked: tuple[str, ...]
    """Ids of the orders that a change of this one may change too: of a leg and of an exit the other one, of
    an entry its exits."""
    alone: Reservation = NO_RESERVATION
    """What the order holds when no other one holds it along."""


@dataclass(frozen=True, slots=True)
class Order:
    """One order of one account. Times are nanoseconds since the epoch, UTC."""

    order_id: str
    account: str
    client_order_id: str
    digest: str
    """Hash of the canonical request: tells a repeated request from another one under the same client id."""
    symbol: str
    side: Side
    order_type: OrderType
    time_in_force: TimeInForce
    terms: Terms
    state: OrderState
    created_ns: int
    updated_ns: int
    expire_ns: int
    """When the venue ends the order; 0 = never."""
    revision: int = 0
    """Number of the last amendment that was requested."""
    cancels: int = 0
    """Number of the last cancel that was requested."""
    cumulative: Decimal = ZERO
    """Executed quantity."""
    executed_value: Decimal = ZERO
    """Σ quantity × price of its fills."""
    fees: Decimal = ZERO
    reservation: Reservation = NO_RESERVATION
    replacement: Replacement | None = None
    reason: str = ""
    """Why it was denied, rejected, canceled or abandoned: a short name."""
    message: str = ""
    """The same as a sentence, with the numbers."""
    exec_ids: tuple[str, ...] = ()
    """Fills already booked; a repeated one is recognised whatever its sequence."""
    unchecked: bool = False
    """Reserved without risk checks, because they are switched off."""
    group: Group | None = None

    @property
    def is_open(self) -> bool:
        return self.state not in TERMINAL

    @property
    def counts_as_open(self) -> bool:
        """Whether it is one of the account's open orders: an exit that waits for its entry is not yet."""
        return self.is_open and self.state is not OrderState.WAITING

    @property
    def leaves(self) -> Decimal:
        """Quantity still to execute: zero once the order has ended."""
        return max(ZERO, self.terms.quantity - self.cumulative) if self.is_open else ZERO

    @property
    def reserved_quantity(self) -> Decimal:
        """Units for which the account holds a reservation: leaves, or more during an amendment, or what the
        order's part of its group's reservation is."""
        return max(ZERO, self.reservation.quantity - self.cumulative) if self.is_open else ZERO
