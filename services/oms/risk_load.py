"""How much is asked of risk: as many reservations as it answers in time, and no queue that stands.

Both are rules without I/O; times are seconds of one monotonic clock.
"""

import math
from typing import Final

BEGIN: Final = 32
"""Orders at risk at first."""
LEAST: Final = 10
LEAST_A_SECOND: Final = 1_000
"""The window never falls below `LEAST` orders, nor below what the documented load is within the deadline:
smaller ones could not carry it, and each order would only become dearer."""
SHRINK: Final = 0.85
"""What is left of a window after a call that was too much."""
_AMPLE: Final = 0.75
"""Share of the deadline within which an answer shows that there may be more."""


class Window:
    """Orders that may be at risk at a time, at most `most`.

    Additive increase, multiplicative decrease, as TCP does it (RFC 5681): what is sent beyond what risk can
    do within the deadline of a reservation is given up, at the price of a commit each; what waits for its
    sending costs nothing.
    """

    def __init__(self, deadline_sec: float, most: int) -> None:
        self._ample_ms = deadline_sec * 1e3 * _AMPLE
        self._most = most
        self._least = min(float(most), max(LEAST, deadline_sec * LEAST_A_SECOND))
        self._size = max(self._least, float(min(BEGIN, most)))

    @property
    def size(self) -> int:
        """Orders that may be at risk now."""
        return int(self._size)

    def answered(self, orders: int, room: int, latency_ms: float) -> None:
        """A call of `orders` was answered after `latency_ms`; it had room for `room` of them."""
        # A call that was not full shows nothing.
        if orders >= room and latency_ms <= self._ample_ms:
            self._size = min(self._most, self._size + orders / self._size)

    def missed(self, orders: int, room: int) -> None:
        """A call of `orders` was not answered in time, or some of them were not finished by then."""
        if 2 * orders > room:
            # A smaller one was late for reasons of its own.
            self._size = max(self._least, self._size * SHRINK)


class Backlog:
    """Tells overload from a burst.

    A burst, whatever its size, comes within `bound_sec` and is worked off. Overload is a queue that stands:
    an order has waited for longer than that. Then no more are taken than leave within `bound_sec`, until the
    queue has been empty.
    """

    def __init__(self, bound_sec: float) -> None:
        self._bound = bound_sec
        self._stands = False
        self._pace = math.inf
        """Seconds for one order to leave, in the last `bound_sec` that were measured while some waited."""
        self._begun = 0.0
        self._left = 0

    def refuses(self, now: float, waiting: int, oldest: float) -> bool:
        """Whether one more is too much when `waiting` orders wait, the first of them since `oldest`."""
        if not waiting:
            self._stands = False
            self._begun, self._left = now, 0
            return False
        elapsed = now - self._begun
        if elapsed >= self._bound:
            self._pace = elapsed / self._left if self._left else math.inf
            self._begun, self._left = now, 0
        self._stands = self._stands or now - oldest > self._bound
        return self._stands and waiting * self._pace > self._bound

    def left(self, orders: int) -> None:
        """`orders` wait no longer."""
        self._left += orders
