"""What the venue can be asked over NATS, and what it answers: `venue.positions` and `venue.orders`.

Requests and answers are JSON; an empty request asks for everything. A request that cannot be read is
answered `{"error": "…"}`. Answers come in pages: `next_page_token`, when there is one, goes into the next
request, whose answer stands at its own, later sequence numbers.
"""

from decimal import Decimal
from typing import Annotated, Final

import msgspec

from services.ledger.order import OrderType, Side, TimeInForce
from services.messages import VERSION

POSITIONS_SUBJECT: Final = "venue.positions"
ORDERS_SUBJECT: Final = "venue.orders"
MAX_PAGE: Final = 1_000

_PageSize = Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)]


class PositionsRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`venue.positions`"""

    account: str = ""
    """Empty: all accounts."""
    page_size: _PageSize = 500
    page_token: str = ""


class VenuePosition(msgspec.Struct, omit_defaults=True, frozen=True):
    """Σ over the fills of one account in one symbol."""

    account: str
    symbol: str
    quantity: Decimal
    """Bought minus sold."""
    value: Decimal
    """Σ signed quantity × price."""
    fees: Decimal
    fills: int


class PositionsAnswer(msgspec.Struct, frozen=True):
    """The positions as they follow from the venue's fills in EXECUTIONS up to `executions_seq`."""

    venue: str
    """Identity of the venue's journal, the first part of its exec ids."""
    orders_seq: int
    """Last message of ORDERS that was decided on; its reports may come after `executions_seq`."""
    executions_seq: int
    executions_created: str
    """When the stream was created that `executions_seq` belongs to."""
    timestamp: Decimal
    positions: list[VenuePosition]
    next_page_token: str = ""
    version: int = VERSION


class OrdersRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`venue.orders`"""

    order_id: str = ""
    """One order, whatever its state; else the working orders."""
    account: str = ""
    """Empty: all accounts."""
    page_size: _PageSize = 500
    page_token: str = ""


class VenueOrder(msgspec.Struct, omit_defaults=True, frozen=True):
    """One order. Of an ended one only what is kept for ever: id, account, state, cumulative, numbers."""

    order_id: str
    account: str
    state: str
    cumulative: Decimal
    revision: int
    """Number of the last amendment that was answered."""
    cancels: int
    """Number of the last cancel that was answered."""
    symbol: str = ""
    side: Side | None = None
    type: OrderType | None = None
    time_in_force: TimeInForce | None = None
    quantity: Decimal | None = None
    price: Decimal | None = None
    stop_price: Decimal | None = None
    protection_price: Decimal | None = None
    leaves: Decimal | None = None
    expire_at: Decimal | None = None


class OrdersAnswer(msgspec.Struct, frozen=True):
    """Orders by id; the one that was asked for, or none when the venue never saw it."""

    venue: str
    orders_seq: int
    timestamp: Decimal
    orders: list[VenueOrder]
    next_page_token: str = ""
    version: int = VERSION


class ErrorAnswer(msgspec.Struct, frozen=True):
    """The request could not be read."""

    error: str
