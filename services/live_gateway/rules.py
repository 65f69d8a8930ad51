"""How the venue executes: pure functions of an order, the mark and the rules."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal
from enum import StrEnum
from typing import Final

from services.ledger.numbers import MAX_DECIMAL_PLACES, MAX_INTEGER_DIGITS, PRECISION
from services.ledger.order import OrderType, Side, Terms
from services.live_gateway.orders import PRICED, STOPS, Liquidity, Reason, WorkingOrder

_ROUNDING: Final = Context(prec=2 * PRECISION, rounding=ROUND_HALF_EVEN, traps=[])
_SMALLEST: Final = Decimal(1).scaleb(-MAX_DECIMAL_PLACES)
_VALUE_LIMIT: Final = Decimal(10) ** MAX_INTEGER_DIGITS
_HUNDRED: Final = Decimal(100)
_BASIS_POINT: Final = Decimal("0.0001")


class FillModel(StrEnum):
    """INSTANT: whatever can be executed is, limits at their own price. MARKET: limits wait for the mark."""

    INSTANT = "instant"
    MARKET = "market"


class SelfMatch(StrEnum):
    """What becomes of two limits of one account and symbol whose prices cross: which of them is canceled."""

    CANCEL_NEWEST = "cancel_newest"
    CANCEL_OLDEST = "cancel_oldest"
    ALLOW = "allow"


@dataclass(frozen=True, slots=True)
class Instrument:
    """Steps of a symbol's prices and quantities, > 0."""

    price_increment: Decimal
    quantity_increment: Decimal


@dataclass(frozen=True, slots=True)
class Rules:
    """Everything about execution that is configured."""

    instruments: Mapping[str, Instrument]
    fill_model: FillModel = FillModel.INSTANT
    taker_fee_bps: Decimal = Decimal(1)
    """Basis points of a trade's value, charged to who takes; negative for a rebate."""
    maker_fee_bps: Decimal = Decimal(1)
    limit_band_pct: Decimal = Decimal(20)
    """`instant` refuses a limit further from the mark than this."""
    mark_max_age_ns: int = 60_000_000_000
    """An older mark counts as none."""
    slices: int = 1
    """`market`: in how many trades an order is executed."""
    delay_ns: int = 0
    """`market`: between an order's becoming executable and its first trade, and between its trades."""
    self_match: SelfMatch = SelfMatch.CANCEL_NEWEST


@dataclass(frozen=True, slots=True)
class Execute:
    """The order can be executed now, at this price."""

    price: Decimal
    liquidity: Liquidity


@dataclass(frozen=True, slots=True)
class Refuse:
    """The order cannot go on. `rejects`: one that has just arrived is rejected rather than canceled."""

    reason: Reason
    rejects: bool


_NO_MARK: Final = Refuse(Reason.NO_MARK, rejects=True)
_PROTECTED: Final = Refuse(Reason.PROTECTION_PRICE, rejects=False)
_OUT_OF_BAND: Final = Refuse(Reason.PRICE_OUT_OF_RANGE, rejects=True)
_TOO_VALUABLE: Final = Refuse(Reason.VALUE_OUT_OF_RANGE, rejects=True)


def malformed(order_type: OrderType, terms: Terms, instrument: Instrument | None) -> Reason | None:
    """What is wrong with an order whatever the mark; None when nothing is."""
    if instrument is None:
        return Reason.UNKNOWN_SYMBOL
    if terms.quantity <= 0 or terms.quantity % instrument.quantity_increment:
        return Reason.INVALID_QUANTITY
    needed = []
    if order_type in PRICED:
        needed.append(terms.price)
    if order_type in STOPS:
        needed.append(terms.stop_price)
    for price in needed:
        if price is None or price <= 0 or price % instrument.price_increment:
            return Reason.INVALID_PRICE
    return None


def stop_reached(side: Side, stop_price: Decimal, mark: Decimal) -> bool:
    """A stop to buy starts when the mark is at or above its price, a stop to sell at or below."""
    return mark >= stop_price if side is Side.BUY else mark <= stop_price


def within(side: Side, limit: Decimal, price: Decimal) -> bool:
    """Whether `price` is no worse than `limit` for that side."""
    return price <= limit if side is Side.BUY else price >= limit


def out_of_band(limit: Decimal, mark: Decimal, rules: Rules) -> bool:
    """Whether `instant` refuses the limit: it is more than `limit_band_pct` away from the mark."""
    return (
        rules.fill_model is FillModel.INSTANT and abs(limit - mark) * _HUNDRED > rules.limit_band_pct * mark
    )


def verdict(
    order: WorkingOrder, mark: Decimal | None, rules: Rules, arriving: bool
) -> Execute | Refuse | None:
    """What becomes of the order at this mark; None: it waits. The trigger of a stop has been looked at
    before.
    """
    if order.awaits_trigger:
        return None
    if mark is None:
        return _NO_MARK if arriving and order.order_type is OrderType.MARKET else None
    limit = order.terms.price
    if order.order_type in PRICED and limit is not None:
        found = _limit_verdict(order, limit, mark, rules)
    else:
        protection = order.terms.protection_price
        if protection is not None and not within(order.side, protection, mark):
            return _PROTECTED
        found = Execute(mark, Liquidity.TAKER)
    if isinstance(found, Execute) and order.leaves * found.price >= _VALUE_LIMIT:
        return _TOO_VALUABLE
    return found


def _limit_verdict(
    order: WorkingOrder, limit: Decimal, mark: Decimal, rules: Rules
) -> Execute | Refuse | None:
    liquidity = Liquidity.MAKER if order.passive else Liquidity.TAKER
    if rules.fill_model is FillModel.INSTANT:
        return _OUT_OF_BAND if out_of_band(limit, mark, rules) else Execute(limit, liquidity)
    if not within(order.side, limit, mark):
        return None
    return Execute(limit if order.passive else mark, liquidity)


def fee(quantity: Decimal, price: Decimal, liquidity: Liquidity, rules: Rules) -> Decimal:
    """quantity × price × basis points ÷ 10,000, rounded half-even to 18 decimal places."""
    bps = rules.maker_fee_bps if liquidity is Liquidity.MAKER else rules.taker_fee_bps
    exact = _ROUNDING.multiply(_ROUNDING.multiply(quantity, price), _ROUNDING.multiply(bps, _BASIS_POINT))
    exponent = exact.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -MAX_DECIMAL_PLACES:
        exact = exact.quantize(_SMALLEST, context=_ROUNDING)
    return exact


def slice_quantity(order: WorkingOrder, instrument: Instrument, rules: Rules) -> Decimal:
    """Quantity of the order's next trade, > 0.

    An order is executed in `slices` equal trades, each rounded down to the quantity increment (at least one
    increment); the last takes the rest.
    """
    leaves = order.leaves
    if order.slices >= rules.slices - 1:
        return leaves
    increment = instrument.quantity_increment
    equal = order.terms.quantity // (increment * rules.slices) * increment
    return min(leaves, max(equal, increment))
