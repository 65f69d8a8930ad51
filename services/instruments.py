"""The symbols that can be traded, with their increments."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Final, TypeAlias

from pydantic import Field

from services.runtime.settings import Number, Section, as_tuple

PositiveNumber: TypeAlias = Annotated[Number, Field(gt=0)]


class InstrumentSettings(Section):
    """One entry of the settings list `instruments`."""

    symbol: Annotated[str, Field(pattern=r"^[A-Z0-9]{1,32}$")]
    """Upper-case letters and digits, at most 32."""
    price_increment: PositiveNumber
    """Smallest step of a price, in the quote currency."""
    quantity_increment: PositiveNumber
    """Smallest step of a quantity, in units of the symbol."""


InstrumentList: TypeAlias = Annotated[tuple[InstrumentSettings, ...], as_tuple, Field(min_length=1)]

DEFAULT_INSTRUMENTS: Final = (
    InstrumentSettings(
        symbol="BTCUSDT", price_increment=Decimal("0.01"), quantity_increment=Decimal("0.00001")
    ),
    InstrumentSettings(
        symbol="ETHUSDT", price_increment=Decimal("0.01"), quantity_increment=Decimal("0.0001")
    ),
    InstrumentSettings(symbol="SOLUSDT", price_increment=Decimal("0.01"), quantity_increment=Decimal("0.01")),
)


@dataclass(frozen=True, slots=True)
class Instrument:
    """One tradable symbol; increments as in `InstrumentSettings`."""

    symbol: str
    price_increment: Decimal
    quantity_increment: Decimal


def instruments_of(settings: tuple[InstrumentSettings, ...]) -> dict[str, Instrument]:
    """The instruments by symbol; raises `ValueError` when a symbol is listed twice."""
    instruments = {
        entry.symbol: Instrument(entry.symbol, entry.price_increment, entry.quantity_increment)
        for entry in settings
    }
    if len(instruments) != len(settings):
        raise ValueError("instruments: a symbol is listed twice")
    return instruments
