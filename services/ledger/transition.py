"""The account's one rule book: `transition` decides what a command does and folds the resulting events.

Pure functions. Deciders turn a command into events, `evolve` folds one event into the state, and nothing
else changes state, so the journal of events folds to exactly the state that was stored.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from services.ledger import commands as c
from services.ledger import events as e
from services.ledger.account import Account
from services.ledger.commands import Command, Effect, Outcome, ReportKind
from services.ledger.events import Event
from services.ledger.numbers import ZERO
from services.ledger.order import (
    NO_RESERVATION,
    Order,
    OrderEvent,
    OrderState,
    Replacement,
    Terms,
    next_state,
)

FOREIGN_EXEC_IDS_KEPT: Final = 64


class AccountMissing(LookupError):
    """The command needs an account that is not open."""


@dataclass(frozen=True, slots=True)
class Transition:
    """A command's effect. `orders` holds the orders that changed, by id; no events means nothing changed."""

    account: Account | None
    orders: Mapping[str, Order]
    events: tuple[Event, ...]
    outcome: Outcome


def named_order(command: Command) -> str:
    """Id of the order whose record `transition` needs, or an empty string."""
    if isinstance(command, c.Reserve | c.Abandon):
        return command.order.order_id
    if isinstance(command, c.RequestCancel | c.Amend | c.ApplyReport):
        return command.order_id
    return ""


def transition(account: Account | None, order: Order | None, command: Command, now_ns: int) -> Transition:
    """Applies `command`.

    `account` is the account's state (None: not open); `order` is the record of the order that the command
    names, or for `Reserve` and `Abandon` of the one that holds the same order id or client order id; None
    when there is none. `now_ns` is the time of the change. Raises `AccountMissing` for anything but `Open`
    on no account.
    """
    if isinstance(command, c.Open):
        if account is not None:
            return Transition(account, {}, (), Outcome(Effect.REPEATED))
        opened = e.Opened(command.incarnation, command.opening_cash)
        state, _ = evolve(None, None, opened, now_ns, command.account)
        return Transition(state, {}, (opened,), Outcome(Effect.DONE))
    if account is None:
        raise AccountMissing(command.account)
    events, outcome = _DECIDERS[type(command)](account, order, command, now_ns)
    changed: dict[str, Order] = {}
    for event in events:
        account, order = evolve(account, order, event, now_ns)
        if order is not None:
            changed[order.order_id] = order
    if outcome.order is not None:
        outcome = replace(outcome, order=changed.get(outcome.order.order_id, outcome.order))
    return Transition(account, changed, events, outcome)


_Decision = tuple[tuple[Event, ...], Outcome]


def _register(account: Account, order: Order | None, command: c.Register, now_ns: int) -> _Decision:
    if account.registered:
        return (), Outcome(Effect.REPEATED)
    return (e.Registered(),), Outcome(Effect.DONE)


def _reserve(account: Account, known: Order | None, command: c.Reserve, now_ns: int) -> _Decision:
    order = command.order
    if known is not None:
        same = known.digest == order.digest
        return (), Outcome(Effect.REPEATED if same else Effect.CONFLICT, known)
    order = replace(order, created_ns=now_ns, updated_ns=now_ns)
    assessed = command.assess(account, order)
    if isinstance(assessed, c.Refused):
        denied = replace(order, state=OrderState.DENIED, reason=assessed.reason, message=assessed.message)
        return (e.Denied(denied),), Outcome(Effect.DONE, denied)
    reserved = replace(order, terms=assessed.terms, reservation=assessed.reservation)
    return (e.Reserved(reserved),), Outcome(Effect.DONE, reserved)


def _abandon(account: Account, known: Order | None, command: c.Abandon, now_ns: int) -> _Decision:
    if known is None:
        tombstone = replace(
            command.order,
            state=OrderState.DENIED,
            reason=command.reason,
            message=command.message,
            created_ns=now_ns,
            updated_ns=now_ns,
        )
        return (e.Denied(tombstone, abandoned=True),), Outcome(Effect.DONE, tombstone)
    if known.order_id != command.order.order_id:
        same = known.digest == command.order.digest
        return (), Outcome(Effect.REPEATED if same else Effect.CONFLICT, known)
    if next_state(known.state, OrderEvent.ABANDONED, executed=False) is None:
        return (), Outcome(Effect.REPEATED, known)
    ended = e.Ended(known.order_id, OrderState.CANCELED, command.reason, command.message, 0)
    return (ended,), Outcome(Effect.DONE, known)


