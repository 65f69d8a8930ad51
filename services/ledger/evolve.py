"""The fold: what each event does to an account and to the record of the order it names.

Pure functions. Deciders (`transition`) make events and `evolve` folds them; nothing else changes state, so
the journal of events folds to exactly the state that was stored.
"""

from collections.abc import Callable
from typing import Any, Final, TypeAlias, cast

from services.ledger import events as e
from services.ledger.account import Account, Position
from services.ledger.events import Event
from services.ledger.numbers import ZERO
from services.ledger.order import Order, OrderEvent, OrderState, Side, next_state
from services.ledger.values import changed, replace

FOREIGN_EXEC_IDS_KEPT: Final = 64
ADJUSTMENTS_KEPT: Final = 16


class AccountMissing(LookupError):
    """The command needs an account that is not open."""


def event_order(event: Event) -> str:
    """Id of the order that `event` changes, or an empty string."""
    if isinstance(event, _WHOLE_ORDERS):
        return event.order.order_id
    return cast(str, getattr(event, "order_id", ""))


def evolve(
    account: Account | None, order: Order | None, event: Event, now_ns: int, opened_account: str = ""
) -> tuple[Account, Order | None]:
    """Folds one event, at its time, into the account and the record of the order it names."""
    if isinstance(event, e.Opened):
        opened = Account(
            opened_account, event.incarnation, event.opening_cash, event.opening_cash, event_seq=1
        )
        return opened, None
    if account is None:
        raise AccountMissing(opened_account)
    changes, order = _EVOLVERS[type(event)](account, order, event, now_ns)
    changes["event_seq"] = account.event_seq + 1
    if isinstance(event, _REPORTED) and event.stream_seq > account.applied_seq:
        changes["applied_seq"] = event.stream_seq
    return changed(account, changes), order


_Changes: TypeAlias = dict[str, Any]
_Evolved: TypeAlias = tuple[_Changes, Order | None]
"""The account's fields that change, and the order as it is afterwards."""

_WHOLE_ORDERS: Final = (e.Reserved, e.Denied, e.Activated)
_REPORTED: Final = (
    e.Filled, e.Acknowledged, e.Ended, e.ReportIgnored, e.CancelRejected, e.Replaced, e.ReplaceRejected,
)  # fmt: skip
"""Events that carry the place of a venue report in its stream."""


def _holding(account: Account, position: Position) -> _Changes:
    return {"positions": {**account.positions, position.symbol: position}}


def _known(order: Order | None) -> Order:
    if order is None:
        raise ValueError("the event names an order that the fold does not have")
    return order


def _state_after(order: Order, event: OrderEvent) -> OrderState:
    return next_state(order.state, event, executed=bool(order.cumulative)) or order.state


def _registered(account: Account, order: Order | None, event: e.Registered, now_ns: int) -> _Evolved:
    return {"registered": True}, order


def _reserved(account: Account, _: Order | None, event: e.Reserved, now_ns: int) -> _Evolved:
    order = event.order
    position = account.position(order.symbol).with_reserved(order, order.reserved_quantity)
    changes = _holding(account, position)
    if order.state is not OrderState.WAITING:
        changes["open_orders"] = account.open_orders + 1
    return changes, order if order.updated_ns == now_ns else replace(order, updated_ns=now_ns)


def _denied(account: Account, _: Order | None, event: e.Denied, now_ns: int) -> _Evolved:
    order = event.order
    return {}, order if order.updated_ns == now_ns else replace(order, updated_ns=now_ns)


def _acknowledged(account: Account, order: Order | None, event: e.Acknowledged, now_ns: int) -> _Evolved:
    order = _known(order)
    return {}, replace(order, state=_state_after(order, OrderEvent.ACCEPTED), updated_ns=now_ns)


def _filled(account: Account, order: Order | None, event: e.Filled, now_ns: int) -> _Evolved:
    position = account.position(event.symbol)
    value = event.quantity * event.price
    cash = account.cash - (value if event.side == "buy" else -value) - event.fee
    if order is None or event.unknown:
        changes = _holding(account, position.with_fill(event.side, event.quantity, event.price, event.fee))
        changes["foreign_exec_ids"] = (*account.foreign_exec_ids, event.exec_id)[-FOREIGN_EXEC_IDS_KEPT:]
        changes["cash"] = cash
        return changes, None
    cumulative = order.cumulative + event.quantity
    after: _Changes = {
        "cumulative": cumulative,
        "executed_value": order.executed_value + value,
        "fees": order.fees + event.fee,
        "exec_ids": (*order.exec_ids, event.exec_id),
        "updated_ns": now_ns,
    }
    held = order.reserved_quantity
    released = min(event.quantity, held)
    ended = False
    if not event.late:
        ended = cumulative >= order.terms.quantity
        happened = OrderEvent.FULL_FILL if ended else OrderEvent.PARTIAL_FILL
        after["state"] = next_state(order.state, happened, executed=True) or order.state
    if ended:
        # A full fill releases what an amendment in flight holds beyond it.
        released = held
        after["replacement"] = None
    changes = _holding(
        account, position.with_fill(event.side, event.quantity, event.price, event.fee, order, released)
    )
    changes["cash"] = cash
    if ended and order.state is not OrderState.WAITING:
        changes["open_orders"] = account.open_orders - 1
    return changes, changed(order, after)


