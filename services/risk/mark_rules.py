"""Which prices are believed as marks. Pure.

A price that steps away from the last mark by more than a set part is held back until several in a row agree
with each other: one wrong tick changes nothing, a market that really moved is followed after a moment.
"""

from dataclasses import dataclass
from decimal import Decimal

from services.ledger.numbers import ZERO


@dataclass(frozen=True, slots=True)
class JumpRule:
    """When a step is a jump, and what it takes to be believed."""

    jump_pct: Decimal
    """> 0: a step of more than so many percent of the last mark is a jump."""
    confirmations: int
    """≥ 1: so many prices in a row have to agree, the first included, each within `jump_pct` of the one
    before."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The believed price of one symbol, and the one that waits to be believed."""

    price: Decimal
    received: float
    """Local monotonic time, in seconds, at which the price arrived."""
    candidate: Decimal = ZERO
    """The latest price held back; 0: none."""
    agreeing: int = 0
    """Prices in a row that agree on the candidate, itself included."""


def next_mark(mark: Mark | None, price: Decimal, now: float, rule: JumpRule) -> Mark:
    """The mark after a tick of `price` > 0 at the monotonic time `now`.

    A price that is held back does not renew the mark: it goes on ageing.
    """
    if mark is None or not _jumps(mark.price, price, rule):
        return Mark(price, now)
    agreeing = 1
    if mark.agreeing and not _jumps(mark.candidate, price, rule):
        agreeing = mark.agreeing + 1
    if agreeing >= rule.confirmations:
        return Mark(price, now)
    return Mark(mark.price, mark.received, price, agreeing)


def _jumps(before: Decimal, price: Decimal, rule: JumpRule) -> bool:
    return abs(price - before) * 100 > rule.jump_pct * before
