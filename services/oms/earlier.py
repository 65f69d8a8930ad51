"""What a repeated request is answered: the outcome of the earlier one under its client order id.

Where an earlier order stands is read from the ledger. What the ledger cannot tell is whether the journal of
orders holds one of which the venue has said nothing: that is known only to the worker that has it in hand or
has sent it. Every other worker tells the outcome as unknown, until the venue has spoken.

Of a group that was denied or given up nothing left for the venue: all its orders are rejected. The exits of
a bracket share the fate of its entry. A pair leaves in one message, but a cancel of one of its orders may
overtake that: then the venue refuses the one and works the other, so each is told for itself.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Protocol

from services.ledger.errors import LedgerUnavailable
from services.ledger.order import Group, GroupRole, Order
from services.oms.outcomes import (
    Outcome,
    Outcomes,
    OutcomeUnknown,
    Submitted,
    given_up,
    is_undecided,
    outcome_of,
)
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
        self._groups_in_hand: dict[str, asyncio.Task[Outcomes]] = {}
        self._sent: dict[str, None] = {}

    def note_begun(self, order_id: str, submission: "asyncio.Task[Outcome]") -> None:
        """`submission` has the order in hand until it ends."""
        self._in_hand[order_id] = submission
        submission.add_done_callback(lambda _: self._in_hand.pop(order_id, None))

    def note_group_begun(self, group_id: str, submission: "asyncio.Task[Outcomes]") -> None:
        """`submission` has the group in hand until it ends."""
        self._groups_in_hand[group_id] = submission
        submission.add_done_callback(lambda _: self._groups_in_hand.pop(group_id, None))

    def note_sent(self, order: Order) -> None:
        """The journal of orders holds `order`, and what left with it; only the latest are remembered."""
        if order.client_order_id or order.group is not None:
            self._sent[order.order_id] = None
            if len(self._sent) > REMEMBERED:
                del self._sent[next(iter(self._sent))]

    async def outcome(self, original: Order) -> Outcome:
        """The outcome of `original`, which has the same client order id and payload as what is asked for now.

        Raises `OutcomeUnknown`, and what the submission that has the order in hand fails with.
        """
        in_hand = self._in_hand.get(original.order_id)
        if in_hand is not None:
            return await asyncio.shield(in_hand)
        return await self._told(original)

    async def group_outcomes(self, known: Order, asked: Sequence[Order]) -> Outcomes:
        """The outcomes of the group that `known` is of, which has the payload of `asked`; in the same order.

        Raises as `outcome` does.
        """
        group = _group(known)
        in_hand = self._groups_in_hand.get(group.group_id)
        if in_hand is not None:
            return await asyncio.shield(in_hand)
        first = known if known.order_id == group.group_id else await self.find(group.group_id, asked[0])
        ids = _ids(known if first is None else first, asked)
        held = [await self.find(order_id, order) for order_id, order in zip(ids, asked, strict=True)]
        told = [await self._told(order) for order in _deciding(group.role, held)]
        return tuple(
            replace(one, order_id=order_id, client_order_id=order.client_order_id)
            for one, order_id, order in zip(told, ids, asked, strict=True)
        )

    async def _told(self, original: Order | None) -> Outcome:
        """The outcome of an earlier order that this worker does not have in hand."""
        if original is None:
            # One that has left the ledger, with nothing to remember it by, had been submitted.
            return Submitted("", "")
        known = await self._beyond_pending(original)
        if self._was_sent(known):
            return Submitted(known.order_id, known.client_order_id)
        return outcome_of(known)

    async def _beyond_pending(self, original: Order) -> Order:
        """An earlier order when more is known of it than its reservation, or it is known to be sent.

        Raises `OutcomeUnknown` after `REPEAT_WAIT_SEC`.
        """
        deadline = self._clock.monotonic() + REPEAT_WAIT_SEC
        wait = 0.005
        while is_undecided(original) and not self._was_sent(original):
            # Another worker has it, or had it when it died: only the journal and the venue know more.
            if self._clock.monotonic() >= deadline:
                raise OutcomeUnknown(
                    original, f"order {original.order_id} is on its way; what became of it is not known yet"
                )
            await asyncio.sleep(wait)
            wait *= 2
            original = await self.read(original.order_id, original)
        return original

    def _was_sent(self, order: Order) -> bool:
        group = order.group
        paired = group is not None and group.role is GroupRole.LEG and group.group_id in self._sent
        return paired or order.order_id in self._sent

    async def read(self, order_id: str, *asking: Order) -> Order:
        """An order's record. Raises `OutcomeUnknown` of the first of `asking` when it cannot be read."""
        found = await self.find(order_id, *asking)
        if found is None:
            raise _unreadable(order_id, asking[0])
        return found

    async def find(self, order_id: str, *asking: Order) -> Order | None:
        """An order's record, or what is remembered of it under the client order id of one of `asking`; None
        when there is neither. Raises `OutcomeUnknown` of the first of them when the ledger cannot be read."""
        try:
            found = await self._ledger.order(order_id)
            # An order that has left the ledger is remembered under its client order id.
            for order in asking:
                if found is None and order.client_order_id:
                    named = await self._ledger.order_by_client_id(order.account, order.client_order_id)
                    found = named if named is not None and named.order_id == order_id else None
        except LedgerUnavailable:
            raise _unreadable(order_id, asking[0]) from None
        return found


def _group(order: Order) -> Group:
    if order.group is None:
        raise ValueError(f"order {order.order_id} is of no group")
    return order.group


def _ids(known: Order, asked: Sequence[Order]) -> list[str]:
    """Ids of the group of `known` in the order of the request. Raises `OutcomeUnknown` when one is not told:
    only the first order knows all."""
    group = _group(known)
    if known.order_id == group.group_id:
        return [group.group_id, *group.linked]
    others = [name for name in group.linked if name != group.group_id]
    ids = [group.group_id]
    for order in asked[1:]:
        if order.client_order_id == known.client_order_id:
            ids.append(known.order_id)
        elif others:
            ids.append(others.pop())
        else:
            raise _unreadable(group.group_id, asked[0])
    return ids


def _deciding(role: GroupRole, held: Sequence[Order | None]) -> Sequence[Order | None]:
    """For each order of a group the one whose end tells its outcome."""
    refused = next((order for order in held if order is not None and given_up(order)), None)
    if refused is not None:
        return [refused] * len(held)
    return held if role is GroupRole.LEG else [held[0]] * len(held)


def _unreadable(order_id: str, asking: Order) -> OutcomeUnknown:
    return OutcomeUnknown(asking, f"order {order_id} cannot be read now; ask again")
