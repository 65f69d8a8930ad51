"""The live market as the checks see it: marks of this moment, and daily returns."""

from typing import Protocol

from services.risk.checks.market import Market, Quote, Returns


class Quotes(Protocol):
    """Where marks come from; see `marks.Marks`."""

    def quote(self, symbol: str) -> Quote | None: ...


class ReturnsSource(Protocol):
    """Where daily returns come from; see `history.History`."""

    def returns(self, symbol: str) -> Returns | None: ...


class LiveMarket:
    """Gives out moments of the market."""

    def __init__(self, quotes: Quotes, returns: ReturnsSource) -> None:
        self._quotes = quotes
        self._returns = returns

    def now(self) -> Market:
        """A view in which each symbol keeps the mark that it had when it was first looked at."""
        return _Moment(self._quotes, self._returns)


class _Moment:
    """One decision's, or one batch's, view."""

    __slots__ = ("_quotes", "_returns", "_seen")

    def __init__(self, quotes: Quotes, returns: ReturnsSource) -> None:
        self._quotes = quotes
        self._returns = returns
        self._seen: dict[str, Quote | None] = {}

    def quote(self, symbol: str) -> Quote | None:
        seen = self._seen
        if symbol in seen:
            return seen[symbol]
        quote = seen[symbol] = self._quotes.quote(symbol)
        return quote

    def returns(self, symbol: str) -> Returns | None:
        return self._returns.returns(symbol)
