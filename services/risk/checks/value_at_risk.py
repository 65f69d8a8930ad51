"""Value at risk by historical simulation, bounded over every subset of fills of the open orders."""

from collections.abc import Sequence
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from typing import Final, TypeAlias

from services.risk.checks.market import Returns


class VarDataUnavailable(Exception):
    """A symbol has no returns for the whole lookback; the message names it."""


Line: TypeAlias = tuple[float, float, Returns]
"""A symbol: mark × L, mark × K (the largest and the smallest position that fills can leave), its returns."""

_ROUNDING: Final = 1 + 1e-9
"""More than binary rounding can take from a sum of products."""


def value_at_risk(lines: Sequence[Line], confidence: Decimal) -> float:
    """VaR of one day in the quote currency, ≥ 0; 0 without lines.

    The loss of day t is Σ max(-L·r, -K·r) at the marks: since K ≤ L that is L times a fall or -K times a
    rise. VaR is the ⌈c·n⌉-th smallest of the n losses (`inverted_cdf` of numpy; definition 1 of Hyndman and
    Fan), at least 0. Raises `VarDataUnavailable` when the symbols' days do not agree.
    """
    if not lines:
        return 0.0
    _same_days(lines)
    longest, shortest, returns = lines[0]
    losses = [
        longest * fall - shortest * rise for fall, rise in zip(returns.falls, returns.rises, strict=True)
    ]
    for longest, shortest, returns in lines[1:]:
        losses = [
            loss + longest * fall - shortest * rise
            for loss, fall, rise in zip(losses, returns.falls, returns.rises, strict=True)
        ]
    rank = var_rank(confidence, len(losses))
    worst = max(losses) if rank == len(losses) else sorted(losses)[rank - 1]
    return max(0.0, worst)


def loss_bound(lines: Sequence[Line]) -> float:
    """What no day's loss exceeds, hence no VaR: each symbol's worst day, as if all came together.

    Costs a few products, so that most orders need no simulation. Raises `VarDataUnavailable` likewise.
    """
    if not lines:
        return 0.0
    _same_days(lines)
    bound = 0.0
    for longest, shortest, returns in lines:
        bound += max(0.0, longest * returns.worst_fall, -shortest * returns.worst_rise)
    return bound * _ROUNDING


def _same_days(lines: Sequence[Line]) -> None:
    if len(lines) == 1:
        return
    first = lines[0][2]
    for line in lines:
        returns = line[2]
        if returns is not first and (
            returns.last_day != first.last_day or len(returns.falls) != len(first.falls)
        ):
            raise VarDataUnavailable("the symbols' daily returns do not cover the same days")


@lru_cache(maxsize=64)
def var_rank(confidence: Decimal, days: int) -> int:
    """⌈c·n⌉, exactly: which of the n losses, smallest first, is the value at risk."""
    return max(1, int((confidence * days).to_integral_value(rounding=ROUND_CEILING)))
