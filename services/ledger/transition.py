"""The account's one rule book: `transition` decides what a command does and folds the resulting events.

Pure functions. Deciders turn a command into events; `evolve` folds one event into the state, and nothing else
changes state.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from services.ledger import commands as c
from services.ledger import events as e
from services.ledger.account import Account
from services.ledger.commands import Command, Effect, Outcome, ReportKind
from services.ledger.events import Event
from services.ledger.evolve import AccountMissing, event_order, evolve
from services.ledger.groups import abandon_group, following, reserve_group
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
from services.ledger.values import replace

__all__ = ["AccountMissing", "Transition", "event_order", "evolve", "named_order", "transition"]


NO_ORDERS: Final[Mapping[str, Order]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Transition:
    """A command's effect. `orders` holds the orders that changed, by id; no events means nothing changed."""

    account: Account | None
    orders: Mapping[str, Order]
    events: tuple[Event, ...]
    outcome: Outcome


def named_order(command: Command) -> str:
    """Id of the order whose record `transition` needs, or an empty string."""
    if isinstance(command, (c.ApplyReport, *c.OF_KNOWN_ORDERS)):
        return command.order_id
    if isinstance(command, (c.Reserve, c.Abandon)):
        return command.order.order_id
    return ""


def transition(
    account: Account | None,
    order: Order | None,
    command: Command,
    now_ns: int,
    others: Mapping[str, Order] = NO_ORDERS,
) -> Transition:
    """Applies `command`.

    `account` is the account's state (None: not open); `order` is the record of the order that the command
    names, or for `Reserve` and `Abandon` of the one that holds the same order id or client order id; None
    when there is none. `now_ns` is the time of the change. `others` are the stored records of the orders that
    `order` is linked with; for commands on a group, of what holds the order id or client order id of each of
    its orders, by its id. Raises `AccountMissing` for anything but `Open` on no account.
    """
    if isinstance(command, c.Open):
        if account is not None:
            return Transition(account, {}, (), Outcome(Effect.REPEATED))
        opened = e.Opened(command.incarnation, command.opening_cash)
        state, _ = evolve(None, None, opened, now_ns, command.account)
        return Transition(state, {}, (opened,), Outcome(Effect.DONE))
    if account is None:
        raise AccountMissing(command.account)
    if isinstance(command, c.ReserveGroup):
        events, outcome = reserve_group(account, others, command, now_ns)
    elif isinstance(command, c.AbandonGroup):
        events, outcome = abandon_group(account, others, command, now_ns)
    else:
        events, outcome = _DECIDERS[type(command)](account, order, command, now_ns)
    known = others if order is None else {**others, order.order_id: order}
    changed: dict[str, Order] = {}
    account = _fold(account, known, events, changed, now_ns)
    if order is not None and order.group is not None and order.order_id in changed:
        reported = command.stream_seq if isinstance(command, c.ApplyReport) else 0
        further = following(order, changed[order.order_id], others, reported, now_ns)
        account = _fold(account, known, further, changed, now_ns)
        events += further
    if outcome.order is not None:
        after = changed.get(outcome.order.order_id)
        if after is not None and after is not outcome.order:
            outcome = Outcome(outcome.effect, after, outcome.refusal, outcome.orders)
    return Transition(account, changed, events, outcome)


def _fold(
    account: Account,
    known: Mapping[str, Order],
    events: Iterable[Event],
    changed: dict[str, Order],
    now_ns: int,
) -> Account:
    """Folds `events`, each into the record of its order; `changed` takes the records as they are then."""
    for event in events:
        name = event_order(event)
        account, order = evolve(account, changed.get(name) or known.get(name), event, now_ns)
        if order is not None:
            changed[order.order_id] = order
    return account


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
    assessed = command.assess(account, order)
    if isinstance(assessed, c.Refused):
        denied = replace(
            order,
            state=OrderState.DENIED,
            reason=assessed.reason,
            message=assessed.message,
            created_ns=now_ns,
            updated_ns=now_ns,
        )
        return (e.Denied(denied),), Outcome(Effect.DONE, denied)
    reserved = replace(
        order,
        terms=assessed.terms,
        reservation=assessed.reservation,
        created_ns=now_ns,
        updated_ns=now_ns,
    )
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
    ended = e.Ended(known.order_id, OrderState.CANCELED, command.reason, command.message, 0, abandoned=True)
    return (ended,), Outcome(Effect.DONE, known)


