"""What can be asked of an account, and what each request is answered.

Every command carries an id by which `transition` recognises that it was applied already (an order id, a
revision, a cancel's number, a report's stream sequence), so running one again is harmless.
"""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Final, TypeAlias

from services.ledger.account import Account
from services.ledger.order import Order, OrderState, Reservation, Side, Terms


@dataclass(frozen=True, slots=True)
class Approved:
    """The checks passed: what to hold, and the terms that travel to the venue."""

    reservation: Reservation
    terms: Terms


@dataclass(frozen=True, slots=True)
class Refused:
    """A check failed. `reason` is its published name, `message` a sentence with the numbers."""

    reason: str
    message: str


Assess: TypeAlias = Callable[[Account, Order], Approved | Refused]
"""The checks as a pure function of the account *without* the order, and the order (its times are not set)."""


@dataclass(frozen=True, slots=True)
class Open:
    account: str
    incarnation: str
    opening_cash: Decimal


@dataclass(frozen=True, slots=True)
class Register:
    account: str


@dataclass(frozen=True, slots=True)
class Reserve:
    """Checks a new order and holds its reservation, in one step.

    `order` is pending_new and holds nothing yet.
    """

    order: Order
    assess: Assess

    @property
    def account(self) -> str:
        return self.order.account


@dataclass(frozen=True, slots=True)
class Abandon:
    """Gives up an order of which no outcome was seen: released, or a tombstone that a late reserve meets.

    `order` is the order as it would have been reserved.
    """

    order: Order
    reason: str
    message: str

    @property
    def account(self) -> str:
        return self.order.account


AssessGroup: TypeAlias = Callable[[Account, tuple[Order, ...]], tuple[Approved, ...] | Refused]
"""`Assess` for orders that are submitted together: one approval an order, or one refusal for all."""


@dataclass(frozen=True, slots=True)
class ReserveGroup:
    """Checks the orders of a group and holds what they need together, in one step: all of them or none.

    Each is pending_new, holds nothing yet and has its place in the group; the first is of a pair or the entry
    of a bracket. The digest of each stands for the whole group.
    """

    orders: tuple[Order, ...]
    assess: AssessGroup

    @property
    def account(self) -> str:
        return self.orders[0].account


@dataclass(frozen=True, slots=True)
class AbandonGroup:
    """`Abandon` for all orders of a group."""

    orders: tuple[Order, ...]
    reason: str
    message: str

    @property
    def account(self) -> str:
        return self.orders[0].account


@dataclass(frozen=True, slots=True)
class RequestCancel:
    """Asks for the end of an order. An exit that waits for its entry ends at once: no venue knows it."""

    account: str
    order_id: str
    reason: str
    again: bool = False
    """Number a further request although one is on its way: the first may have been lost (sweeper)."""


@dataclass(frozen=True, slots=True)
class Amend:
    """Asks for new terms. Until the venue answers, the order holds enough for both old and new ones.

    `terms` of the candidate order given to `assess` are the new ones.
    """

    account: str
    order_id: str
    revision: int
    quantity: Decimal
    price: Decimal | None
    stop_price: Decimal | None
    assess: Assess
    request_id: str = ""
    """Tells one request for a revision from another one for the same."""


@dataclass(frozen=True, slots=True)
class RepeatAmend:
    """Notes that an amendment in flight is sent to the venue again (sweeper): it may never have been sent.

    From then on nobody can take it back, because nobody else knows whether the venue has it.
    """

    account: str
    order_id: str
    revision: int


@dataclass(frozen=True, slots=True)
class AbandonAmend:
    """Takes back an amendment that was certainly not sent, or uses its number up before it comes.

    The old terms stand; an `Amend` of that request that lands later finds its revision used.
    """

    account: str
    order_id: str
    revision: int
    request_id: str
    reason: str


class ReportKind(StrEnum):
    ACCEPTED = "accepted"
    FILL = "fill"
    CANCELED = "canceled"
    CANCEL_REJECTED = "cancel_rejected"
    REPLACED = "replaced"
    REPLACE_REJECTED = "replace_rejected"
    REJECTED = "rejected"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class ApplyReport:
    """One report of the venue, at its place in the stream. Quantity, price and fee belong to fills."""

    account: str
    stream_seq: int
    kind: ReportKind
    order_id: str
    exec_id: str
    revision: int
    reason: str
    venue_ns: int
    symbol: str
    side: Side | None
    quantity: Decimal
    price: Decimal
    fee: Decimal
    liquidity: str


@dataclass(frozen=True, slots=True)
class AdjustPosition:
    """An operator's correction of a position, after reconciliation has found a difference.

    Fills move all records alike and leave the difference as it was found; another correction does not. So
    this one is booked only if none came in between.
    """

    account: str
    adjustment_id: str
    after: str
    """`Account.last_adjustment` when the difference was found."""
    symbol: str
    quantity: Decimal
    """Signed; 0 corrects nothing and acknowledges the gaps."""
    price: Decimal
    """What a unit costs or brings; without meaning when `quantity` is 0."""
    store_gap: Decimal
    venue_gap: Decimal
    reason: str
    requested_by: str


Command: TypeAlias = (
    Open
    | Register
    | Reserve
    | Abandon
    | ReserveGroup
    | AbandonGroup
    | RequestCancel
    | Amend
    | RepeatAmend
    | AbandonAmend
    | ApplyReport
    | AdjustPosition
)
OF_KNOWN_ORDERS: Final = (RequestCancel, Amend, RepeatAmend, AbandonAmend)
"""Commands that ask something of an order that exists; without it they do nothing."""


class Effect(StrEnum):
    """What a command did."""

    DONE = "done"
    REPEATED = "repeated"
    """It was applied before; the outcome is the original one."""
    CONFLICT = "conflict"
    """The client order id belongs to an order with another payload."""
    NOT_FOUND = "not_found"
    NOT_OPEN = "not_open"
    """The order has ended, or is not where the command could apply; `order` tells its state."""
    BUSY = "busy"
    """An amendment is in flight."""
    STALE = "stale"
    """The revision was used already, by an amendment that is answered or was taken back; or the account was
    adjusted after the difference was found that an adjustment is to settle."""
    GROUPED = "grouped"
    """Orders of a group are not amended."""
    REFUSED = "refused"
    """An amendment failed a check; the old terms stand."""
    IGNORED = "ignored"
    """A report without effect on the order."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to a command, with the order as it stands after it (None for commands on the account)."""

    effect: Effect
    order: Order | None = None
    refusal: Refused | None = None
    orders: tuple[Order, ...] = ()
    """Every order of the group that was reserved, denied or buried by the command, or had been before."""

    @property
    def state(self) -> OrderState | None:
        return self.order.state if self.order else None
