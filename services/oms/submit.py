"""A client's order on its way to the venue: reserve, publish, answer.

Invariants, whatever dies or stays silent in between:

- Nothing is published before its reservation is known to be committed.
- Only the worker that reserved publishes, so an order is published by one process or by none.
- `rejected` is answered only for an order that can never reach the venue, and, under a client order id, when
  the ledger knows of no earlier order; `submitted` only for one that the journal of orders holds. Everything
  else is told as unknown, with the order id.
- Once begun, a submission runs to its end: neither the client's cancellation nor a stop interrupts it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from services.ledger.account import Account, TradingState
from services.ledger.commands import (
    Abandon,
    AbandonGroup,
    Command,
    Effect,
    Register,
    Reserve,
    ReserveGroup,
)
from services.ledger.commands import Outcome as LedgerOutcome
from services.ledger.deadline import GRACE_NS
from services.ledger.errors import CommitUnknown, LedgerUnavailable
from services.ledger.order import Order, OrderState
from services.oms import earlier
from services.oms.earlier import EarlierOrders, Repeated
from services.oms.order_entry import OrderEntry
from services.oms.outcomes import (
    Outcome,
    OutcomeUnknown,
    Rejected,
    SubmissionRecord,
    Submitted,
)
from services.oms.risk_client import Answer, ReservationUnknown, RiskUnreachable
from services.oms.settling import COMMIT_TIMEOUT_SEC, settled
from services.oms.unchecked import unchecked_assess
from services.oms.wire import REASON_NAMES
from services.runtime.clock import Clock
from services.runtime.errors import AlreadyExists, ResourceExhausted, Unavailable
from services.runtime.publisher import PublishRefused, PublishUnknown
from services.runtime.telemetry import get_logger
from trade2026.oms.v1 import order_pb2
from trade2026.risk.v1 import risk_pb2

REPUBLISH_WAIT_SEC: Final = 0.25
REPUBLISH_SEC: Final = 0.8 * GRACE_NS / 1e9
"""How long an unacknowledged order is sent again; soon after, the sweeper begins to cancel it."""
OPENED: Final = 65_536
"""Accounts of which a worker knows that they are open."""

_log = get_logger("oms.submit")


class Ledger(earlier.Ledger, Protocol):
    """What submissions need of the account ledger."""

    async def execute(self, command: Command, timeout: float = 1.0) -> LedgerOutcome: ...

    def cached(self, account: str) -> Account | None: ...


class Reservations(Protocol):
    """What submissions need of risk; `RiskClient` is it."""

    @property
    def reachable(self) -> bool: ...

    def reserve(self, request: risk_pb2.ReserveRequest) -> "asyncio.Future[Answer]": ...


class Sender(Protocol):
    """What submissions need of the way to the venue; `Dispatch` is it."""

    def new_order(self, order: Order, protection_price: Decimal | None) -> bytes: ...

    def new_pair(self, first: Order, second: Order) -> bytes: ...

    async def send_new(self, order: Order, payload: bytes) -> object: ...


@dataclass(frozen=True, slots=True)
class SubmitRules:
    """What the settings say of submissions."""

    fail_closed: bool
    max_open_orders: int


T = TypeVar("T")
Settled: TypeAlias = Abandon | Reserve | AbandonGroup | ReserveGroup


class Submitter:
    """Submits orders; one a worker."""

    def __init__(
        self,
        entry: OrderEntry,
        risk: Reservations | None,
        ledger: Ledger,
        dispatch: Sender,
        connected: Callable[[], bool],
        record: SubmissionRecord,
        rules: SubmitRules,
        clock: Clock,
        require_room: Callable[[], None] = lambda: None,
    ) -> None:
        """`risk` is None when it is switched off; `connected`: the journal of orders can be reached;
        `require_room` raises `ResourceExhausted` when no further orders can be taken."""
        self._entry = entry
        self._risk = risk
        self._ledger = ledger
        self._dispatch = dispatch
        self._connected = connected
        self._record = record
        self._rules = rules
        self._clock = clock
        self._require_room = require_room
        self._assess = unchecked_assess(rules.max_open_orders)
        self._running: set[asyncio.Task[Any]] = set()
        self.earlier: Final = EarlierOrders(ledger, clock)
        """What repeated requests are answered, those for groups too."""
        self._opened: dict[str, None] = {}
        self._stopping = False

    @property
    def running(self) -> int:
        """Submissions that are not finished, those still being settled included."""
        return len(self._running)

    def begin(self, request: order_pb2.SubmitOrderRequest) -> "asyncio.Task[Outcome]":
        """Starts a submission; the task runs to its end whatever becomes of the caller (await it shielded).

        Raises `InvalidArgument` for a request that says nothing valid, and what `require_ready` raises: then
        nothing was done. The task fails with `OutcomeUnknown`, `AlreadyExists`,
        `ResourceExhausted` or `Unavailable`.
        """
        started = time.perf_counter()
        self.require_ready()
        order = self._entry.read(request, self._clock.now_ns())
        task = self.own(self._submit(order, request, started), order.order_id)
        if order.client_order_id:
            self.earlier.note_begun(order.order_id, task)
        return task

    def require_ready(self) -> None:
        """Raises `Unavailable` when nothing can be sent, `ResourceExhausted` when no more can be taken."""
        if self._stopping or not self._connected():
            raise Unavailable(
                "oms is stopping; nothing was done"
                if self._stopping
                else "the journal of orders cannot be reached; nothing was done",
                reason="NOT_READY",
            )
        try:
            self._require_room()
        except ResourceExhausted as refused:
            self._record.refused(refused.reason)
            raise

    async def drain(self) -> None:
        """Refuses new orders and returns when every submission that was begun is finished."""
        self._stopping = True
        while self._running:
            await asyncio.wait(self._running)

    def own(self, work: Coroutine[Any, Any, Any], name: str) -> "asyncio.Task[Any]":
        """Runs `work` to its end, whatever becomes of who asked for it; a stop waits for it too."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._running.discard(task)
        if not task.cancelled():
            # A caller that has gone away does not read it.
            task.exception()

    async def _submit(self, order: Order, request: order_pb2.SubmitOrderRequest, started: float) -> Outcome:
        outcome: Outcome | Exception | None = None
        try:
            outcome = await self._carry_out(order, request)
            return outcome
        except Exception as error:
            outcome = error
            raise
        finally:
            if outcome is not None:
                self._record.answered(order, (time.perf_counter() - started) * 1000, outcome)

    async def _carry_out(self, order: Order, request: order_pb2.SubmitOrderRequest) -> Outcome:
        try:
            if not await self.open_account(order.account):
                message = "the account cannot be read or opened; nothing was reserved"
                return await self._denied(order, "ledger_unavailable", message)
            if self._risk is None:
                return await self._reserve_unchecked(order, "risk_service.enabled is false")
            sent = time.perf_counter()
            try:
                answer = await self._risk.reserve(self._entry.reservation(order, request))
            except (ReservationUnknown, RiskUnreachable) as failure:
                latency_ms = (time.perf_counter() - sent) * 1000
                self._record.risk_check(order, "unknown", latency_ms, failure.reason)
                return await self._without_answer(order, failure)
            return await self._on_answer(order, answer)
        except Repeated as repeated:
            return await self.earlier.outcome(repeated.order)

    async def open_account(self, account: str) -> bool:
        """Opens an account at the first sight of it; False when that cannot be done now.

        A reservation would open it too, but has only milliseconds for everything.
        """
        if account in self._opened:
            return True
        if self._risk is not None and not self._risk.reachable:
            return True
        try:
            await self._ledger.execute(Register(account), timeout=COMMIT_TIMEOUT_SEC)
        except (LedgerUnavailable, CommitUnknown) as error:
            _log.warning("account not opened", account=account, error=f"{type(error).__name__}: {error}")
            return False
        self._opened[account] = None
        if len(self._opened) > OPENED:
            del self._opened[next(iter(self._opened))]
        return True

    async def _on_answer(self, order: Order, answer: Answer) -> Outcome:
        response = answer.response
        if response.order_id != order.order_id:
            self._record.risk_check(order, "repeated", answer.latency_ms)
            original = await self.earlier.read(response.order_id, order)
            raise Repeated(original)
        if not response.approved:
            reason = REASON_NAMES.get(response.reason, "risk_check_failed")
            self._record.risk_check(order, "denied", answer.latency_ms, reason)
            if reason == "ledger_unavailable":
                return await self._denied(order, reason, response.message)
            return Rejected(order.order_id, order.client_order_id, reason, response.message)
        self._record.risk_check(order, "approved", answer.latency_ms)
        protection = (
            Decimal(response.protection_price.value) if response.HasField("protection_price") else None
        )
        return await self._publish(order, protection)

    async def _without_answer(self, order: Order, failure: ReservationUnknown | RiskUnreachable) -> Outcome:
        if not self._rules.fail_closed:
            return await self._reserve_unchecked(order, failure.reason)
        if isinstance(failure, RiskUnreachable):
            return await self._denied(order, failure.reason, failure.message)
        given_up = await self.settled(Abandon(order, failure.reason, failure.message), order)
        if given_up.is_open:
            # Not this submission's doing, which has published nothing: the sweeper is canceling it.
            raise OutcomeUnknown(order, f"order {order.order_id} is {given_up.state}")
        return Rejected(order.order_id, order.client_order_id, given_up.reason, given_up.message)

    async def _reserve_unchecked(self, order: Order, why: str) -> Outcome:
        try:
            held = await self.settled(Reserve(replace(order, unchecked=True), self._assess), order)
        except LedgerUnavailable:
            return await self._denied(order, "ledger_unavailable", "the account cannot be read")
        if held.unchecked and held.state is not OrderState.DENIED:
            self._record.unchecked(order, why)
        if not held.is_open:
            return Rejected(order.order_id, order.client_order_id, held.reason, held.message)
        if held.state is not OrderState.PENDING_NEW:
            raise OutcomeUnknown(order, f"order {order.order_id} is {held.state}")
        return await self._publish(order, held.terms.protection_price)

    async def _denied(self, order: Order, reason: str, message: str) -> Rejected:
        """Rejects an order of which nothing was reserved, and of which the ledger was not asked."""
        await self.require_unknown((order,), Abandon(order, reason, message))
        return Rejected(order.order_id, order.client_order_id, reason, message)

    async def require_unknown(self, orders: Sequence[Order], abandon: Abandon | AbandonGroup) -> None:
        """Makes sure that no client order id of `orders`, of which nothing was reserved, was used before.

        A request with one may repeat another whose order lives: `Repeated`. Only the ledger can tell; while
        it cannot be asked, the outcome is unknown.
        """
        named = next((order for order in orders if order.client_order_id), None)
        if named is None:
            return
        try:
            await self.settled(abandon, named, gives_up=True)
        except LedgerUnavailable:
            raise OutcomeUnknown(
                named,
                f"{abandon.message}; whether client order id {named.client_order_id} was used before"
                " cannot be read; ask again",
            ) from None

    async def settled(self, command: Settled, order: Order, *, gives_up: bool | None = None) -> Order:
        """`settled_outcome`, of which only the order is wanted; of a group the one that tells."""
        held = (await self.settled_outcome(command, order, gives_up=gives_up)).order
        assert held is not None
        return held

    async def settled_outcome(
        self, command: Settled, order: Order, *, gives_up: bool | None = None
    ) -> LedgerOutcome:
        """Runs `command` until it is answered, for its own orders.

        Raises `Repeated` and `AlreadyExists` when the client order id belongs to another order, and
        `OutcomeUnknown` when no answer comes for `SETTLE_SEC`. With `gives_up` (by default that of a
        reservation), `LedgerUnavailable` says that it certainly did nothing.
        """
        if gives_up is None:
            gives_up = isinstance(command, Reserve | ReserveGroup)
        try:
            outcome = await settled(self._ledger, command, self._clock, gives_up=gives_up)
        except CommitUnknown:
            raise OutcomeUnknown(
                order, f"what became of order {order.order_id} is not known; ask again"
            ) from None
        if outcome.effect is Effect.CONFLICT:
            raise AlreadyExists(
                f"client order id {order.client_order_id} belongs to an order with other terms",
                reason="CLIENT_ORDER_ID_REUSED",
                metadata={"client_order_id": order.client_order_id},
            )
        held = outcome.order
        assert held is not None
        own = command.orders if isinstance(command, ReserveGroup | AbandonGroup) else (command.order,)
        if all(held.order_id != one.order_id for one in own):
            raise Repeated(held)
        return outcome

    async def _publish(self, order: Order, protection: Decimal | None) -> Outcome:
        refused = await self.publish(
            order, self._dispatch.new_order(order, protection), lambda *why: self._withdraw(order, *why)
        )
        return Submitted(order.order_id, order.client_order_id) if refused is None else refused

    async def publish(
        self, order: Order, payload: bytes, withdraw: Callable[[str, str], Awaitable[T]]
    ) -> T | None:
        """Sends `payload`, the message of `order`; None when the stream holds it.

        `withdraw` gives up what is reserved, for a reason and with a sentence; what it answers is returned
        when trading was halted meanwhile. Raises what the caller is to be told of any other failure.
        """
        account = self._ledger.cached(order.account)
        if account is not None and account.trading_state is TradingState.HALTED:
            # Halted between the reservation and now.
            return await withdraw("trading_halted", f"trading is halted for account {order.account}")
        try:
            await self._dispatch.send_new(order, payload)
        except PublishRefused as refused:
            _log.warning("order not published", order_id=order.order_id, error=str(refused))
            await withdraw("not_published", "the journal of orders did not take the order")
            if self._connected():
                raise ResourceExhausted(
                    "the journal of orders takes no more; nothing was sent and the reservation is released",
                    reason="JOURNAL_FULL",
                    metadata={"order_id": order.order_id},
                ) from None
            raise Unavailable(
                "the journal of orders cannot be reached; nothing was sent and the reservation is released",
                reason="NOT_READY",
                metadata={"order_id": order.order_id},
            ) from None
        except Exception as unknown:
            # Whatever it was, the order may be on its way.
            if isinstance(unknown, PublishUnknown):
                _log.warning("order unacknowledged", order_id=order.order_id, error=str(unknown))
            else:
                _log.error("publication failed", order_id=order.order_id, exc_info=unknown)
            self.own(self._settle_publication(order, payload), f"settle {order.order_id}")
            raise OutcomeUnknown(
                order, f"whether order {order.order_id} reached the journal of orders is not known; ask again"
            ) from None
        self.earlier.note_sent(order)
        return None

    async def _withdraw(self, order: Order, reason: str, message: str) -> Rejected:
        """Gives up an order that is reserved and certainly not published."""
        held = await self.settled(Abandon(order, reason, message), order)
        if held.is_open:
            raise OutcomeUnknown(order, f"order {order.order_id} is {held.state}")
        return Rejected(order.order_id, order.client_order_id, held.reason, held.message)

    async def _settle_publication(self, order: Order, payload: bytes) -> None:
        """Sends an unacknowledged order again while nobody cancels it; then leaves it to the sweeper.

        A second copy is recognised by its message id, or else by the venue, which takes an order id once.
        """
        deadline = self._clock.monotonic() + REPUBLISH_SEC
        while self._clock.monotonic() < deadline and not self._stopping:
            await asyncio.sleep(REPUBLISH_WAIT_SEC)
            if not self._connected():
                continue
            try:
                held = await self._ledger.order(order.order_id)
                if held is None or held.state is not OrderState.PENDING_NEW:
                    return
                await self._dispatch.send_new(order, payload)
            except (LedgerUnavailable, PublishRefused, PublishUnknown):
                continue
            self.earlier.note_sent(order)
            _log.info("order published after all", order_id=order.order_id)
            return
