"""What a repeated request is answered: the outcome of the earlier one under its client order id.

Where an earlier order stands is read from the ledger. What the ledger cannot tell is whether the journal of
orders holds one of which the venue has said nothing: that is known only to the worker that has it in hand or
has sent it. Every other worker tells the outcome as unknown, until the venue has spoken.
"""

import asyncio
from typing import Final, Protocol

from services.ledger.errors import LedgerUnavailable
from services.ledger.order import Order
from services.oms.outcomes import Outcome, OutcomeUnknown, Submitted, is_undecided, outcome_of
from services.runtime.clock import Clock

REPEAT_WAIT_SEC: Final = 0.5
"""How long a repeated request waits for an original that another worker still has in hand."""
REMEMBERED: Final = 65_536
"""Orders of which a worker knows that it has sent them."""


class Repeated(Exception):
    """The client order id belongs to an earlier order."""

    def __init__(self, order: Order) -> None:
        super().__init__(order.order_id)
        self.order = order


class Ledger(Protocol):
    """What repeated requests need of the account ledger."""

    async def order(self, order_id: str) -> Order | None: ...

    async def order_by_client_id(self, account: str, client_order_id: str) -> Order | None: ...


class EarlierOrders:
    """What one worker knows of the orders that were submitted before."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._in_hand: dict[str, asyncio.Task[Outcome]] = {}
        self._sent: dict[str, None] = {}

    def note_begun(self, order_id: str, submission: "asyncio.Task[Outcome]") -> None:
        """`submission` has the order in hand until it ends."""
        self._in_hand[order_id] = submission
        submission.add_done_callback(lambda _: self._in_hand.pop(order_id, None))

    def note_sent(self, order: Order) -> None:
        """The journal of orders holds `order`."""
        if order.client_order_id or order.group is not None:
            self._sent[order.order_id] = None
            if len(self._sent) > REMEMBERED:
                del self._sent[next(iter(self._sent))]

    def was_sent(self, order_id: str) -> bool:
        """Whether this worker knows that the stream holds the order; only the latest ones are remembered."""
        return order_id in self._sent

    async def outcome(self, original: Order) -> Outcome:
        """The outcome of `original`, which has the same client order id and payload.

        Raises `OutcomeUnknown`, and what the submission that has it in hand fails with.
        """
        in_hand = self._in_hand.get(original.order_id)
        if in_hand is not None:
            return await asyncio.shield(in_hand)
        known = await self.beyond_pending(original)
        if self.was_sent(known.order_id):
            return Submitted(known.order_id, known.client_order_id)
        return outcome_of(known)

    async def beyond_pending(self, original: Order) -> Order:
        """An earlier order when more is known of it than its reservation, or it is known to be sent.

        Raises `OutcomeUnknown` after `REPEAT_WAIT_SEC`.
        """
        deadline = self._clock.monotonic() + REPEAT_WAIT_SEC
        wait = 0.005
        while is_undecided(original) and not self.was_sent(original.order_id):
            # Another worker has it, or had it when it died: only the journal and the venue know more.
            if self._clock.monotonic() >= deadline:
                raise OutcomeUnknown(
                    original, f"order {original.order_id} is on its way; what became of it is not known yet"
                )
            await asyncio.sleep(wait)
            wait *= 2
            original = await self.read(original.order_id, original)
        return original

    async def read(self, order_id: str, asking: Order) -> Order:
        """An order's record. Raises `OutcomeUnknown` of `asking` when it cannot be read."""
        found = await self.find(order_id, asking)
        if found is None:
            raise _unreadable(order_id, asking)
        return found

    async def find(self, order_id: str, asking: Order) -> Order | None:
        """An order's record, or what is remembered of it under the client order id of `asking`; None when
        there is neither. Raises `OutcomeUnknown` of `asking` when the ledger cannot be read."""
        try:
            found = await self._ledger.order(order_id)
            if found is None and asking.client_order_id:
                # An order that has left the ledger is remembered under its client order id.
                found = await self._ledger.order_by_client_id(asking.account, asking.client_order_id)
        except LedgerUnavailable:
            raise _unreadable(order_id, asking) from None
        return found if found is not None and found.order_id == order_id else None


def _unreadable(order_id: str, asking: Order) -> OutcomeUnknown:
    return OutcomeUnknown(asking, f"order {order_id} cannot be read now; ask again")