def _request_cancel(
    account: Account, order: Order | None, command: c.RequestCancel, now_ns: int
) -> _Decision:
    if order is None:
        return (), Outcome(Effect.NOT_FOUND)
    if not order.is_open:
        return (), Outcome(Effect.NOT_OPEN, order)
    if order.state is OrderState.PENDING_CANCEL and not command.again:
        return (), Outcome(Effect.REPEATED, order)
    return (e.CancelRequested(order.order_id, order.cancels + 1, command.reason),), Outcome(
        Effect.DONE, order
    )


def _amend(account: Account, order: Order | None, command: c.Amend, now_ns: int) -> _Decision:
    if order is None:
        return (), Outcome(Effect.NOT_FOUND)
    if command.revision <= order.revision:
        return (), Outcome(Effect.REPEATED, order)
    if order.state is OrderState.PENDING_REPLACE:
        return (), Outcome(Effect.BUSY, order)
    if next_state(order.state, OrderEvent.REPLACE_REQUESTED, executed=False) is None:
        return (), Outcome(Effect.NOT_OPEN, order)
    terms = Terms(command.quantity, command.price, command.stop_price, order.terms.protection_price)
    without = _with_reserved(account, order, -order.reserved_quantity)
    without = replace(without, open_orders=account.open_orders - 1)
    assessed = command.assess(without, replace(order, terms=terms, reservation=NO_RESERVATION))
    if isinstance(assessed, c.Refused):
        return (), Outcome(Effect.REFUSED, order, assessed)
    replacement = Replacement(command.revision, assessed.terms, assessed.reservation, order.reservation)
    held = order.reservation.covering(assessed.reservation)
    return (e.ReplaceRequested(order.order_id, replacement, held),), Outcome(Effect.DONE, order)


_REPORTED_ENDS: Final = {
    ReportKind.CANCELED: (OrderEvent.CANCELED, OrderState.CANCELED),
    ReportKind.REJECTED: (OrderEvent.REJECTED, OrderState.REJECTED),
    ReportKind.EXPIRED: (OrderEvent.EXPIRED, OrderState.EXPIRED),
}


def _apply_report(account: Account, order: Order | None, command: c.ApplyReport, now_ns: int) -> _Decision:
    if command.stream_seq <= account.applied_seq:
        return (), Outcome(Effect.REPEATED, order)
    if command.kind is ReportKind.FILL:
        return _apply_fill(account, order, command)
    if order is None:
        return _ignored(command, None, "unknown order")
    executed = order.cumulative > ZERO
    seq = command.stream_seq
    if command.kind in _REPORTED_ENDS:
        happened, end = _REPORTED_ENDS[command.kind]
        if next_state(order.state, happened, executed) is None:
            return _ignored(command, order, f"order is {order.state}")
        return (e.Ended(order.order_id, end, command.reason, "", seq),), Outcome(Effect.DONE, order)
    if command.kind in (ReportKind.REPLACED, ReportKind.REPLACE_REJECTED):
        pending = order.replacement
        if pending is None or pending.revision != command.revision:
            return _ignored(command, order, f"revision {command.revision} is not in flight")
        event: Event = (
            e.Replaced(order.order_id, command.revision, seq)
            if command.kind is ReportKind.REPLACED
            else e.ReplaceRejected(order.order_id, command.revision, command.reason, seq)
        )
        return (event,), Outcome(Effect.DONE, order)
    if command.kind is ReportKind.CANCEL_REJECTED:
        if next_state(order.state, OrderEvent.CANCEL_REJECTED, executed) is None:
            return _ignored(command, order, f"order is {order.state}")
        return (e.CancelRejected(order.order_id, command.reason, seq),), Outcome(Effect.DONE, order)
    if next_state(order.state, OrderEvent.ACCEPTED, executed) is None:
        return _ignored(command, order, f"order is {order.state}")
    return (e.Acknowledged(order.order_id, seq),), Outcome(Effect.DONE, order)