def _ended(account: Account, order: Order | None, event: e.Ended, now_ns: int) -> _Evolved:
    order = _known(order)
    changes = _holding(account, account.position(order.symbol).with_reserved(order, -order.reserved_quantity))
    if order.state is not OrderState.WAITING:
        changes["open_orders"] = account.open_orders - 1
    return changes, replace(
        order,
        state=event.state,
        replacement=None,
        reason=event.reason or order.reason,
        message=event.message,
        updated_ns=now_ns,
    )


def _holding_changed(account: Account, order: Order | None, event: e.HoldingChanged, now_ns: int) -> _Evolved:
    order = _known(order)
    after = replace(order, reservation=event.reservation, updated_ns=now_ns)
    return _exchanged(account, order, after), after


def _activated(account: Account, order: Order | None, event: e.Activated, now_ns: int) -> _Evolved:
    changes = _exchanged(account, _known(order), event.order)
    changes["open_orders"] = account.open_orders + 1
    return changes, event.order


def _cancel_requested(
    account: Account, order: Order | None, event: e.CancelRequested, now_ns: int
) -> _Evolved:
    order = _known(order)
    state = _state_after(order, OrderEvent.CANCEL_REQUESTED)
    return {}, replace(order, state=state, cancels=event.number, reason=event.reason, updated_ns=now_ns)


def _cancel_rejected(account: Account, order: Order | None, event: e.CancelRejected, now_ns: int) -> _Evolved:
    order = _known(order)
    state = _state_after(order, OrderEvent.CANCEL_REJECTED)
    if order.replacement is not None:
        state = OrderState.PENDING_REPLACE
    return {}, replace(order, state=state, updated_ns=now_ns)


def _replace_requested(
    account: Account, order: Order | None, event: e.ReplaceRequested, now_ns: int
) -> _Evolved:
    order = _known(order)
    after = replace(
        order,
        state=_state_after(order, OrderEvent.REPLACE_REQUESTED),
        revision=event.replacement.revision,
        replacement=event.replacement,
        reservation=event.reservation,
        updated_ns=now_ns,
    )
    return _exchanged(account, order, after), after


def _replaced(account: Account, order: Order | None, event: e.Replaced, now_ns: int) -> _Evolved:
    order = _known(order)
    pending = order.replacement
    if pending is None:
        raise ValueError("no amendment is in flight")
    full = order.cumulative >= pending.terms.quantity
    after = replace(
        order,
        terms=pending.terms,
        reservation=pending.reservation,
        replacement=None,
        state=_state_after(order, OrderEvent.FULL_FILL if full else OrderEvent.REPLACED),
        updated_ns=now_ns,
    )
    changes = _exchanged(account, order, after)
    if full:
        changes["open_orders"] = account.open_orders - 1
    return changes, after


def _replace_rejected(
    account: Account, order: Order | None, event: e.ReplaceRejected, now_ns: int
) -> _Evolved:
    order = _known(order)
    pending = order.replacement
    if pending is None:
        # The number of a request that has not come, and now never will.
        return {}, replace(order, revision=max(order.revision, event.revision), updated_ns=now_ns)
    after = replace(
        order,
        reservation=pending.fallback,
        replacement=None,
        state=_state_after(order, OrderEvent.REPLACE_REJECTED),
        updated_ns=now_ns,
    )
    return _exchanged(account, order, after), after


def _report_ignored(account: Account, order: Order | None, event: e.ReportIgnored, now_ns: int) -> _Evolved:
    return {}, None if order is None else replace(order, updated_ns=now_ns)


def _position_adjusted(
    account: Account, order: Order | None, event: e.PositionAdjusted, now_ns: int
) -> _Evolved:
    position = account.position(event.symbol)
    last_price = position.last_price
    if event.quantity:
        side = Side.BUY if event.quantity > 0 else Side.SELL
        position = position.with_fill(side, abs(event.quantity), event.price, ZERO)
    position = replace(
        position,
        last_price=last_price or position.last_price,
        store_gap=event.store_gap,
        venue_gap=event.venue_gap,
    )
    changes = _holding(account, position)
    changes["cash"] = account.cash - event.quantity * event.price
    changes["adjustments"] = (*account.adjustments, event.adjustment_id)[-ADJUSTMENTS_KEPT:]
    return changes, order


def _exchanged(account: Account, before: Order, after: Order) -> _Changes:
    """Exchanges what `before` holds for what `after` holds, which is nothing when it has ended."""
    position = account.position(before.symbol).with_reserved(before, -before.reserved_quantity)
    return _holding(account, position.with_reserved(after, after.reserved_quantity))


_EVOLVERS: Final[dict[type[Any], Callable[[Account, Order | None, Any, int], _Evolved]]] = {
    e.Registered: _registered,
    e.Reserved: _reserved,
    e.Denied: _denied,
    e.Acknowledged: _acknowledged,
    e.Filled: _filled,
    e.Ended: _ended,
    e.HoldingChanged: _holding_changed,
    e.Activated: _activated,
    e.CancelRequested: _cancel_requested,
    e.CancelRejected: _cancel_rejected,
    e.ReplaceRequested: _replace_requested,
    e.Replaced: _replaced,
    e.ReplaceRejected: _replace_rejected,
    e.ReportIgnored: _report_ignored,
    e.PositionAdjusted: _position_adjusted,
}
