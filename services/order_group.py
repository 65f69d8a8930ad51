"""What orders that are submitted together have to be like; risk and oms read groups alike.

Each error is INVALID_ARGUMENT and names the field of the order as the caller wrote it.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Final

from services.ledger.groups import as_bracket, as_pair
from services.ledger.order import Order, OrderType, TimeInForce
from services.runtime.errors import InvalidArgument


class GroupKind(StrEnum):
    """OCO: one of two orders cancels the other. BRACKET: an entry and one or two exits."""

    OCO = "oco"
    BRACKET = "bracket"


_SIZES: Final = {GroupKind.OCO: (2, 2), GroupKind.BRACKET: (2, 3)}
_RULES: Final = {
    GroupKind.OCO: "must be 2 orders",
    GroupKind.BRACKET: "must be an entry and 1 or 2 exits",
}
_AT_ONCE: Final = (TimeInForce.IOC, TimeInForce.FOK)

FieldPrefix = Callable[[int], str]
"""What stands before the field names of the order in that place, for example `orders[1].`"""


def check_size(kind: GroupKind, count: int, field: str) -> None:
    """Raises `InvalidArgument` unless a group of that kind has `count` orders."""
    least, most = _SIZES[kind]
    if not least <= count <= most:
        raise InvalidArgument(field, _RULES[kind])


@contextmanager
def fields_of(prefix: str) -> Iterator[None]:
    """Puts `prefix` before the field that an `InvalidArgument` names."""
    try:
        yield
    except InvalidArgument as error:
        violations = tuple((f"{prefix}{field}", text) for field, text in error.violations)
        raise InvalidArgument.many(violations) from None


def joined(kind: GroupKind, orders: Sequence[Order], prefix: FieldPrefix) -> tuple[Order, ...]:
    """The orders with their places in the group, the first's being the group's id.

    Raises `InvalidArgument` naming the first field that does not fit.
    """
    first = orders[0]
    client_ids: set[str] = set()
    for place, order in enumerate(orders):
        with fields_of(prefix(place)):
            if order.account != first.account:
                raise InvalidArgument("account", "must be the account of the first order")
            if order.symbol != first.symbol:
                raise InvalidArgument("symbol", "must be the symbol of the first order")
            if order.client_order_id and order.client_order_id in client_ids:
                raise InvalidArgument("client_order_id", "must differ from those of the other orders")
            client_ids.add(order.client_order_id)
            if kind is GroupKind.OCO or place:
                _check_waits(order)
            if kind is GroupKind.BRACKET and place:
                _check_exit(order, first)
    if len({order.order_id for order in orders}) < len(orders):
        raise InvalidArgument(
            f"{prefix(len(orders) - 1)}order_id", "must differ from those of the other orders"
        )
    return as_pair(orders[0], orders[1]) if kind is GroupKind.OCO else as_bracket(first, orders[1:])


def group_digests(kind: GroupKind, digests: Sequence[str]) -> list[str]:
    """A digest for each order that stands for the whole group and the order's place in it."""
    whole = "\x1f".join((kind.value, *digests))
    return [
        hashlib.blake2b(f"{whole}\x1f{place}".encode(), digest_size=16).hexdigest()
        for place in range(len(digests))
    ]


def _check_waits(order: Order) -> None:
    if order.order_type is OrderType.MARKET:
        raise InvalidArgument("type", "must be limit, stop or stop_limit: a market order does not wait")
    if order.time_in_force in _AT_ONCE:
        raise InvalidArgument(
            "time_in_force", f"must not be {order.time_in_force}: such an order does not wait"
        )


def _check_exit(order: Order, entry: Order) -> None:
    if order.side is entry.side:
        raise InvalidArgument("side", "must be the other side than the entry's")
    if order.terms.quantity > entry.terms.quantity:
        raise InvalidArgument("quantity", "must be at most the entry's")
