"""Identifiers: ULIDs (26 characters, sortable by their millisecond) and the order ids made of them."""

import os
import random
import time
from typing import Final

from ulid import ULID

ULID_LENGTH: Final = 26

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS: Final = tuple(first + second for first in _ALPHABET for second in _ALPHABET)
"""Crockford's base 32, ten bits at a time."""
_FIRST: Final = 79
"""Random bits of a millisecond's first ULID: of 80, the highest is left for steps further."""
_STEP: Final = 71
"""Bits of the step between two ULIDs of one millisecond: a microsecond, when random bits stand for the time
below it. Some 500 have room; what is made faster takes its time from the next millisecond."""
_AHEAD_MS: Final = 1_000
"""How far ULIDs may be ahead of a clock that was set back. Beyond, they follow it: readers take the time in
an order's id for that of the order."""


class Numbers:
    """The two numbers of a ULID, each pair larger than the one before while the clock is not set back far."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forgets what was drawn, for a process that must draw something else."""
        self._random = random.Random(os.urandom(32))
        self._moment = self._chance = 0

    def draw(self) -> tuple[int, int]:
        """Milliseconds since the epoch (48 bits) and what tells their ULIDs apart (80 bits)."""
        moment = time.time_ns() // 1_000_000
        chance = self._chance + 1 + self._random.getrandbits(_STEP)
        if not 0 <= self._moment - moment <= _AHEAD_MS:
            self._moment, chance = moment, self._random.getrandbits(_FIRST)
        elif chance >> 80:
            self._moment, chance = self._moment + 1, self._random.getrandbits(_FIRST)
        self._chance = chance
        return self._moment, chance


_numbers: Final = Numbers()
# Two processes that draw the same numbers would give two orders one id.
os.register_at_fork(after_in_child=_numbers.begin)


def new_ulid() -> str:
    """A new ULID (github.com/ulid/spec), larger than all that this process made before unless the clock was
    set back by more than a second.

    48 bits of milliseconds since the epoch, then 80 bits: random for the first of a millisecond, random steps
    further for the next.
    """
    moment, chance = _numbers.draw()
    pairs = _PAIRS
    return (
        f"{pairs[moment >> 40]}{pairs[moment >> 30 & 1023]}{pairs[moment >> 20 & 1023]}"
        f"{pairs[moment >> 10 & 1023]}{pairs[moment & 1023]}"
        f"{pairs[chance >> 70]}{pairs[chance >> 60 & 1023]}{pairs[chance >> 50 & 1023]}"
        f"{pairs[chance >> 40 & 1023]}{pairs[chance >> 30 & 1023]}{pairs[chance >> 20 & 1023]}"
        f"{pairs[chance >> 10 & 1023]}{pairs[chance & 1023]}"
    )


def new_order_id(account: str) -> str:
    """`{account}-{ULID}`: the account, hence the ledger's keys, follow from the id alone."""
    return f"{account}-{new_ulid()}"


def created_ms(order_id: str) -> int:
    """The millisecond since the epoch in an order id's ULID; 0 for what is none."""
    try:
        return int(ULID.from_str(order_id[-ULID_LENGTH:]).milliseconds)
    except ValueError:
        return 0
