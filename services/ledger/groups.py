"""Orders that were submitted together: what they hold, and what a change of one brings about for the others.

A *pair* is two orders of which one cancels the other; the venue sees to that, in one step with the trade. So
a pair of one side can execute no more than the larger of the two, and holds no more: one of them holds enough
for either, the other nothing, until one of them ends. The first execution of one means that the other never
executes: it holds nothing from then on, although its end is reported a moment later.

A *bracket* is an entry with one or two exits, which are a pair of their own. Exits wait in the ledger; they
hold what the entry has executed from the commit that books the execution, and are activated by the one that
books the entry's end, for what it executed. An entry that ends without execution takes its exits with it.

Pure functions, a part of `transition`.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final, TypeAlias

from services.ledger import commands as c
from services.ledger import events as e
from services.ledger.account import Account
from services.ledger.commands import Effect, Outcome
from services.ledger.events import Event
from services.ledger.order import (
    NO_RESERVATION,
    Group,
    GroupRole,
    Order,
    OrderEvent,
    OrderState,
    Reservation,
    TimeInForce,
    next_state,
)
from services.ledger.values import replace

ENTRY_UNFILLED: Final = "entry_unfilled"
"""Reason of exits whose entry ended without execution."""

_DAY_NS: Final = 86_400_000_000_000

Decision: TypeAlias = tuple[tuple[Event, ...], Outcome]


def as_pair(first: Order, second: Order) -> tuple[Order, ...]:
    """Two orders of one account and symbol, of which one cancels the other."""
    group_id = first.order_id
    return (
        replace(first, group=Group(group_id, GroupRole.LEG, (second.order_id,))),
        replace(second, group=Group(group_id, GroupRole.LEG, (group_id,))),
    )


def as_bracket(entry: Order, exits: Sequence[Order]) -> tuple[Order, ...]:
    """An entry with its exits, which are of the other side."""
    group_id, names = entry.order_id, tuple(order.order_id for order in exits)
    return (
        replace(entry, group=Group(group_id, GroupRole.ENTRY, names)),
        *(
            replace(
                order,
                group=Group(
                    group_id, GroupRole.EXIT, tuple(name for name in names if name != order.order_id)
                ),
            )
            for order in exits
        ),
    )


def reserve_group(
    account: Account, known: Mapping[str, Order], command: c.ReserveGroup, now_ns: int
) -> Decision:
    """All orders of a group or none. `known`: what holds the order id or client order id of each, by its id.

    The digest of each order stands for the whole group, so that one that is known tells of all.
    """
    for order in command.orders:
        held = known.get(order.order_id)
        if held is not None:
            same = held.digest == order.digest
            own = _own(known, command.orders)
            return (), Outcome(Effect.REPEATED if same else Effect.CONFLICT, held, orders=own)
    assessed = command.assess(account, command.orders)
    if isinstance(assessed, c.Refused):
        denied = tuple(_denied(order, assessed.reason, assessed.message, now_ns) for order in command.orders)
        return tuple(e.Denied(order) for order in denied), Outcome(Effect.DONE, denied[0], orders=denied)
    reserved = _reserved(command.orders, assessed, now_ns)
    return tuple(e.Reserved(order) for order in reserved), Outcome(Effect.DONE, reserved[0], orders=reserved)


def abandon_group(
    account: Account, known: Mapping[str, Order], command: c.AbandonGroup, now_ns: int
) -> Decision:
    """Gives up a group of which no outcome was seen; `known` as for `reserve_group`."""
    mine = _own(known, command.orders)
    if mine:
        given_up = [o for o in mine if next_state(o.state, OrderEvent.ABANDONED, executed=False) is not None]
        events = tuple(
            e.Ended(o.order_id, OrderState.CANCELED, command.reason, command.message, 0, abandoned=True)
            for o in given_up
        )
        # One that is still open after this was not for its submitter to give up.
        told = next((o for o in mine if o.is_open and o not in given_up), mine[0])
        return events, Outcome(Effect.DONE if events else Effect.REPEATED, told)
    for asked in command.orders:
        held = known.get(asked.order_id)
        if held is not None:
            return (), Outcome(Effect.REPEATED if held.digest == asked.digest else Effect.CONFLICT, held)
    tombstones = tuple(_denied(order, command.reason, command.message, now_ns) for order in command.orders)
    return tuple(e.Denied(order, abandoned=True) for order in tombstones), Outcome(
        Effect.DONE, tombstones[0], orders=tombstones
    )


def _own(known: Mapping[str, Order], asked: Sequence[Order]) -> tuple[Order, ...]:
    """The records of the orders themselves, not of others under their client order ids."""
    return tuple(
        held
        for order in asked
        if (held := known.get(order.order_id)) is not None and held.order_id == order.order_id
    )


def following(
    before: Order, after: Order, linked: Mapping[str, Order], stream_seq: int, now_ns: int
) -> tuple[Event, ...]:
    """What the change of an order of a group from `before` to `after` brings about.

    `linked` has the records, as they stand, of the orders that it is linked with, as far as they are stored.
    `stream_seq` is the place of the report that brought the change, 0 when none did.
    """
    group = _group(after)
    if not before.is_open:
        return ()
    others = [order for name in group.linked if (order := linked.get(name)) is not None and order.is_open]
    if group.role is GroupRole.ENTRY:
        waiting = [order for order in others if order.state is OrderState.WAITING]
        return _after_entry(before, after, waiting, stream_seq, now_ns) if waiting else ()
    return _after_one_of_pair(before, after, others[0] if others else None)


def _after_one_of_pair(before: Order, after: Order, sibling: Order | None) -> tuple[Event, ...]:
    alone = _group(after).alone
    if after.cumulative:
        if before.cumulative:
            return ()
        events: list[Event] = []
        if sibling is not None and not sibling.cumulative and sibling.reservation != NO_RESERVATION:
            events.append(e.HoldingChanged(sibling.order_id, NO_RESERVATION))
        if after.is_open and after.reservation != alone:
            events.append(e.HoldingChanged(after.order_id, alone))
        return tuple(events)
    if after.is_open or sibling is None or sibling.cumulative:
        return ()
    # An exit that waits takes over no more than the pair held, which is what the entry has executed.
    held = max(before.reservation.quantity, sibling.reservation.quantity)
    taken_over = _at_most(_group(sibling).alone, held)
    return () if taken_over == sibling.reservation else (e.HoldingChanged(sibling.order_id, taken_over),)


def _after_entry(
    before: Order, after: Order, waiting: Sequence[Order], stream_seq: int, now_ns: int
) -> tuple[Event, ...]:
    executed = after.cumulative
    if after.is_open:
        if executed == before.cumulative:
            return ()
        alone = [_at_most(_group(order).alone, executed) for order in waiting]
        return tuple(
            e.HoldingChanged(order.order_id, held)
            for order, held in zip(waiting, _shared(waiting, alone), strict=True)
            if held != order.reservation
        )
    if not executed:
        message = f"the entry {after.order_id} ended without execution"
        return tuple(
            e.Ended(order.order_id, OrderState.CANCELED, ENTRY_UNFILLED, message, stream_seq)
            for order in waiting
        )
    return tuple(e.Activated(order) for order in _activated(waiting, executed, now_ns))


def _activated(waiting: Sequence[Order], executed: Decimal, now_ns: int) -> list[Order]:
    """The exits as they go to the venue: for no more than was executed, their time running from now on."""
    alone = [_at_most(_group(order).alone, executed) for order in waiting]
    return [
        replace(
            order,
            state=next_state(order.state, OrderEvent.ACTIVATED, executed=False),
            terms=replace(order.terms, quantity=own.quantity),
            reservation=held,
            group=replace(_group(order), alone=own),
            expire_ns=_expiry(order, now_ns),
            updated_ns=now_ns,
        )
        for order, own, held in zip(waiting, alone, _shared(waiting, alone), strict=True)
    ]


def _expiry(order: Order, now_ns: int) -> int:
    if order.time_in_force is TimeInForce.TIMEOUT:
        return now_ns + order.expire_ns - order.created_ns
    if order.time_in_force is TimeInForce.DAY:
        return (now_ns // _DAY_NS + 1) * _DAY_NS
    return order.expire_ns


def _reserved(orders: Sequence[Order], assessed: Sequence[c.Approved], now_ns: int) -> tuple[Order, ...]:
    alone = [approved.reservation for approved in assessed]
    paired = _group(orders[0]).role is GroupRole.LEG
    held = _shared(orders, alone) if paired else [alone[0], *(NO_RESERVATION for _ in orders[1:])]
    return tuple(
        replace(
            order,
            terms=approved.terms,
            state=OrderState.WAITING if _group(order).role is GroupRole.EXIT else order.state,
            reservation=holding,
            group=replace(_group(order), alone=approved.reservation),
            created_ns=now_ns,
            updated_ns=now_ns,
        )
        for order, approved, holding in zip(orders, assessed, held, strict=True)
    )


def _shared(orders: Sequence[Order], alone: Sequence[Reservation]) -> list[Reservation]:
    """What each of a pair holds: of one side, the first enough for either; of two sides, each its own."""
    if len(orders) == 1 or orders[0].side is not orders[1].side:
        return list(alone)
    return [alone[0].covering(alone[1]), NO_RESERVATION]


def _at_most(reservation: Reservation, quantity: Decimal) -> Reservation:
    if not quantity:
        return NO_RESERVATION
    return reservation if reservation.quantity <= quantity else replace(reservation, quantity=quantity)


def _denied(order: Order, reason: str, message: str, now_ns: int) -> Order:
    return replace(
        order, state=OrderState.DENIED, reason=reason, message=message, created_ns=now_ns, updated_ns=now_ns
    )


def _group(order: Order) -> Group:
    if order.group is None:
        raise ValueError(f"order {order.order_id} is of no group")
    return order.group
