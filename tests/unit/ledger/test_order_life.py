"""Every event in every state through the rule book: the order obeys the table, the account the order."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from decimal import Decimal

import pytest

from services.ledger.commands import Command, ReportKind
from services.ledger.order import TERMINAL, Order, OrderEvent, OrderState, next_state
from tests.unit.ledger.making import (
    abandon,
    amend,
    fill,
    make_order,
    refuse,
    report,
    request_cancel,
    reserve,
)
from tests.unit.ledger.test_transition import Book

_sequence = itertools.count(1)


def _report(kind: ReportKind) -> Callable[[Order], Command]:
    return lambda order: report(kind, order, next(_sequence), revision=order.revision)


def _fill(quantity: str) -> Callable[[Order], Command]:
    return lambda order: fill(order, next(_sequence), quantity)


def _amend(order: Order) -> Command:
    return amend(order, order.revision + 1, "20", "120")


ACCEPTED = _report(ReportKind.ACCEPTED)

STATES: dict[str, tuple[OrderState, list[Callable[[Order], Command]]]] = {
    "pending_new": (OrderState.PENDING_NEW, []),
    "new": (OrderState.NEW, [ACCEPTED]),
    "partially_filled": (OrderState.PARTIALLY_FILLED, [ACCEPTED, _fill("4")]),
    "pending_cancel": (OrderState.PENDING_CANCEL, [ACCEPTED, request_cancel]),
    "pending_cancel executed": (OrderState.PENDING_CANCEL, [ACCEPTED, _fill("4"), request_cancel]),
    "pending_cancel of one never accepted": (OrderState.PENDING_CANCEL, [request_cancel]),
    "pending_replace": (OrderState.PENDING_REPLACE, [ACCEPTED, _amend]),
    "pending_replace executed": (OrderState.PENDING_REPLACE, [ACCEPTED, _fill("4"), _amend]),
    "filled": (OrderState.FILLED, [ACCEPTED, _fill("10")]),
    "canceled": (OrderState.CANCELED, [ACCEPTED, _report(ReportKind.CANCELED)]),
    "rejected": (OrderState.REJECTED, [_report(ReportKind.REJECTED)]),
    "expired": (OrderState.EXPIRED, [ACCEPTED, _report(ReportKind.EXPIRED)]),
    "denied": (OrderState.DENIED, []),
}
"""How an order of 10 gets into each state."""

EVENTS: dict[OrderEvent, Callable[[Order], Command]] = {
    OrderEvent.ACCEPTED: ACCEPTED,
    OrderEvent.PARTIAL_FILL: _fill("1"),
    OrderEvent.FULL_FILL: lambda order: fill(order, next(_sequence), order.leaves or Decimal(10)),
    OrderEvent.CANCEL_REQUESTED: lambda order: request_cancel(order, again=True),
    OrderEvent.CANCEL_REJECTED: _report(ReportKind.CANCEL_REJECTED),
    OrderEvent.REPLACE_REQUESTED: _amend,
    OrderEvent.REPLACED: _report(ReportKind.REPLACED),
    OrderEvent.REPLACE_REJECTED: _report(ReportKind.REPLACE_REJECTED),
    OrderEvent.CANCELED: _report(ReportKind.CANCELED),
    OrderEvent.REJECTED: _report(ReportKind.REJECTED),
    OrderEvent.EXPIRED: _report(ReportKind.EXPIRED),
    OrderEvent.ABANDONED: abandon,
}


def brought(name: str) -> tuple[Book, Order]:
    """An account with one order in that state."""
    state, commands = STATES[name]
    book = Book()
    order = make_order("acc", "10")
    book.do(reserve(order, refuse) if state is OrderState.DENIED else reserve(order))
    for command in commands:
        book.do(command(book.orders[order.order_id]))
    assert book.orders[order.order_id].state is state
    return book, book.orders[order.order_id]


def test_every_state_and_every_event_is_here() -> None:
    # An exit that waits for its entry, and its activation, are in test_groups.
    assert {state for state, _ in STATES.values()} == set(OrderState) - {OrderState.WAITING}
    assert set(EVENTS) == set(OrderEvent) - {OrderEvent.ACTIVATED}


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("name", STATES)
def test_event_leads_where_the_table_says_and_the_account_holds_what_the_order_holds(
    name: str, event: OrderEvent
) -> None:
    book, before = brought(name)
    book.do(EVENTS[event](before))
    after = book.orders[before.order_id]
    assert after.state is (next_state(before.state, event, executed=bool(after.cumulative)) or before.state)
    position, account = book.position(), book.account
    assert account is not None
    assert account.open_orders == (after.state not in TERMINAL)
    assert position.open_buy == after.reserved_quantity
    assert position.buy_value == after.reserved_quantity * after.reservation.unit_value
    assert position.adverse_loss == after.reserved_quantity * after.reservation.unit_loss
    assert position.quantity == after.cumulative
    assert (after.replacement is not None) <= (
        after.state in (OrderState.PENDING_REPLACE, OrderState.PENDING_CANCEL)
    )
