"""Exact decimal arithmetic: one context for the whole process, and bounds for numbers that come from outside.

Money and quantities are `decimal.Decimal` everywhere. The standard context rounds silently at 28 digits, so
every thread and task works under `CONTEXT`, which raises instead. The product of two bounded numbers has at
most 76 digits and a sum of very many of them fits in 96.
"""

import decimal
from decimal import Decimal
from typing import Final

PRECISION: Final = 96
MAX_DECIMAL_PLACES: Final = 18
MAX_INTEGER_DIGITS: Final = 20
ZERO: Final = Decimal(0)

CONTEXT: Final = decimal.Context(
    prec=PRECISION,
    rounding=decimal.ROUND_HALF_EVEN,
    Emin=-999_999,
    Emax=999_999,
    capitals=1,
    clamp=0,
    traps=[decimal.InvalidOperation, decimal.Inexact, decimal.DivisionByZero, decimal.Overflow],
)

_DIVISION: Final = decimal.Context(
    prec=2 * PRECISION,
    rounding=decimal.ROUND_HALF_EVEN,
    traps=[decimal.InvalidOperation, decimal.DivisionByZero],
)
_EIGHTEEN_PLACES: Final = Decimal(1).scaleb(-MAX_DECIMAL_PLACES)


class NumberOutOfRange(ValueError):
    """A number that the order path does not take; the message says which bound it breaks."""


def install_context() -> None:
    """Makes `CONTEXT` the context of this thread and the template for every thread and task started later."""
    default = decimal.DefaultContext
    default.prec, default.rounding = CONTEXT.prec, CONTEXT.rounding
    default.Emin, default.Emax = CONTEXT.Emin, CONTEXT.Emax
    for signal in default.traps:
        default.traps[signal] = CONTEXT.traps[signal]
    decimal.setcontext(CONTEXT.copy())


def bounded(number: Decimal) -> Decimal:
    """Returns `number` in plain notation when it is finite with ≤ 20 integer digits and ≤ 18 decimal places.

    Trailing zeros after the point do not count as places. Raises `NumberOutOfRange` otherwise.
    """
    if not number.is_finite():
        raise NumberOutOfRange("must be a finite number")
    if not number:
        return ZERO
    text = str(number)
    if len(text) <= MAX_DECIMAL_PLACES and "E" not in text:
        return number  # most are so short that they break no bound; the digits cost four times as much
    _, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    if len(digits) + exponent > MAX_INTEGER_DIGITS:
        raise NumberOutOfRange(f"must have at most {MAX_INTEGER_DIGITS} digits before the decimal point")
    if exponent < -MAX_DECIMAL_PLACES or exponent > 0:
        significant = len(digits)
        while significant and digits[significant - 1] == 0:
            significant -= 1
        if exponent + len(digits) - significant < -MAX_DECIMAL_PLACES:
            raise NumberOutOfRange(f"must have at most {MAX_DECIMAL_PLACES} decimal places")
        places = max(0, -(exponent + len(digits) - significant))
        return number.quantize(Decimal(1).scaleb(-places), context=_DIVISION)
    return number


def released_cost(cost: Decimal, closed: Decimal, quantity: Decimal) -> Decimal:
    """The part of an open `cost` that leaves with `closed` units of `quantity`: cost × closed ÷ quantity.

    Rounded half-even to 18 decimal places; realised profit takes the rest, so the identities stay exact.
    A full close returns `cost` itself.
    """
    if closed == quantity:
        return cost
    exact = _DIVISION.divide(_DIVISION.multiply(cost, closed), quantity)
    return exact.quantize(_EIGHTEEN_PLACES, context=_DIVISION)


def average(total: Decimal, quantity: Decimal) -> Decimal:
    """total ÷ quantity for display, rounded half-even to 18 decimal places; zero when `quantity` is zero."""
    if not quantity:
        return ZERO
    return plain(_DIVISION.divide(total, quantity).quantize(_EIGHTEEN_PLACES, context=_DIVISION))


def plain(number: Decimal) -> Decimal:
    """The same value without trailing zeros after the point and without an exponent."""
    if not number:
        return ZERO
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)
    if exponent < 0:
        number = number.normalize(_DIVISION)
        exponent = number.as_tuple().exponent
        assert isinstance(exponent, int)
    return number.quantize(Decimal(1), context=_DIVISION) if exponent > 0 else number
