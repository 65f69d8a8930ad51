"""When an order is overdue."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.ledger.deadline import GRACE_NS, due_ns, patience_ns
from services.ledger.order import TERMINAL, OrderState
from tests.unit.ledger.making import make_order

SECOND_NS = 1_000_000_000


@pytest.mark.parametrize(
    "state", [OrderState.PENDING_NEW, OrderState.PENDING_CANCEL, OrderState.PENDING_REPLACE]
)
def test_order_that_awaits_the_venue_is_due_a_grace_after_its_last_change(state: OrderState) -> None:
    order = replace(make_order("acc"), state=state, updated_ns=100, expire_ns=50)
    assert due_ns(order) == 100 + GRACE_NS
    assert due_ns(replace(order, cancels=3)) == 100 + 4 * GRACE_NS


def test_each_further_cancel_is_waited_for_twice_as_long_up_to_a_bound() -> None:
    waits = [patience_ns(cancels) // SECOND_NS for cancels in range(10)]
    assert waits == [5, 5, 10, 20, 40, 80, 160, 320, 320, 320]


@pytest.mark.parametrize("state", [OrderState.NEW, OrderState.PARTIALLY_FILLED])
def test_working_order_is_due_a_grace_after_its_expiry(state: OrderState) -> None:
    order = replace(make_order("acc"), state=state, updated_ns=100, expire_ns=5_000)
    assert due_ns(order) == 5_000 + GRACE_NS
    assert due_ns(replace(order, expire_ns=0)) is None


def test_working_order_whose_cancel_was_rejected_after_its_expiry_is_not_due_at_once() -> None:
    order = replace(make_order("acc"), state=OrderState.NEW, updated_ns=9 * SECOND_NS, expire_ns=1, cancels=2)
    assert due_ns(order) == 9 * SECOND_NS + patience_ns(2)


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_ended_order_is_never_due(state: OrderState) -> None:
    assert due_ns(replace(make_order("acc"), state=state, expire_ns=5)) is None