def _apply_fill(account: Account, order: Order | None, command: c.ApplyReport) -> _Decision:
    if command.side is None or command.quantity <= ZERO or command.price < ZERO:
        raise ValueError("a fill has a side, a positive quantity and a price")
    if order is not None and (order.symbol != command.symbol or order.side is not command.side):
        # The trade happened, but it is not this order's: it must not use up what the order holds.
        order = None
    # An order may have become known only after its fill was booked without it.
    booked = account.foreign_exec_ids if order is None else (*account.foreign_exec_ids, *order.exec_ids)
    if command.exec_id in booked:
        return _ignored(command, order, "execution was booked before")
    overfill = ZERO
    if order is not None:
        overfill = max(
            ZERO, order.cumulative + command.quantity - max(order.terms.quantity, order.cumulative)
        )
    filled = e.Filled(
        order_id=command.order_id,
        symbol=command.symbol,
        side=command.side,
        quantity=command.quantity,
        price=command.price,
        fee=command.fee,
        exec_id=command.exec_id,
        liquidity=command.liquidity,
        venue_ns=command.venue_ns,
        stream_seq=command.stream_seq,
        late=order is not None and not order.is_open,
        overfill=overfill,
        unknown=order is None,
    )
    return (filled,), Outcome(Effect.DONE, order)


def _ignored(command: c.ApplyReport, order: Order | None, why: str) -> _Decision:
    event = e.ReportIgnored(command.order_id, command.kind, command.exec_id, why, command.stream_seq)
    return (event,), Outcome(Effect.IGNORED, order)


_DECIDERS: Final[dict[type[Any], Callable[[Account, Order | None, Any, int], _Decision]]] = {
    c.Register: _register,
    c.Reserve: _reserve,
    c.Abandon: _abandon,
    c.RequestCancel: _request_cancel,
    c.Amend: _amend,
    c.ApplyReport: _apply_report,
}


def event_order(event: Event) -> str:
    """Id of the order that `event` changes, or an empty string."""
    if isinstance(event, e.Reserved | e.Denied):
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
    account, order = _EVOLVERS[type(event)](account, order, event)
    account = replace(
        account,
        event_seq=account.event_seq + 1,
        applied_seq=max(account.applied_seq, getattr(event, "stream_seq", 0)),
    )
    if order is not None and order.updated_ns != now_ns:
        order = replace(order, updated_ns=now_ns)
    return account, order


_Evolved = tuple[Account, Order | None]


def _with_reserved(account: Account, order: Order, quantity: Any) -> Account:
    position = account.position(order.symbol).with_reserved(order, quantity)
    return replace(account, positions={**account.positions, order.symbol: position})


def _known(order: Order | None) -> Order:
    if order is None:
        raise ValueError("the event names an order that the fold does not have")
    return order


def _evolve_registered(account: Account, order: Order | None, event: e.Registered) -> _Evolved:
    return replace(account, registered=True), order


def _evolve_reserved(account: Account, _: Order | None, event: e.Reserved) -> _Evolved:
    account = _with_reserved(account, event.order, event.order.reserved_quantity)
    return replace(account, open_orders=account.open_orders + 1), event.order


def _evolve_denied(account: Account, _: Order | None, event: e.Denied) -> _Evolved:
    return account, event.order


def _evolve_acknowledged(account: Account, order: Order | None, event: e.Acknowledged) -> _Evolved:
    return account, _in_state(_known(order), OrderEvent.ACCEPTED)


def _evolve_filled(account: Account, order: Order | None, event: e.Filled) -> _Evolved:
    position = account.position(event.symbol).with_fill(event.side, event.quantity, event.price, event.fee)
    value = event.quantity * event.price
    cash = account.cash - (value if event.side == "buy" else -value) - event.fee
    if event.unknown:
        order = None
    if order is None:
        kept = (*account.foreign_exec_ids, event.exec_id)[-FOREIGN_EXEC_IDS_KEPT:]
        account = replace(account, foreign_exec_ids=kept)
    else:
        position = position.with_reserved(order, -min(event.quantity, order.reserved_quantity))
        order = replace(
            order,
            cumulative=order.cumulative + event.quantity,
            executed_value=order.executed_value + value,
            fees=order.fees + event.fee,
            exec_ids=(*order.exec_ids, event.exec_id),
        )
    positions = {**account.positions, event.symbol: position}
    account = replace(account, cash=cash, positions=positions)
    if order is None or event.late:
        return account, order
    full = order.cumulative >= order.terms.quantity
    return _settled(account, order, OrderEvent.FULL_FILL if full else OrderEvent.PARTIAL_FILL)


