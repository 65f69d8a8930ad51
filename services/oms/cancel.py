"""A client's cancels: recorded in the ledger, then sent to the venue, and sent until the venue answers."""

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from services.ledger.commands import Command, Effect, Outcome, RequestCancel
from services.ledger.errors import CommitUnknown, LedgerError, LedgerUnavailable
from services.ledger.order import Order
from services.ledger.partition import account_of
from services.oms.outcomes import RETRY_AFTER_SEC, OutcomeUnknown
from services.order_request import ACCOUNT
from services.runtime.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from services.runtime.publisher import PublishError
from services.runtime.telemetry import counter, get_logger

BY_CLIENT: Final = "client_request"
"""Reason of an order that ended because its client canceled it."""

TOGETHER: Final = 256
"""Cancels of one account that are recorded, and then sent, at once."""

_cancels: Final = counter("oms_cancel_requests", "Cancels asked for by clients, by outcome.", ("outcome",))
_log = get_logger("oms.cancel")


class Ledger(Protocol):
    """What cancels need of the account ledger."""

    async def execute(self, command: Command, timeout: float = 1.0) -> Outcome: ...

    async def open_orders(self, account: str) -> tuple[Order, ...]: ...


class Sender(Protocol):
    """What cancels need of the way to the venue; `Dispatch` is it."""

    async def send_cancel(self, order: Order) -> object: ...


def read_order_id(order_id: str) -> str:
    """The account in `order_id`. Raises `InvalidArgument` when it is empty, `NotFound` for another shape."""
    if not order_id:
        raise InvalidArgument("order_id", "is required")
    try:
        account = account_of(order_id)
    except ValueError:
        raise order_not_found(order_id) from None
    if not ACCOUNT.fullmatch(account) or not order_id.isascii() or not order_id[-26:].isalnum():
        raise order_not_found(order_id)
    return account


def order_not_found(order_id: str) -> NotFound:
    """The one answer for an order that does not exist, and for one that is somebody else's."""
    shown = order_id[:128]
    return NotFound(f"there is no order {shown}", reason="ORDER_NOT_FOUND", metadata={"order_id": shown})


def order_ended(order_id: str, state: str) -> FailedPrecondition:
    """The answer for what cannot be done any more to an order."""
    return FailedPrecondition(
        f"order {order_id} is {state}",
        reason="ORDER_ENDED",
        metadata={"order_id": order_id, "state": state},
    )


class Canceler:
    """Cancels orders; one a worker."""

    def __init__(self, ledger: Ledger, dispatch: Sender) -> None:
        self._ledger = ledger
        self._dispatch = dispatch

    async def cancel(self, order_id: str) -> Order:
        """Asks the venue to cancel; the order as it stands, pending_cancel. To be shielded by the caller.

        An exit that waits for its entry is canceled at once: no venue knows it.

        Raises `NotFound`, `FailedPrecondition` for an order that has ended, and `Unavailable` when the ledger
        or the journal of orders does not answer. A request that the ledger holds is repeated by the sweeper.
        """
        account = read_order_id(order_id)
        try:
            outcome = await self._ledger.execute(RequestCancel(account, order_id, BY_CLIENT))
        except LedgerUnavailable:
            raise Unavailable(
                f"order {order_id} cannot be read now; nothing was done", metadata={"order_id": order_id}
            ) from None
        except CommitUnknown:
            raise Unavailable(
                f"whether the cancel of order {order_id} was recorded is not known; ask again",
                metadata={"order_id": order_id},
                reason="OUTCOME_UNKNOWN",
                retry_after_sec=RETRY_AFTER_SEC,
            ) from None
        if outcome.effect is Effect.NOT_FOUND:
            _cancels.labels("not_found").inc()
            raise order_not_found(order_id)
        order = outcome.order
        assert order is not None
        if outcome.effect is Effect.NOT_OPEN:
            _cancels.labels("ended").inc()
            raise order_ended(order_id, order.state.value)
        if not order.is_open:
            # An exit that waited for its entry: the venue does not know it.
            _cancels.labels("at_once").inc()
            _log.info("order canceled", order_id=order_id, account=account)
            return order
        try:
            # A repeated request sends the same message again: the stream, or the venue, recognises it.
            await self._dispatch.send_cancel(order)
        except PublishError as error:
            _cancels.labels("unknown").inc()
            _log.warning("cancel not acknowledged", order_id=order_id, error=str(error))
            raise OutcomeUnknown(
                order, f"the cancel of order {order_id} is recorded and will be sent; ask again"
            ) from None
        _cancels.labels("sent").inc()
        _log.info("cancel requested", order_id=order_id, account=account, number=order.cancels)
        return order

    async def cancel_all(self, account: str, reason: str, symbol: str = "") -> list[str]:
        """Asks the venue to cancel what the account has open now (in `symbol`, unless empty).

        Ids of the orders for which a cancel is recorded, oldest first; none for an unknown account. To be
        shielded by the caller. Raises `Unavailable` as `cancel_each` does.
        """
        try:
            found = await self._ledger.open_orders(account)
        except LedgerUnavailable:
            raise Unavailable(
                f"the orders of account {account} cannot be read now; nothing was done",
                reason="LEDGER_UNAVAILABLE",
            ) from None
        wanted = [order for order in found if symbol in ("", order.symbol)]
        recorded = await self.cancel_each(wanted, reason)
        _log.info("cancel of all requested", account=account, orders=len(recorded), reason=reason)
        return recorded

    async def cancel_each(self, orders: Sequence[Order], reason: str) -> list[str]:
        """Asks the venue to cancel `orders`; ids of those for which that is recorded, in their order.

        One that has ended meanwhile needs no cancel. A message that the journal of orders does not
        acknowledge is repeated by the sweeper. Raises `Unavailable` when not every cancel could be recorded:
        those that were are on their way, and asking again does the rest.
        """
        recorded: list[str] = []
        missed = 0
        for start in range(0, len(orders), TOGETHER):
            asked, unrecorded = await self._record(orders[start : start + TOGETHER], reason)
            missed += unrecorded
            recorded += [order.order_id for order in asked]
            await self._send(asked)
        if missed:
            raise Unavailable(
                f"{missed} of {len(orders)} cancels could not be recorded now; ask again",
                reason="OUTCOME_UNKNOWN",
                retry_after_sec=RETRY_AFTER_SEC,
            )
        return recorded

    async def _record(self, orders: Sequence[Order], reason: str) -> tuple[list[Order], int]:
        """The orders as they stand with a cancel requested, and how many could not be recorded.

        An order that has ended in the meantime is neither.
        """
        outcomes = await asyncio.gather(
            *(self._ledger.execute(RequestCancel(o.account, o.order_id, reason)) for o in orders),
            return_exceptions=True,
        )
        asked: list[Order] = []
        missed = 0
        for outcome in outcomes:
            if isinstance(outcome, LedgerError):
                missed += 1
            elif isinstance(outcome, BaseException):
                raise outcome
            elif outcome.order is not None and outcome.order.is_open:
                asked.append(outcome.order)
        return asked, missed

    async def _send(self, orders: Sequence[Order]) -> None:
        sent = await asyncio.gather(*map(self._dispatch.send_cancel, orders), return_exceptions=True)
        for order, error in zip(orders, sent, strict=True):
            if not isinstance(error, BaseException):
                _cancels.labels("sent").inc()
            elif isinstance(error, PublishError):
                _cancels.labels("unknown").inc()
                _log.warning("cancel not acknowledged", order_id=order.order_id, error=str(error))
            else:
                raise error
