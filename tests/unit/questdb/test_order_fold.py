"""The rows of orders_log say of every order what the ledger's own fold says."""

from __future__ import annotations

import itertools
import random
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ledger.commands import Command, Open, Register
from services.ledger.draft import Copy, Draft
from services.ledger.events import Acknowledged, Ended, Event, Filled
from services.ledger.numbers import install_context
from services.ledger.order import Order, OrderState, Side
from services.ledger.transition import evolve
from services.questdb.order_fold import LoggedOrder, Occurrence, Row, from_rows, logged, order_of
from services.questdb.schema import ORDERS_LOG
from tests.unit.ledger.venue import Traffic

_DECIMALS = [i for i, column in enumerate(ORDERS_LOG.columns) if column.kind.startswith("DECIMAL")]


def _history(seed: int, length: int) -> list[Event]:
    """The events of a random life of one account."""
    install_context()
    rng = random.Random(seed)
    traffic = Traffic("acc", rng, itertools.count(1))
    commands: list[Command] = [Open("acc", "life", Decimal(100_000)), Register("acc")]
    commands += [
        traffic.client_command() if rng.random() < 0.5 else traffic.venue_report() for _ in range(length)
    ]
    draft = Draft(Copy(), 1_000_000)
    known: dict[str, Order] = {}
    events: list[Event] = []
    clients: dict[str, str] = {}
    for command in commands:
        copy = Copy("t", draft.account, orders=dict(known), clients=dict(clients))
        draft = Draft(copy, 1_000_000)
        draft.apply(command)
        known.update(draft.orders)
        clients.update({client: holder for client, holder in draft.clients.items() if holder is not None})
        events.extend(draft.events)
    return events


def _at(seq: int) -> Occurrence:
    return Occurrence("acc", seq, 1_700_000_000_000_000_000 + seq * 1000, 3, seq)


def _as_read(row: Row) -> Row:
    """As QuestDB gives a row back: decimals for their text."""
    return [Decimal(value) if i in _DECIMALS and value is not None else value for i, value in enumerate(row)]


def _view(order: Order) -> tuple[object, ...]:
    return (order.state, order.terms.quantity, order.terms.price, order.cumulative, order.symbol, order.side)


def _logged_view(order: LoggedOrder) -> tuple[object, ...]:
    return (order.state, order.quantity, order.price, order.cumulative, order.symbol, order.side)


@given(seed=st.integers(min_value=0), length=st.integers(1, 100), cut=st.integers(0, 200))
def test_any_history_folds_into_the_ledgers_orders_also_from_stored_rows(
    seed: int, length: int, cut: int
) -> None:
    account = None
    orders: dict[str, Order] = {}
    known: dict[str, LoggedOrder] = {}
    rows: list[Row] = []
    for seq, event in enumerate(_history(seed, length), 1):
        order_id = order_of(event)
        account, order = evolve(account, orders.get(order_id), event, 1_000_000, "acc")
        if seq == cut:
            # A new owner knows nothing but the table.
            known = from_rows(_as_read(row) for row in rows)
        if not order_id:
            continue
        after, row = logged(known.get(order_id), event, _at(seq))
        assert row is not None
        assert after is not None
        rows.append(row)
        known[order_id] = after
        if order is not None:
            orders[order_id] = order
            assert _logged_view(after) == _view(order)
    assert from_rows(_as_read(row) for row in rows) == known


def test_a_repeated_event_has_no_second_row() -> None:
    events = _history(7, 60)
    known: dict[str, LoggedOrder] = {}
    for seq, event in enumerate(events, 1):
        if order_id := order_of(event):
            after, _ = logged(known.get(order_id), event, _at(seq))
            assert after is not None
            known[order_id] = after
            assert logged(after, event, _at(seq)) == (after, None)


def test_an_event_of_an_order_that_nobody_introduced_is_still_a_row() -> None:
    order, row = logged(None, Acknowledged("acc-x", 5), _at(9))
    assert order is not None
    assert order.state is None
    assert row is not None
    assert row[3] == "acc-x"


@pytest.mark.parametrize("late", [False, True])
def test_a_fill_of_an_unknown_order_says_what_it_knows(late: bool) -> None:
    event = Filled(
        order_id="acc-x",
        symbol="BTCUSDT",
        side=Side.SELL,
        quantity=Decimal("0.5"),
        price=Decimal(45000),
        fee=Decimal(0),
        exec_id="e",
        liquidity="taker",
        venue_ns=1,
        stream_seq=5,
        late=late,
        unknown=True,
    )
    order, row = logged(None, event, _at(9))
    assert order is not None
    assert (order.symbol, order.side, order.cumulative, order.state) == (
        "BTCUSDT",
        "sell",
        Decimal(0),
        None,
    )
    assert row is not None


def test_the_reason_of_an_end_is_in_its_row() -> None:
    _, row = logged(None, Ended("acc-x", OrderState.EXPIRED, "too\x00late", "", 3), _at(9))
    assert row is not None
    assert "toolate" in row
    assert "expired" in row
