"""A client's cancel: recorded in the ledger, then sent to the venue, and sent until the venue answers."""

from typing import Final, Protocol

from services.ledger.commands import Command, Effect, Outcome, RequestCancel
from services.ledger.errors import CommitUnknown, LedgerUnavailable
from services.ledger.order import Order
from services.ledger.partition import account_of
from services.oms.dispatch import Dispatch
from services.oms.outcomes import RETRY_AFTER_SEC, OutcomeUnknown
from services.order_request import ACCOUNT
from services.runtime.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from services.runtime.publisher import PublishError
from services.runtime.telemetry import counter, get_logger

BY_CLIENT: Final = "client_request"
"""Reason of an order that ended because its client canceled it."""

_cancels: Final = counter("oms_cancel_requests", "Cancels asked for by clients, by outcome.", ("outcome",))
_log = get_logger("oms.cancel")


class Ledger(Protocol):
    """What cancels need of the account ledger."""

    async def execute(self, command: Command, timeout: float = 1.0) -> Outcome: ...


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


class Canceler:
    """Cancels single orders; one a worker."""

    def __init__(self, ledger: Ledger, dispatch: Dispatch) -> None:
        self._ledger = ledger
        self._dispatch = dispatch

    async def cancel(self, order_id: str) -> Order:
        """Asks the venue to cancel; the order as it stands, pending_cancel. To be shielded by the caller.

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
            raise FailedPrecondition(
                f"order {order_id} is {order.state}",
                reason="ORDER_ENDED",
                metadata={"order_id": order_id, "state": order.state.value},
            )
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
