"""Value, adverse loss, fee and protection price of one unit, for every type of order and both sides."""

import pytest

from services.ledger.order import OrderType, Side, Terms
from services.risk.checks.valuation import value_unit
from tests.unit.risk.making import D

B, S = Side.BUY, Side.SELL
T = OrderType

# side, type, limit price, stop price, mark → value, loss, protection price; slippage 1 %, fee 0.1 %
CASES = [
    (B, T.LIMIT, "90", None, "100", "100", "0", None),
    (B, T.LIMIT, "110", None, "100", "110", "10", None),
    (B, T.STOP_LIMIT, "110", "105", "100", "110", "10", None),
    (B, T.MARKET, None, None, "100", "101", "1", "101"),
    (B, T.STOP, None, "120", "100", "121.2", "21.2", "121.2"),
    (B, T.STOP, None, "80", "100", "101", "1", "101"),
    (S, T.LIMIT, "90", None, "100", "100", "10", None),
    (S, T.LIMIT, "110", None, "100", "110", "0", None),
    (S, T.STOP_LIMIT, "85", "95", "100", "100", "15", None),
    (S, T.MARKET, None, None, "100", "100", "1", "99"),
    (S, T.STOP, None, "80", "100", "100", "20.8", "79.2"),
    (S, T.STOP, None, "120", "100", "100", "0", "118.8"),
]


@pytest.mark.parametrize(("side", "kind", "price", "stop", "mark", "value", "loss", "protection"), CASES)
def test_one_unit_has_the_documented_value_loss_fee_and_protection_price(
    side: Side,
    kind: OrderType,
    price: str | None,
    stop: str | None,
    mark: str,
    value: str,
    loss: str,
    protection: str | None,
) -> None:
    terms = Terms(D(1), D(price) if price else None, D(stop) if stop else None, None)

    unit = value_unit(side, kind, terms, D(mark), slippage_pct=D(1), fee_pct=D("0.1"))

    assert unit.value == D(value)
    assert unit.loss == D(loss)
    assert unit.fee == D(value) * D("0.001")
    assert unit.protection_price == (None if protection is None else D(protection))


@pytest.mark.parametrize(("side", "protection"), [(B, "1.010000000000000001"), (S, "0.990000000000000001")])
def test_protection_price_with_too_many_places_is_rounded_to_the_safe_side(
    side: Side, protection: str
) -> None:
    mark = D("1.000000000000000001")

    unit = value_unit(side, T.MARKET, Terms(D(1), None, None, None), mark, D(1), D(0))

    assert unit.protection_price == D(protection)
    assert unit.loss <= mark * D("0.01")


def test_without_slippage_a_market_order_is_bounded_by_the_mark() -> None:
    terms = Terms(D(1), None, None, None)
    assert value_unit(B, T.MARKET, terms, D(100), D(0), D(0))[:2] == (D(100), D(0))
    assert value_unit(S, T.MARKET, terms, D(100), D(0), D(0))[:2] == (D(100), D(0))
