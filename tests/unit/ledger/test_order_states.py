"""Every (state, event) pair of an order's life, against the table written out once more by hand."""

from __future__ import annotations

import pytest

from services.ledger.order import TERMINAL, OrderEvent, OrderState, next_state

_STATES = {
    "wt": OrderState.WAITING,
    "pn": OrderState.PENDING_NEW,
    "new": OrderState.NEW,
    "part": OrderState.PARTIALLY_FILLED,
    "pc": OrderState.PENDING_CANCEL,
    "pr": OrderState.PENDING_REPLACE,
    "fil": OrderState.FILLED,
    "can": OrderState.CANCELED,
    "rej": OrderState.REJECTED,
    "den": OrderState.DENIED,
    "exp": OrderState.EXPIRED,
}

# Rows: events; columns: the six open states; a dot is an event without effect.
_TABLE = """
                    wt     pn     new    part   pc     pr
accepted            .      new    .      .      pc     .
partial_fill        .      part   part   part   pc     pr
full_fill           fil    fil    fil    fil    fil    fil
cancel_requested    .      pc     pc     pc     pc     pc
cancel_rejected     .      .      .      .      new    .
replace_requested   .      .      pr     pr     .      .
replaced            .      .      .      .      pc     new
replace_rejected    .      .      .      .      pc     new
canceled            can    can    can    can    can    can
rejected            rej    rej    rej    rej    rej    rej
expired             exp    exp    exp    exp    exp    exp
abandoned           can    can    .      .      .      .
activated           pn     .      .      .      .      .
"""


def _expected() -> dict[tuple[OrderState, OrderEvent], OrderState | None]:
    header, *rows = [line.split() for line in _TABLE.strip().splitlines()]
    expected: dict[tuple[OrderState, OrderEvent], OrderState | None] = {}
    for event, *cells in rows:
        for column, cell in zip(header, cells, strict=True):
            expected[_STATES[column], OrderEvent(event)] = _STATES.get(cell)
    for state in TERMINAL:
        for order_event in OrderEvent:
            expected[state, order_event] = None
    return expected


EXPECTED = _expected()


def test_table_covers_every_pair() -> None:
    assert set(EXPECTED) == {(state, event) for state in OrderState for event in OrderEvent}


@pytest.mark.parametrize(("state", "event"), sorted(EXPECTED))
def test_pair_leads_where_the_table_says(state: OrderState, event: OrderEvent) -> None:
    assert next_state(state, event, executed=False) == EXPECTED[state, event]


@pytest.mark.parametrize(("state", "event"), sorted(EXPECTED))
def test_executed_order_returns_to_partially_filled_instead_of_new(
    state: OrderState, event: OrderEvent
) -> None:
    expected = EXPECTED[state, event]
    if expected is OrderState.NEW:
        expected = OrderState.PARTIALLY_FILLED
    assert next_state(state, event, executed=True) == expected


def test_ended_order_never_changes_state() -> None:
    assert all(next_state(state, event, executed=True) is None for state in TERMINAL for event in OrderEvent)
