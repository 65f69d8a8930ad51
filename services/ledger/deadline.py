"""When the sweeper has to look at an order."""

from typing import Final

from services.ledger.order import GroupRole, Order, OrderState

GRACE_NS: Final = 5_000_000_000
"""How long the venue's answer may take, and how long past its expiry an order may stay unreported."""
DOUBLINGS: Final = 6
"""How often the grace is doubled for a venue that stays silent: up to 320 s."""

_AWAITING: Final = frozenset({OrderState.PENDING_NEW, OrderState.PENDING_CANCEL, OrderState.PENDING_REPLACE})


def patience_ns(cancels: int) -> int:
    """How long the answer to the last of so many cancels of an order is waited for.

    Twice as long with each further one: the journal of orders keeps them all for the venue, and a venue that
    was away has to answer each.
    """
    return GRACE_NS << min(max(0, cancels - 1), DOUBLINGS)


def due_ns(order: Order) -> int | None:
    """Nanoseconds since the epoch at which `order` is overdue; None when it waits for nothing."""
    if not order.is_open or order.state is OrderState.WAITING:
        return None
    patient_ns = order.updated_ns + patience_ns(order.cancels)
    if order.state in _AWAITING:
        return patient_ns
    if not order.expire_ns:
        return None
    expired_ns = order.expire_ns + GRACE_NS
    # One whose cancel the venue has rejected is not asked again at once, although its time is over.
    return max(expired_ns, patient_ns) if order.cancels else expired_ns


def is_sent_again(order: Order) -> bool:
    """Whether an overdue `order` is sent to the venue again instead of being canceled: it is an exit of a
    bracket, and nobody knows whether the venue has it.

    Its record does not change by that: its entry in the deadline index is put off, later than `due_ns`.
    """
    group = order.group
    return order.state is OrderState.PENDING_NEW and group is not None and group.role is GroupRole.EXIT


def sent_again_ns(order: Order, now_ns: int) -> int:
    """When an exit that is sent again now is due next: after the venue has been silent for twice as long, but
    no later than its expiry has to be reported."""
    silent_ns = now_ns - order.updated_ns
    again_ns = now_ns + min(max(silent_ns, GRACE_NS), GRACE_NS << DOUBLINGS)
    return min(again_ns, order.expire_ns + GRACE_NS) if order.expire_ns else again_ns


def has_expired(order: Order, now_ns: int) -> bool:
    """Whether the venue should have reported the order's expiry by now."""
    return 0 < order.expire_ns <= now_ns - GRACE_NS
