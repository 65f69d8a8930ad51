"""What `orders_log` tells of an order: each event of LEDGER folded into one row. Pure.

An event names its order and what changed; a row also says what the order is and how it stands afterwards. So
the fold keeps the orders that are alive, and can take one up again from its stored rows.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, TypeAlias

import msgspec
from msgspec.structs import replace

from services.ledger import events as e
from services.ledger.events import EVENT_TYPES, Event
from services.ledger.numbers import ZERO, bounded
from services.ledger.order import TERMINAL, Order, OrderEvent, OrderState, next_state
from services.questdb.schema import ORDERS_LOG
from services.questdb.writes import moment_ns

Row: TypeAlias = Sequence[Any]

_NAMES: Final[Mapping[type[Any], str]] = {kind: name for name, kind in EVENT_TYPES.items()}
_REPLACE_REQUESTED: Final = _NAMES[e.ReplaceRequested]
_WHOLE_ORDERS: Final = (e.Reserved, e.Denied, e.Activated)
_ENDS_OF_AMENDMENT: Final = frozenset({_NAMES[e.Replaced], _NAMES[e.ReplaceRejected], _NAMES[e.Ended]})
_COLUMN: Final = {column.name: index for index, column in enumerate(ORDERS_LOG.columns)}


class LoggedOrder(msgspec.Struct, frozen=True, gc=False):
    """An order as its logged events leave it."""

    order_id: str
    client_order_id: str
    symbol: str
    side: str
    type: str
    state: OrderState | None
    """None: events are missing before the first one that was seen."""
    quantity: Decimal | None
    """Total of the terms in force."""
    price: Decimal | None
    """Limit of the terms in force."""
    cumulative: Decimal
    account_seq: int
    """Number of the last event that is in it."""
    asked: tuple[Decimal | None, Decimal | None] | None = None
    """Quantity and price of an amendment that waits for its answer."""

    @property
    def ended(self) -> bool:
        """Whether it is in a final state."""
        return self.state in TERMINAL


@dataclass(frozen=True, slots=True)
class Occurrence:
    """Where and when an event stands."""

    account: str
    account_seq: int
    time_ns: int
    partition: int
    stream_seq: int
    """Sequence of its message in LEDGER."""


def order_of(event: Event) -> str:
    """Id of the order that `event` is about; empty when it is about none."""
    if isinstance(event, _WHOLE_ORDERS):
        return event.order.order_id
    return str(getattr(event, "order_id", ""))


def introduces(event: Event) -> bool:
    """Whether `event` brings the whole order along, so that nothing has to be known before it."""
    return isinstance(event, _WHOLE_ORDERS)


def logged(known: LoggedOrder | None, event: Event, at: Occurrence) -> tuple[LoggedOrder | None, Row | None]:
    """The order after `event`, and the event's row; no row when `known` has the event in it already."""
    if known is not None and at.account_seq <= known.account_seq:
        return known, None
    after = _after(known, event, at.account_seq)
    return after, _row(after, event, at)


def from_rows(rows: Iterable[Row]) -> dict[str, LoggedOrder]:
    """The orders whose rows of `orders_log` these are (every column; per order in the order of
    `account_seq`)."""
    orders: dict[str, LoggedOrder] = {}
    for row in rows:
        order_id: str = row[_COLUMN["order_id"]]
        event = row[_COLUMN["event"]]
        before = orders.get(order_id)
        terms = (row[_COLUMN["quantity"]], row[_COLUMN["price"]])
        in_force, asked = terms, None
        if before is not None:
            asked = None if event in _ENDS_OF_AMENDMENT else before.asked
            if event == _REPLACE_REQUESTED:
                in_force, asked = (before.quantity, before.price), terms
        state = OrderState(row[_COLUMN["state"]]) if row[_COLUMN["state"]] else None
        if state in TERMINAL:
            asked = None
        orders[order_id] = LoggedOrder(
            order_id,
            row[_COLUMN["client_order_id"]] or "",
            row[_COLUMN["symbol"]] or "",
            row[_COLUMN["side"]] or "",
            row[_COLUMN["type"]] or "",
            state,
            *in_force,
            row[_COLUMN["cumulative"]] or ZERO,
            row[_COLUMN["account_seq"]],
            asked,
        )
    return orders


