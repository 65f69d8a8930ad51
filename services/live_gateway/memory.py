"""Every order that the venue is done with, remembered without keeping all of them in memory.

The newest ones are kept here, the others in the journal. An order id ends with a ULID, whose first part is
its time: an id younger than everything that was dropped from memory cannot be in the journal unless it is
here, so only old ids (a repeated message, an answer long after the order's end) need a look into the
journal.
"""

from typing import Final

from services.live_gateway.orders import SeenOrder

ULID_LENGTH: Final = 26


class OrderMemory:
    """The newest of them, and from where on the journal has to be asked."""

    def __init__(self, capacity: int, journaled_up_to: str = "") -> None:
        """`capacity`: orders kept. `journaled_up_to`: highest ULID of all orders in the journal."""
        self._capacity = capacity
        self._recent: dict[str, SeenOrder] = {}
        self._dropped_up_to = journaled_up_to
        self.highest = journaled_up_to
        """Highest ULID of all of them; to be journaled."""

    def recall(self, order_id: str) -> SeenOrder | None:
        """What is kept of the order, None when it is not in memory."""
        return self._recent.get(order_id)

    def needs_journal(self, order_id: str) -> bool:
        """Whether only the journal can tell if this id was seen."""
        return order_id not in self._recent and order_id[-ULID_LENGTH:] <= self._dropped_up_to

    def remember(self, order_id: str, order: SeenOrder) -> None:
        """Keeps an order that has ended, or its changed record, as the newest."""
        self._recent.pop(order_id, None)
        self._recent[order_id] = order
        ulid = order_id[-ULID_LENGTH:]
        if ulid > self.highest:
            self.highest = ulid

    def trim(self, not_journaled: int) -> None:
        """Drops the oldest beyond the capacity, but none of the newest `not_journaled` ones."""
        recent = self._recent
        excess = len(recent) - max(self._capacity, not_journaled)
        if excess <= 0:
            return
        for order_id in [order_id for order_id, _ in zip(recent, range(excess), strict=False)]:
            del recent[order_id]
            ulid = order_id[-ULID_LENGTH:]
            if ulid > self._dropped_up_to:
                self._dropped_up_to = ulid

    def __len__(self) -> int:
        return len(self._recent)
