"""What the checks need to know of the market: marks, and daily returns for value at risk."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Quote:
    """The mark of one symbol at the moment of the decision."""

    price: Decimal
    """> 0, in the quote currency."""
    fresh: bool
    """Young enough to price an order by: younger than `marks.max_age_sec`."""
    usable: bool = True
    """Young enough to value a position by: younger than `marks.held_max_age_sec`."""


@dataclass(frozen=True, slots=True)
class Returns:
    """Simple close-to-close returns of one symbol over the last finished UTC days, oldest first.

    Stored by sign, so that the bound over all fills needs no comparison a day: on day t the return is
    `rises[t] - falls[t]`, both ≥ 0 and one of them 0.
    """

    last_day: int
    """Days since the epoch of the last return; symbols are added up day by day, so it has to agree."""
    falls: tuple[float, ...]
    rises: tuple[float, ...]
    worst_fall: float
    worst_rise: float

    @classmethod
    def of(cls, last_day: int, returns: tuple[float, ...]) -> "Returns":
        falls = tuple(max(0.0, -change) for change in returns)
        rises = tuple(max(0.0, change) for change in returns)
        return cls(last_day, falls, rises, max(falls, default=0.0), max(rises, default=0.0))

    def __len__(self) -> int:
        return len(self.falls)


class Market(Protocol):
    """Marks and returns as they stand at one moment; the checks ask for each symbol once."""

    def quote(self, symbol: str) -> Quote | None:
        """The latest mark of `symbol` whatever its age, or None when none was ever received."""
        ...

    def returns(self, symbol: str) -> Returns | None:
        """Returns of exactly the lookback period, or None: too few, or the last day is too old."""
        ...