def _after(known: LoggedOrder | None, event: Event, account_seq: int) -> LoggedOrder:
    match event:
        case e.Reserved(order=order) | e.Denied(order=order) | e.Activated(order=order):
            return _introduced(order, account_seq)
        case e.Filled() if known is None:
            # All that is known of the order is what the trade says.
            return LoggedOrder(
                event.order_id, "", event.symbol, event.side, "", None, None, None, ZERO, account_seq
            )
    before = known or LoggedOrder(order_of(event), "", "", "", "", None, None, None, ZERO, account_seq)
    return replace(_changed(before, event), account_seq=account_seq)


def _introduced(order: Order, account_seq: int) -> LoggedOrder:
    return LoggedOrder(
        order.order_id,
        order.client_order_id,
        order.symbol,
        str(order.side),
        str(order.order_type),
        order.state,
        order.terms.quantity,
        order.terms.price,
        order.cumulative,
        account_seq,
    )


def _changed(before: LoggedOrder, event: Event) -> LoggedOrder:
    """As the ledger folds the same event into its own record of the order."""
    match event:
        case e.Acknowledged():
            return _moved(before, OrderEvent.ACCEPTED)
        case e.Filled(unknown=True):
            return before  # a trade that names the order without being its own
        case e.Filled():
            order = replace(before, cumulative=before.cumulative + event.quantity)
            if event.late or order.quantity is None:
                return order
            full = order.cumulative >= order.quantity
            order = replace(order, asked=None) if full else order
            return _moved(order, OrderEvent.FULL_FILL if full else OrderEvent.PARTIAL_FILL)
        case e.Ended():
            return replace(before, state=event.state, asked=None)
        case e.CancelRequested():
            return _moved(before, OrderEvent.CANCEL_REQUESTED)
        case e.CancelRejected():
            order = _moved(before, OrderEvent.CANCEL_REJECTED)
            return order if order.asked is None else replace(order, state=OrderState.PENDING_REPLACE)
        case e.ReplaceRequested():
            terms = event.replacement.terms
            return replace(_moved(before, OrderEvent.REPLACE_REQUESTED), asked=(terms.quantity, terms.price))
        case e.Replaced():
            quantity, price = before.asked or (before.quantity, before.price)
            order = replace(before, quantity=quantity, price=price, asked=None)
            full = quantity is not None and order.cumulative >= quantity
            return _moved(order, OrderEvent.FULL_FILL if full else OrderEvent.REPLACED)
        case e.ReplaceRejected():
            return _moved(replace(before, asked=None), OrderEvent.REPLACE_REJECTED)
    return before


def _moved(order: LoggedOrder, event: OrderEvent) -> LoggedOrder:
    if order.state is None:
        return order
    after = next_state(order.state, event, executed=order.cumulative > ZERO)
    return order if after is None else replace(order, state=after)


def _row(order: LoggedOrder, event: Event, at: Occurrence) -> Row:
    """Values in the order of the columns. An amendment's request shows the terms that it asks for."""
    quantity, price = order.quantity, order.price
    if isinstance(event, e.ReplaceRequested):
        quantity, price = event.replacement.terms.quantity, event.replacement.terms.price
    return (
        moment_ns(at.time_ns),
        at.account,
        at.account_seq,
        order.order_id,
        order.client_order_id,
        _NAMES[type(event)],
        "" if order.state is None else str(order.state),
        order.symbol,
        order.side,
        order.type,
        _number(quantity),
        _number(price),
        _number(order.cumulative),
        _reason(event),
        at.partition,
        at.stream_seq,
    )


def _reason(event: Event) -> str:
    if isinstance(event, _WHOLE_ORDERS):
        reason = event.order.reason
    elif isinstance(event, e.ReportIgnored):
        reason = event.why
    else:
        reason = str(getattr(event, "reason", ""))
    return reason.replace("\x00", "")


def _number(number: Decimal | None) -> Decimal | None:
    return None if number is None else bounded(number)
