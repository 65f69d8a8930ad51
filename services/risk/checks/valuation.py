"""What one unit of an order can be worth, lose and cost at worst, and the price that bounds its fills."""

import decimal
from decimal import Decimal
from typing import Final, NamedTuple

from services.ledger.numbers import MAX_DECIMAL_PLACES, PRECISION, ZERO
from services.ledger.order import OrderType, Side, Terms

_ROUNDING: Final = decimal.Context(prec=2 * PRECISION, traps=[decimal.InvalidOperation])
_FINEST: Final = Decimal(1).scaleb(-MAX_DECIMAL_PLACES)
_PERCENT: Final = Decimal("0.01")
_LIMIT_TYPES: Final = (OrderType.LIMIT, OrderType.STOP_LIMIT)


class UnitValuation(NamedTuple):
    """Of one unit of an order, in the quote currency; each ≥ 0."""

    value: Decimal
    """Exposure it adds at worst."""
    loss: Decimal
    """What a fill at the worst price loses against the mark."""
    fee: Decimal
    protection_price: Decimal | None
    """Worst price at which the venue may fill; None where the limit price is that bound."""


def value_unit(
    side: Side, order_type: OrderType, terms: Terms, mark: Decimal, slippage_pct: Decimal, fee_pct: Decimal
) -> UnitValuation:
    """Values one unit of an order at `mark`.

    Value price v: the larger of mark and limit for limits of both sides; for market and stop orders to buy
    the larger of mark and stop, plus the slippage allowance; to sell the mark. Loss price: v to buy; to sell
    the limit, or mark or stop less the allowance.
    """
    if order_type in _LIMIT_TYPES:
        price = terms.price
        assert price is not None
        value = max(mark, price)
        loss = value - mark if side is Side.BUY else max(ZERO, mark - price)
        return UnitValuation(value, loss, value * fee_pct * _PERCENT, None)
    stop = terms.stop_price
    if side is Side.BUY:
        trigger = mark if stop is None else max(mark, stop)
        value = _bound(trigger * (1 + slippage_pct * _PERCENT), decimal.ROUND_FLOOR)
        return UnitValuation(value, max(ZERO, value - mark), value * fee_pct * _PERCENT, value)
    trigger = mark if stop is None else stop
    worst = _bound(trigger * (1 - slippage_pct * _PERCENT), decimal.ROUND_CEILING)
    return UnitValuation(mark, max(ZERO, mark - worst), mark * fee_pct * _PERCENT, worst)


def _bound(price: Decimal, rounding: str) -> Decimal:
    """`price` as a price on the wire: what has more than 18 decimal places is rounded to the safer side."""
    exponent = price.as_tuple().exponent
    assert isinstance(exponent, int)
    if exponent >= -MAX_DECIMAL_PLACES:
        return price
    return price.quantize(_FINEST, rounding=rounding, context=_ROUNDING)
