"""Copies of domain values with some fields changed."""

from __future__ import annotations

import dataclasses
from decimal import Decimal

import pytest

from services.ledger.account import Account, Position
from services.ledger.order import OrderState
from services.ledger.values import changed, replace
from tests.unit.ledger.making import make_order

VALUES = [make_order("acc"), Position("BTCUSDT", Decimal(3)), Account("acc", "life", Decimal(1), Decimal(2))]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_copy_equals_its_original_and_is_another_object(value: object) -> None:
    copy = replace(value)
    assert copy == value
    assert copy is not value
    assert type(copy) is type(value)


def test_named_fields_change_and_the_original_does_not() -> None:
    order = make_order("acc")
    ours = changed(order, {"state": OrderState.NEW, "cancels": 3})
    assert ours == dataclasses.replace(order, state=OrderState.NEW, cancels=3)
    assert (order.state, order.cancels) == (OrderState.PENDING_NEW, 0)


def test_copy_is_frozen_too() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        replace(make_order("acc"), cancels=1).cancels = 2  # type: ignore[misc]


def test_unknown_field_is_refused() -> None:
    with pytest.raises(TypeError, match="Order has no field 'colour'"):
        replace(make_order("acc"), colour="red")
