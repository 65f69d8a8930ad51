"""Orders that wait too long are canceled at the venue, again and again, until the venue answers.

Each time twice as long is waited (`deadline`). While the journal of orders cannot be reached nothing is asked
for: it could not be sent, and would make the next wait longer.

Due are: an order that was reserved and of which the venue has said nothing (its publisher may have died
before or after it published), a cancel without an answer, an amendment without one, and a working order whose
expiry the venue has not reported. In each case the venue knows the truth or makes it: it answers a cancel of
an order that it never saw with `canceled`, and refuses the order if it comes later.

An amendment is first sent again, a few times: its client wants the order to live. A venue that has taken it
recognises its revision; only one that stays silent for so long has its order canceled.

An exit of a bracket guards what its entry has bought or sold, and nobody but the owner of the partition sends
it. While the venue says nothing of it, it is sent again, which is harmless, and ever more rarely.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol

from services.ledger.commands import Command, Effect, Outcome, RepeatAmend, RequestCancel
from services.ledger.deadline import GRACE_NS, due_ns, has_expired, is_sent_again, sent_again_ns
from services.ledger.errors import LedgerError
from services.ledger.order import Order, OrderState, Terms
from services.ledger.reading import DueOrder
from services.runtime.clock import Clock
from services.runtime.publisher import PublishError
from services.runtime.telemetry import counter, get_logger

INTERVAL_SEC: Final = 0.5
PAGE: Final = 100
VENUE_SILENT: Final = "venue_silent"
"""Reason of a cancel that nobody asked for: the venue has said nothing of the order, which may never have
been published."""
AMENDMENT_REPEATS: Final = 5
"""How often an amendment without an answer is sent again before its order is canceled."""

_swept: Final = counter("oms_swept_orders", "Overdue orders that were canceled at the venue.", ("state",))
_repeated: Final = counter("oms_repeated_amendments", "Overdue amendments that were sent to the venue again.")
_log = get_logger("oms.sweeper")


class Ledger(Protocol):
    """What the sweeper needs of the account ledger."""

    async def due(
        self, partition: int, now_ns: int, limit: int = 100, skip: int = 0
    ) -> tuple[DueOrder, ...]: ...

    async def put_off(self, partition: int, due: DueOrder, until_ns: int) -> bool: ...

    async def execute(self, command: Command, timeout: float = 1.0) -> Outcome: ...

    async def order(self, order_id: str) -> Order | None: ...


class Sender(Protocol):
    """What the sweeper needs of the way to the venue; `Dispatch` is it."""

    async def send_cancel(self, order: Order) -> object: ...

    async def send_replace(self, order: Order, revision: int, terms: Terms) -> object: ...

    async def send_activated(self, orders: Sequence[Order]) -> object: ...


class Sweeper:
    """Looks after the partitions that this worker owns."""

    def __init__(
        self,
        ledger: Ledger,
        dispatch: Sender,
        connected: Callable[[], bool],
        owned: Callable[[], Collection[int]],
        clock: Clock,
    ) -> None:
        """`connected`: the journal of orders can be reached; `owned` tells the partitions owned now."""
        self._ledger = ledger
        self._dispatch = dispatch
        self._connected = connected
        self._owned = owned
        self._clock = clock

    async def run(self) -> None:
        """Sweeps until cancelled."""
        while True:
            for partition in list(self._owned()):
                try:
                    await self.sweep(partition)
                except LedgerError as error:
                    _log.warning(
                        "sweep failed", partition=partition, error=f"{type(error).__name__}: {error}"
                    )
            await asyncio.sleep(INTERVAL_SEC)

    async def sweep(self, partition: int) -> int:
        """Looks after what is due now; returns how many orders that was. Raises `LedgerError`."""
        now_ns = self._clock.now_ns()
        swept = skip = 0
        while self._connected():
            page = await self._ledger.due(partition, now_ns, PAGE, skip)
            moved = sum(await asyncio.gather(*(self._settle(partition, due, now_ns) for due in page)))
            swept += moved
            # What was moved on is not due any more; what could not be is passed over, until the next sweep.
            skip += len(page) - moved
            if len(page) < PAGE:
                break
        return swept

    async def _settle(self, partition: int, due: DueOrder, now_ns: int) -> bool:
        """Whether the order has moved on in the index."""
        order = due.order
        if order is None or not _is_overdue(order, now_ns):
            return False
        expired = has_expired(order, now_ns)
        if is_sent_again(order) and not expired:
            return await self._send_exit(partition, due, order, now_ns)
        in_flight = order.replacement if order.state is OrderState.PENDING_REPLACE else None
        if in_flight is not None and not expired and in_flight.repeats < AMENDMENT_REPEATS:
            return await self._repeat_amendment(order, in_flight.revision)
        return await self._cancel(order, "expired" if expired else VENUE_SILENT)

    async def _send_exit(self, partition: int, due: DueOrder, order: Order, now_ns: int) -> bool:
        """Sends an exit again, with the one that was activated with it."""
        linked = order.group.linked if order.group is not None else ()
        again_ns = sent_again_ns(order, now_ns)
        try:
            siblings = [await self._ledger.order(name) for name in linked]
            # One that has ended may have been canceled before it was activated: it must never be sent.
            alive = [one for one in siblings if one is not None and one.counts_as_open]
            await self._dispatch.send_activated([order, *alive])
        except (LedgerError, PublishError) as error:
            _log.warning("exit not sent", order_id=order.order_id, error=str(error))
            # The journal of orders does not hold it for the venue: no longer than necessary.
            again_ns = min(again_ns, now_ns + GRACE_NS)
        else:
            _log.warning("exit sent again", order_id=order.order_id, account=order.account)
        try:
            return await self._ledger.put_off(partition, due, again_ns)
        except LedgerError as error:
            _log.warning("exit not put off", order_id=order.order_id, error=str(error))
            return False

    async def _repeat_amendment(self, order: Order, revision: int) -> bool:
        try:
            outcome = await self._ledger.execute(RepeatAmend(order.account, order.order_id, revision))
        except LedgerError as error:
            _log.warning("overdue amendment not repeated", order_id=order.order_id, error=str(error))
            return False
        held = outcome.order
        if outcome.effect is not Effect.DONE or held is None or held.replacement is None:
            return False
        _repeated.inc()
        _log.warning(
            "overdue amendment",
            order_id=order.order_id,
            account=order.account,
            revision=revision,
            repeat=held.replacement.repeats,
        )
        try:
            await self._dispatch.send_replace(held, revision, held.replacement.terms)
        except PublishError as error:
            # It stays pending_replace, so it is due again.
            _log.warning("amendment not acknowledged", order_id=order.order_id, error=str(error))
        return True

    async def _cancel(self, order: Order, why: str) -> bool:
        again = order.state is OrderState.PENDING_CANCEL
        reason = order.reason if again else why
        try:
            outcome = await self._ledger.execute(
                RequestCancel(order.account, order.order_id, reason, again=again)
            )
        except LedgerError as error:
            _log.warning("overdue order not canceled", order_id=order.order_id, error=str(error))
            return False
        held = outcome.order
        if outcome.effect is not Effect.DONE or held is None:
            return False
        _swept.labels(order.state.value).inc()
        _log.warning(
            "overdue order",
            order_id=order.order_id,
            account=order.account,
            state=order.state.value,
            reason=reason,
            cancel=held.cancels,
        )
        try:
            await self._dispatch.send_cancel(held)
        except PublishError as error:
            # It stays pending_cancel, so it is due again.
            _log.warning("cancel not acknowledged", order_id=order.order_id, error=str(error))
        return True


def _is_overdue(order: Order, now_ns: int) -> bool:
    """The index may name an order that has moved on since; its record decides."""
    deadline = due_ns(order)
    return deadline is not None and deadline <= now_ns