def _evolve_ended(account: Account, order: Order | None, event: e.Ended) -> _Evolved:
    order = _known(order)
    account = _with_reserved(account, order, -order.reserved_quantity)
    account = replace(account, open_orders=account.open_orders - 1)
    reason = event.reason or order.reason
    ended = replace(order, state=event.state, replacement=None, reason=reason, message=event.message)
    return account, ended


def _evolve_cancel_requested(account: Account, order: Order | None, event: e.CancelRequested) -> _Evolved:
    order = _in_state(_known(order), OrderEvent.CANCEL_REQUESTED)
    return account, replace(order, cancels=event.number, reason=event.reason)


def _evolve_cancel_rejected(account: Account, order: Order | None, event: e.CancelRejected) -> _Evolved:
    order = _in_state(_known(order), OrderEvent.CANCEL_REJECTED)
    if order.replacement is not None:
        order = replace(order, state=OrderState.PENDING_REPLACE)
    return account, order


def _evolve_replace_requested(account: Account, order: Order | None, event: e.ReplaceRequested) -> _Evolved:
    order = _in_state(_known(order), OrderEvent.REPLACE_REQUESTED)
    asked = replace(order, revision=event.replacement.revision, replacement=event.replacement)
    return _holding(account, order, replace(asked, reservation=event.reservation))


def _evolve_replaced(account: Account, order: Order | None, event: e.Replaced) -> _Evolved:
    order = _known(order)
    pending = order.replacement
    if pending is None:
        raise ValueError("no amendment is in flight")
    after = replace(order, terms=pending.terms, reservation=pending.reservation, replacement=None)
    account, after = _holding(account, order, after)
    if after.cumulative >= after.terms.quantity:
        return _settled(account, after, OrderEvent.FULL_FILL)
    return account, _in_state(after, OrderEvent.REPLACED)


def _evolve_replace_rejected(account: Account, order: Order | None, event: e.ReplaceRejected) -> _Evolved:
    order = _known(order)
    pending = order.replacement
    if pending is None:
        raise ValueError("no amendment is in flight")
    account, after = _holding(account, order, replace(order, reservation=pending.fallback, replacement=None))
    return account, _in_state(after, OrderEvent.REPLACE_REJECTED)


def _evolve_report_ignored(account: Account, order: Order | None, event: e.ReportIgnored) -> _Evolved:
    return account, order


def _in_state(order: Order, event: OrderEvent) -> Order:
    after = next_state(order.state, event, executed=order.cumulative > ZERO)
    return order if after is None or after is order.state else replace(order, state=after)


def _settled(account: Account, order: Order, event: OrderEvent) -> tuple[Account, Order]:
    """Moves an executed order on; a full fill releases what is still held and closes it."""
    if event is OrderEvent.FULL_FILL:
        account = _with_reserved(account, order, -order.reserved_quantity)
        account = replace(account, open_orders=account.open_orders - 1)
        order = replace(order, replacement=None)
    return account, _in_state(order, event)


def _holding(account: Account, before: Order, after: Order) -> tuple[Account, Order]:
    """Exchanges what `before` holds for what `after` holds."""
    account = _with_reserved(account, before, -before.reserved_quantity)
    return _with_reserved(account, after, after.reserved_quantity), after


_EVOLVERS: Final[dict[type[Any], Callable[[Account, Order | None, Any], _Evolved]]] = {
    e.Registered: _evolve_registered,
    e.Reserved: _evolve_reserved,
    e.Denied: _evolve_denied,
    e.Acknowledged: _evolve_acknowledged,
    e.Filled: _evolve_filled,
    e.Ended: _evolve_ended,
    e.CancelRequested: _evolve_cancel_requested,
    e.CancelRejected: _evolve_cancel_rejected,
    e.ReplaceRequested: _evolve_replace_requested,
    e.Replaced: _evolve_replaced,
    e.ReplaceRejected: _evolve_replace_rejected,
    e.ReportIgnored: _evolve_report_ignored,
}
