"""When the sweeper has to look at an order."""

from typing import Final

from services.ledger.order import Order, OrderState

GRACE_NS: Final = 5_000_000_000
"""How long the venue's answer may take, and how long past its expiry an order may stay unreported."""

_AWAITING: Final = frozenset({OrderState.PENDING_NEW, OrderState.PENDING_CANCEL, OrderState.PENDING_REPLACE})


def due_ns(order: Order) -> int | None:
    """Nanoseconds since the epoch at which `order` is overdue; None when it waits for nothing."""
    if not order.is_open or order.state is OrderState.WAITING:
        return None
    if order.state in _AWAITING:
        return order.updated_ns + GRACE_NS
    return order.expire_ns + GRACE_NS if order.expire_ns else None


def has_expired(order: Order, now_ns: int) -> bool:
    """Whether the venue should have reported the order's expiry by now."""
    return 0 < order.expire_ns <= now_ns - GRACE_NS
