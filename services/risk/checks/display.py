"""Measured numbers as people and the wire take them."""

import decimal
from decimal import Decimal
from typing import Final

from services.ledger.numbers import MAX_DECIMAL_PLACES, PRECISION, plain

_ROUNDING: Final = decimal.Context(
    prec=2 * PRECISION, rounding=decimal.ROUND_HALF_EVEN, traps=[decimal.InvalidOperation]
)
_FINEST: Final = Decimal(1).scaleb(-MAX_DECIMAL_PLACES)


def rounded(number: Decimal) -> Decimal:
    """`number` with at most 18 decimal places, half-even, in plain notation; never for a comparison."""
    exponent = number.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -MAX_DECIMAL_PLACES:
        number = number.quantize(_FINEST, context=_ROUNDING)
    return plain(number)


def text(number: Decimal) -> str:
    """`number` for a sentence or the wire: plain notation, at most 18 decimal places."""
    return f"{rounded(number):f}"
