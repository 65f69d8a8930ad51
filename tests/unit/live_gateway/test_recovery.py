"""What a venue that lost its journal takes over from the stored reports."""

import json

import pytest

from services.ledger.order import OrderState
from services.live_gateway.orders import SeenOrder
from services.live_gateway.recovery import _Reports
from services.runtime.journal_reader import Message
from tests.support import nested
from tests.unit.live_gateway.venue import order_id

ACCEPTED = {"exec_id": "v-1", "account": "alice", "order_id": order_id(1), "kind": "accepted"}
FILL = {
    "account": "alice",
    "symbol": "BTCUSDT",
    "side": "buy",
    "quantity": 1,
    "price": 45000,
    "fill_id": "v-2",
    "order_id": order_id(2),
    "status": "partially_filled",
}


def _taken(subject: str, payload: object) -> _Reports:
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    reports = _Reports()
    reports.add(Message(1, subject, data, None, 0))
    return reports


def test_orders_that_have_not_ended_are_known_with_what_was_executed() -> None:
    assert _taken("3.executions.alice", ACCEPTED).open == {order_id(1): SeenOrder(OrderState.NEW)}
    fill = _taken("3.fills.alice", FILL)
    assert fill.open == {order_id(2): SeenOrder(OrderState.PARTIALLY_FILLED, 1)}  # type: ignore[arg-type]
    assert [held.quantity for held in fill.positions.as_mapping().values()] == [1]


@pytest.mark.parametrize(
    ("subject", "payload"),
    [
        ("3.fills.alice", b"garbage"),
        pytest.param("3.fills.alice", nested(json.dumps(FILL).encode()), id="nested fill"),
        pytest.param("3.executions.alice", nested(json.dumps(ACCEPTED).encode()), id="nested execution"),
        ("3.executions.bob", ACCEPTED),
        ("3.fills.bob", FILL),
        ("3.executions.alice", {**ACCEPTED, "order_id": "no order id"}),
        ("3.executions.alice", {**ACCEPTED, "order_id": order_id(1, "bob")}),
        ("3.fills.alice", {**FILL, "order_id": ""}),
        ("3.fills.alice", {**FILL, "status": "melted"}),
    ],
)
def test_what_is_no_report_of_such_a_venue_is_skipped(subject: str, payload: object) -> None:
    reports = _taken(subject, payload)
    assert (reports.count, reports.open, reports.ended) == (0, {}, {})
    assert not reports.positions.as_mapping()