def _request_cancel(
    account: Account, order: Order | None, command: c.RequestCancel, now_ns: int
) -> _Decision:
    if order is None:
        return (), Outcome(Effect.NOT_FOUND)
    if not order.is_open:
        return (), Outcome(Effect.NOT_OPEN, order)
    if order.state is OrderState.WAITING:
        ended = e.Ended(order.order_id, OrderState.CANCELED, command.reason, "", 0)
        return (ended,), Outcome(Effect.DONE, order)
    if order.state is OrderState.PENDING_CANCEL and not command.again:
        return (), Outcome(Effect.REPEATED, order)
    return (e.CancelRequested(order.order_id, order.cancels + 1, command.reason),), Outcome(
        Effect.DONE, order
    )


def _amend(account: Account, order: Order | None, command: c.Amend, now_ns: int) -> _Decision:
    if order is None:
        return (), Outcome(Effect.NOT_FOUND)
    if _in_flight(order, command):
        return (), Outcome(Effect.REPEATED, order)
    if order.group is not None:
        return (), Outcome(Effect.GROUPED, order)
    if order.state is OrderState.PENDING_REPLACE:
        return (), Outcome(Effect.BUSY, order)
    if order.is_open and command.revision <= order.revision:
        return (), Outcome(Effect.STALE, order)
    if next_state(order.state, OrderEvent.REPLACE_REQUESTED, executed=False) is None:
        return (), Outcome(Effect.NOT_OPEN, order)
    terms = Terms(command.quantity, command.price, command.stop_price, order.terms.protection_price)
    position = account.position(order.symbol).with_reserved(order, -order.reserved_quantity)
    without = replace(
        account,
        positions={**account.positions, order.symbol: position},
        open_orders=account.open_orders - 1,
    )
    assessed = command.assess(without, replace(order, terms=terms, reservation=NO_RESERVATION))
    if isinstance(assessed, c.Refused):
        return (), Outcome(Effect.REFUSED, order, assessed)
    replacement = Replacement(
        command.revision, assessed.terms, assessed.reservation, order.reservation, command.request_id
    )
    held = order.reservation.covering(assessed.reservation)
    return (e.ReplaceRequested(order.order_id, replacement, held),), Outcome(Effect.DONE, order)


def _in_flight(order: Order, command: c.Amend | c.AbandonAmend) -> bool:
    """Whether the amendment in flight is the one that `command` speaks of."""
    pending = order.replacement
    return (
        pending is not None
        and pending.revision == command.revision
        and pending.request_id == command.request_id
    )


def _repeat_amend(account: Account, order: Order | None, command: c.RepeatAmend, now_ns: int) -> _Decision:
    if order is None:
        return (), Outcome(Effect.NOT_FOUND)
    pending = order.replacement
    if order.state is not OrderState.PENDING_REPLACE or pending is None:
        return (), Outcome(Effect.NOT_OPEN, order)
    if pending.revision != command.revision:
        return (), Outcome(Effect.STALE, order)
    again = replace(pending, repeats=pending.repeats + 1)
    return (e.ReplaceRequested(order.order_id, again, order.reservation),), Outcome(Effect.DONE, order)


def _abandon_amend(account: Account, order: Order | None, command: c.AbandonAmend, now_ns: int) -> _Decision:
    if order is None:
        return (), Outcome(Effect.NOT_FOUND)
    if not order.is_open:
        return (), Outcome(Effect.NOT_OPEN, order)
    pending = order.replacement
    if pending is None or not _in_flight(order, command):
        if command.revision <= order.revision:
            # Another one has the revision, or this one is answered.
            return (), Outcome(Effect.REPEATED, order)
        if pending is not None:
            return (), Outcome(Effect.BUSY, order)
    elif pending.repeats:
        return (), Outcome(Effect.BUSY, order)
    taken_back = e.ReplaceRejected(order.order_id, command.revision, command.reason, 0)
    return (taken_back,), Outcome(Effect.DONE, order)


def _adjust_position(
    account: Account, order: Order | None, command: c.AdjustPosition, now_ns: int
) -> _Decision:
    if command.adjustment_id in account.adjustments:
        return (), Outcome(Effect.REPEATED)
    if command.after != account.last_adjustment:
        return (), Outcome(Effect.STALE)
    if command.quantity and command.price <= ZERO:
        raise ValueError("a correction of a quantity has a price")
    adjusted = e.PositionAdjusted(
        command.adjustment_id,
        command.symbol,
        command.quantity,
        command.price,
        command.store_gap,
        command.venue_gap,
        command.reason,
        command.requested_by,
    )
    return (adjusted,), Outcome(Effect.DONE)


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
    c.RepeatAmend: _repeat_amend,
    c.AbandonAmend: _abandon_amend,
    c.ApplyReport: _apply_report,
    c.AdjustPosition: _adjust_position,
}
