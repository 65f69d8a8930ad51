"""From messages of stream ORDERS to what the engine is asked; whatever cannot be asked is a `BadMessage`."""

import re
from decimal import Decimal
from typing import Final

from services.ledger.order import Terms
from services.live_gateway.engine import Engine
from services.live_gateway.orders import Reason, WorkingOrder
from services.messages import BadMessage, CancelOrder, NewOrder, ReplaceOrder, decode, nanoseconds
from services.order_request import SYMBOL

Request = NewOrder | CancelOrder | ReplaceOrder

_KINDS: Final[dict[str, type[Request]]] = {"new": NewOrder, "cancel": CancelOrder, "replace": ReplaceOrder}
_ORDER_ID: Final = re.compile(r"([A-Za-z0-9_-]{1,64})-[0-9A-Z]{26}")
_FAR_FUTURE_NS: Final = 1 << 62


def read(subject: str, data: bytes) -> Request:
    """The request in a message stored under `subject` (`orders.{account}.{kind}`). Raises `BadMessage`."""
    tokens = subject.split(".")
    kind = _KINDS.get(tokens[2]) if len(tokens) == 3 else None
    if kind is None:
        raise BadMessage(f"subject {subject} is not orders.{{account}}.new, .cancel or .replace")
    request = decode(kind, data)
    account = tokens[1]
    if request.account != account:
        raise BadMessage(f"account {request.account!r} in the payload, {account!r} in the subject")
    check_order_id(request.order_id, account)
    if not isinstance(request, NewOrder):
        if request.revision < 1:
            raise BadMessage("revision counts from 1")
    else:
        if not SYMBOL.fullmatch(request.symbol):
            # The report that rejects an order repeats its symbol, and has to fit into a message itself.
            raise BadMessage("symbol is not valid")
        if request.sibling is not None:
            _check_sibling(request, request.sibling)
    return request


def order_ids(request: Request) -> tuple[str, ...]:
    """Ids of the orders that a request names."""
    if isinstance(request, NewOrder) and request.sibling is not None:
        return request.order_id, request.sibling.order_id
    return (request.order_id,)


def apply(engine: Engine, request: Request, now_ns: int) -> Reason | None:
    """Asks the engine. Returns what is wrong with a new order that is malformed, else None."""
    if isinstance(request, NewOrder):
        if request.sibling is not None:
            return engine.submit_pair(_order(request), _order(request.sibling), now_ns)
        return engine.submit(_order(request), now_ns)
    if isinstance(request, CancelOrder):
        engine.cancel(request.account, request.order_id, request.revision, now_ns)
    else:
        engine.amend(request.account, request.order_id, request.revision, _terms(request), now_ns)
    return None


def check_order_id(order_id: str, account: str) -> None:
    """Raises `BadMessage` when it is no order id of that account."""
    shape = _ORDER_ID.fullmatch(order_id)
    if shape is None:
        raise BadMessage(f"order_id {order_id!r} is not {{account}}-{{ULID}}")
    if shape[1] != account:
        raise BadMessage(f"order_id {order_id!r} belongs to another account than {account!r}")


def _check_sibling(first: NewOrder, second: NewOrder) -> None:
    check_order_id(second.order_id, first.account)
    if second.order_id == first.order_id or second.sibling is not None:
        raise BadMessage("sibling is not a second order")
    if (second.account, second.symbol) != (first.account, first.symbol):
        raise BadMessage("sibling is of another account or symbol")


def _order(new: NewOrder) -> WorkingOrder:
    return WorkingOrder(
        new.order_id,
        new.account,
        new.symbol,
        new.side,
        new.type,
        new.time_in_force,
        _terms(new),
        _expiry(new.expire_at),
    )


def _terms(request: NewOrder | ReplaceOrder) -> Terms:
    return Terms(request.quantity, request.price, request.stop_price, request.protection_price)


def _expiry(expire_at: Decimal | None) -> int:
    # A moment before the epoch has passed as surely as the epoch itself; 0 would mean never.
    return 0 if expire_at is None else min(max(1, nanoseconds(expire_at)), _FAR_FUTURE_NS)
