"""Fees and slices to the last digit."""

from decimal import Decimal

import pytest

from services.ledger.order import OrderType, Side
from services.live_gateway.orders import Liquidity
from services.live_gateway.rules import Instrument, Rules, fee, slice_quantity
from tests.unit.live_gateway.venue import INSTRUMENTS, Venue


@pytest.mark.parametrize(
    ("quantity", "price", "bps", "expected"),
    [
        ("0.1", "45000", "1", "0.45"),
        ("0.1", "45000", "-0.5", "-0.225"),
        ("0.1", "45000", "0", "0"),
        ("1", "0.000000000000005000", "1", "0"),
        ("3", "0.000000000000005000", "1", "0.000000000000000002"),
        ("1", "0.000000000000015000", "1", "0.000000000000000002"),
        ("0.000000000000000001", "99999999999999999999", "1", "0.01"),
    ],
)
def test_fee_is_rounded_half_even_to_18_places(quantity: str, price: str, bps: str, expected: str) -> None:
    rules = Rules(INSTRUMENTS, taker_fee_bps=Decimal(bps))
    charged = fee(Decimal(quantity), Decimal(price), Liquidity.TAKER, rules)
    assert charged == Decimal(expected)


def test_maker_and_taker_pay_their_own_fee() -> None:
    rules = Rules(INSTRUMENTS, taker_fee_bps=Decimal(2), maker_fee_bps=Decimal(1))
    assert fee(Decimal(1), Decimal(10_000), Liquidity.TAKER, rules) == 2
    assert fee(Decimal(1), Decimal(10_000), Liquidity.MAKER, rules) == 1


@pytest.mark.parametrize(
    ("quantity", "slices", "expected"),
    [
        ("1", 1, ["1"]),
        ("1", 4, ["0.25"] * 4),
        ("1", 3, ["0.333", "0.333", "0.334"]),
        ("0.002", 5, ["0.001", "0.001"]),
        ("0.0015", 2, ["0.001", "0.0005"]),
    ],
)
def test_slices_are_whole_increments_and_sum_up_to_the_order(
    quantity: str, slices: int, expected: list[str]
) -> None:
    rules = Rules(INSTRUMENTS, slices=slices)
    order = Venue().order(OrderType.MARKET, Side.BUY, quantity)
    made = []
    while order.leaves:
        made.append(slice_quantity(order, Instrument(Decimal("0.01"), Decimal("0.001")), rules))
        order.cumulative += made[-1]
        order.slices += 1
    assert made == [Decimal(one) for one in expected]
