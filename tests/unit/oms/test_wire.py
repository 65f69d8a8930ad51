"""Names and numbers on the wire."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from services.ledger import events as e
from services.ledger.account import Account, Position
from services.ledger.order import Order, OrderState, OrderType, Side, Terms, TimeInForce
from services.oms import wire
from services.oms.outcomes import Rejected, Submitted
from trade2026.type.v1 import order_pb2 as type_pb2

ORDER = Order(
    order_id="a-01M82EZKQ7EJAM4DB9ET4N1CJX",
    account="a",
    client_order_id="",
    digest="d",
    symbol="BTCUSDT",
    side=Side.BUY,
    order_type=OrderType.LIMIT,
    time_in_force=TimeInForce.TIMEOUT,
    terms=Terms(Decimal("0.30"), Decimal("45000.10"), None, None),
    state=OrderState.NEW,
    created_ns=1,
    updated_ns=2,
    expire_ns=0,
)


def test_every_state_side_and_type_has_its_name_on_the_wire() -> None:
    assert set(wire.STATES) == set(OrderState)
    assert set(wire.SIDES) == set(Side)
    assert set(wire.TYPES) == set(OrderType)
    assert set(wire.TIMES_IN_FORCE) == set(TimeInForce) - {TimeInForce.TIMEOUT}


def test_every_event_has_a_kind() -> None:
    for kind in e.EVENT_TYPES.values():
        assert wire._EVENT_KINDS[kind]


@pytest.mark.parametrize("name", ["risk_timeout", "risk_error", "order_size_limit", "firm_limit"])
def test_a_published_reason_is_told_by_its_name(name: str) -> None:
    response = wire.submit_response(Rejected("o", "c", name, "why"))
    assert wire.REASON_NAMES[response.reason] == name
    assert (response.message, response.client_order_id) == ("why", "c")
    assert not response.HasField("order_id")


def test_a_reason_without_a_name_is_a_failed_check() -> None:
    response = wire.submit_response(Rejected("o", "", "something_new", ""))
    assert response.reason == type_pb2.DENIAL_REASON_RISK_CHECK_FAILED
    assert not response.HasField("client_order_id")


def test_a_submitted_order_has_its_id_and_no_reason() -> None:
    response = wire.submit_response(Submitted("o", ""))
    assert response.order_id == "o"
    assert not response.HasField("reason")
    assert not response.HasField("message")


def test_numbers_are_written_exactly_and_plainly() -> None:
    message = wire.order_message(ORDER)
    assert (message.quantity.value, message.price.value) == ("0.3", "45000.1")
    assert message.leaves_quantity.value == "0.3"
    assert not message.HasField("average_price")
    assert not message.HasField("stop_price")
    assert not message.HasField("expire_time")
    executed = replace(ORDER, cumulative=Decimal("0.3"), executed_value=Decimal("0.1"), fees=Decimal("-1E+2"))
    message = wire.order_message(executed)
    assert message.average_price.value == "0.333333333333333333"
    assert message.fees.value == "-100"


def test_only_symbols_that_were_traded_or_are_reserved_are_positions() -> None:
    account = Account(
        "a",
        "i",
        Decimal(1),
        Decimal(1),
        positions={
            "BTCUSDT": Position("BTCUSDT", quantity=Decimal(2), cost=Decimal(5), last_price=Decimal(3)),
            "ETHUSDT": Position("ETHUSDT", open_buy=Decimal(1)),
            "SOLUSDT": Position("SOLUSDT"),
        },
    )
    positions = wire.positions_message(account).positions
    assert set(positions) == {"BTCUSDT", "ETHUSDT"}
    assert positions["BTCUSDT"].average_price.value == "2.5"
    assert not positions["ETHUSDT"].HasField("last_price")
    assert len(wire.positions_message(None).positions) == 0
