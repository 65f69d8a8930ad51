"""A client's amendment on its way to the venue: reserve for both terms, publish, answer.

Invariants, whatever dies or stays silent in between:

- New terms are published only after their reservation is known to be committed, by the worker that was asked
  for them; another one (the sweeper) first notes in the ledger that it sends them too.
- An amendment is taken back only by a commit, and only while nobody else may have sent it. Then the old
  terms stand, and a reservation that comes later finds its revision used.
- `pending_replace` is answered only for an amendment that the ledger holds; it is sent until the venue
  answers.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Final, Protocol

from services.instruments import Instrument
from services.ledger.account import Account, TradingState
from services.ledger.commands import AbandonAmend, Amend, Command, Effect
from services.ledger.commands import Outcome as LedgerOutcome
from services.ledger.errors import CommitUnknown, LedgerUnavailable
from services.ledger.order import Order, OrderState, OrderType, Terms
from services.oms.cancel import order_not_found, read_order_id
from services.oms.order_entry import TIMES_IN_FORCE, TYPE_TO_WIRE
from services.oms.outcomes import OutcomeUnknown, SubmissionRecord
from services.oms.risk_client import Answer, ReservationUnknown, RiskUnreachable
from services.oms.settling import settled
from services.oms.submit import Reservations
from services.oms.unchecked import NO_LIMIT, unchecked_assess
from services.oms.wire import REASON_NAMES, SIDES, number_text
from services.order_request import PRICES, check_value, read_positive
from services.runtime.clock import Clock
from services.runtime.errors import (
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
    ServiceError,
    Unavailable,
)
from services.runtime.ids import new_ulid
from services.runtime.publisher import PublishRefused, PublishUnknown
from services.runtime.telemetry import counter, get_logger
from trade2026.oms.v1 import order_pb2
from trade2026.risk.v1 import risk_pb2

_WORKING: Final = frozenset({OrderState.NEW, OrderState.PARTIALLY_FILLED})
_TIMES_TO_WIRE: Final = {kind: number for number, kind in TIMES_IN_FORCE.items()}

_amendments: Final = counter(
    "oms_replace_requests", "Amendments by what the client was told.", ("outcome", "reason")
)
_log = get_logger("oms.amend")


class Ledger(Protocol):
    """What amendments need of the account ledger."""

    async def execute(self, command: Command, timeout: float = 1.0) -> LedgerOutcome: ...

    async def order(self, order_id: str) -> Order | None: ...

    def cached(self, account: str) -> Account | None: ...


class Sender(Protocol):
    """What amendments need of the way to the venue; `Dispatch` is it."""

    async def send_replace(self, order: Order, revision: int, terms: Terms) -> object: ...


class Amender:
    """Amends orders; one a worker."""

    def __init__(
        self,
        instruments: Mapping[str, Instrument],
        risk: Reservations | None,
        ledger: Ledger,
        dispatch: Sender,
        connected: Callable[[], bool],
        record: SubmissionRecord,
        fail_closed: bool,
        clock: Clock,
    ) -> None:
        """`risk` is None when it is switched off; `connected`: the journal of orders can be reached."""
        self._instruments = instruments
        self._risk = risk
        self._ledger = ledger
        self._dispatch = dispatch
        self._connected = connected
        self._record = record
        self._fail_closed = fail_closed
        self._clock = clock
        self._assess = unchecked_assess(NO_LIMIT)

    async def amend(self, request: order_pb2.ReplaceOrderRequest) -> Order:
        """Asks the venue for new terms; the order as it stands. To be shielded by the caller.

        It is pending_replace, or as before when the request changes nothing. Raises `NotFound`,
        `InvalidArgument`, `FailedPrecondition` (the order is not working, another amendment is in flight, or
        a check denies the new terms), `Conflict`, `ResourceExhausted`, `Unavailable` when nothing was
        changed, and `OutcomeUnknown`.
        """
        try:
            order = await self._amend(request)
        except ServiceError as error:
            told = "unknown" if isinstance(error, OutcomeUnknown) else "refused"
            _amendments.labels(told, error.reason).inc()
            raise
        _amendments.labels("accepted", "").inc()
        return order

    async def _amend(self, request: order_pb2.ReplaceOrderRequest) -> Order:
        read_order_id(request.order_id)
        try:
            order = await self._ledger.order(request.order_id)
        except LedgerUnavailable:
            raise _nothing_changed(request.order_id, "the order cannot be read now", "NOT_READY") from None
        if order is None:
            raise order_not_found(request.order_id)
        terms = read_terms(request, order, self._instruments)
        if order.group is not None:
            raise _grouped(order)
        if order.replacement is not None and order.state is OrderState.PENDING_REPLACE:
            if not _same(order.replacement.terms, terms):
                raise _in_flight(order)
            # A repeated request: whoever sent the first, or the sweeper, brings it to its end.
            return order
        if order.state not in _WORKING:
            raise _not_working(order)
        if _same(order.terms, terms):
            return order
        if not self._connected():
            raise _nothing_changed(order.order_id, "the journal of orders cannot be reached", "NOT_READY")
        return await self._carry_out(_Attempt(order, terms, order.revision + 1, new_ulid()))

    async def _carry_out(self, asked: "_Attempt") -> Order:
        if self._risk is None:
            return await self._reserve_unchecked(asked, "risk_service.enabled is false")
        sent = time.perf_counter()
        try:
            answer = await self._risk.reserve(asked.reservation())
        except (ReservationUnknown, RiskUnreachable) as failure:
            latency_ms = (time.perf_counter() - sent) * 1000
            self._record.risk_check(asked.order, "unknown", latency_ms, failure.reason)
            return await self._without_answer(asked, failure)
        return await self._on_answer(asked, answer)

    async def _on_answer(self, asked: "_Attempt", answer: Answer) -> Order:
        response, order = answer.response, asked.order
        if response.approved:
            self._record.risk_check(order, "approved", answer.latency_ms)
            protection = (
                Decimal(response.protection_price.value) if response.HasField("protection_price") else None
            )
            return await self._publish(asked, replace(asked.terms, protection_price=protection))
        reason = REASON_NAMES.get(response.reason, "risk_check_failed")
        self._record.risk_check(order, "denied", answer.latency_ms, reason)
        raise _denied(order, reason, response.message)

    async def _without_answer(
        self, asked: "_Attempt", failure: ReservationUnknown | RiskUnreachable
    ) -> Order:
        if not self._fail_closed:
            return await self._reserve_unchecked(asked, failure.reason)
        error = _nothing_changed(asked.order.order_id, failure.message, failure.reason.upper())
        if isinstance(failure, RiskUnreachable):
            raise error
        return await self._take_back(asked, failure.reason, error)

    async def _reserve_unchecked(self, asked: "_Attempt", why: str) -> Order:
        order, terms = asked.order, asked.terms
        amend = Amend(
            order.account,
            order.order_id,
            asked.revision,
            terms.quantity,
            terms.price,
            terms.stop_price,
            self._assess,
            asked.request_id,
        )
        try:
            outcome = await settled(self._ledger, amend, self._clock, gives_up=True)
        except LedgerUnavailable:
            raise _nothing_changed(
                order.order_id, "the account cannot be read", "LEDGER_UNAVAILABLE"
            ) from None
        except CommitUnknown:
            raise _unknown(order) from None
        held = outcome.order
        if held is None:
            raise order_not_found(order.order_id)
        if outcome.effect is Effect.REFUSED and outcome.refusal is not None:
            raise _denied(held, outcome.refusal.reason, outcome.refusal.message)
        if outcome.effect is Effect.BUSY:
            raise _in_flight(held)
        if outcome.effect is Effect.STALE:
            raise _overtaken(held)
        if outcome.effect is Effect.NOT_OPEN or held.replacement is None:
            raise _not_working(held)
        self._record.unchecked(held, why)
        return await self._publish(asked, held.replacement.terms)

    async def _publish(self, asked: "_Attempt", terms: Terms) -> Order:
        order = asked.order
        account = self._ledger.cached(order.account)
        if account is not None and account.trading_state is TradingState.HALTED:
            # Halted between the reservation and now.
            halted = _denied(order, "trading_halted", f"trading is halted for account {order.account}")
            return await self._take_back(asked, "trading_halted", halted)
        try:
            await self._dispatch.send_replace(order, asked.revision, terms)
        except PublishRefused as refused:
            _log.warning("amendment not published", order_id=order.order_id, error=str(refused))
            return await self._take_back(asked, "not_published", self._refused(order))
        except Exception as unknown:
            # Whatever it was, the amendment may be on its way; the sweeper sends it again.
            if isinstance(unknown, PublishUnknown):
                _log.warning("amendment unacknowledged", order_id=order.order_id, error=str(unknown))
            else:
                _log.error("publication failed", order_id=order.order_id, exc_info=unknown)
            raise _unknown(order) from None
        _log.info(
            "replace requested", order_id=order.order_id, account=order.account, revision=asked.revision
        )
        return replace(order, state=OrderState.PENDING_REPLACE, revision=asked.revision)

    def _refused(self, order: Order) -> ServiceError:
        if not self._connected():
            return _nothing_changed(order.order_id, "the journal of orders cannot be reached", "NOT_READY")
        return ResourceExhausted(
            "the journal of orders takes no more; nothing was sent and the old terms stand",
            reason="JOURNAL_FULL",
            metadata={"order_id": order.order_id},
        )

    async def _take_back(self, asked: "_Attempt", reason: str, error: ServiceError) -> Order:
        """Ends an amendment that this worker has certainly not sent, and raises `error` when that is done."""
        order = asked.order
        command = AbandonAmend(order.account, order.order_id, asked.revision, asked.request_id, reason)
        try:
            outcome = await settled(self._ledger, command, self._clock, gives_up=False)
        except CommitUnknown:
            raise _unknown(order) from None
        held = outcome.order
        if held is None:
            raise order_not_found(order.order_id)
        if outcome.effect is Effect.BUSY:
            # The sweeper has sent it in the meantime: it is in flight after all.
            return held
        if outcome.effect is Effect.NOT_OPEN:
            raise _not_working(held)
        if _same(held.terms, asked.terms):
            # The sweeper has sent it, and the venue has agreed.
            return held
        if held.replacement is not None or not _same(held.terms, order.terms):
            raise _overtaken(held)
        raise error


class _Attempt:
    """One request for new terms. `revision` is its number if nobody else gets it first."""

    __slots__ = ("order", "request_id", "revision", "terms")

    def __init__(self, order: Order, terms: Terms, revision: int, request_id: str) -> None:
        self.order: Final = order
        self.terms: Final = terms
        self.revision: Final = revision
        self.request_id: Final = request_id

    def reservation(self) -> risk_pb2.ReserveRequest:
        """What risk is asked."""
        order, terms = self.order, self.terms
        reserve = risk_pb2.ReserveRequest(
            account=order.account,
            symbol=order.symbol,
            side=SIDES[order.side],
            type=TYPE_TO_WIRE[order.order_type],
            order_id=order.order_id,
            digest=self.request_id,
            time_in_force=_TIMES_TO_WIRE[order.time_in_force],
            replaces=risk_pb2.Replaces(order_id=order.order_id, revision=self.revision),
        )
        reserve.quantity.value = number_text(terms.quantity)
        if terms.price is not None:
            reserve.price.value = number_text(terms.price)
        if terms.stop_price is not None:
            reserve.stop_price.value = number_text(terms.stop_price)
        if order.expire_ns:
            reserve.expire_time.FromNanoseconds(order.expire_ns)
        return reserve


def read_terms(
    request: order_pb2.ReplaceOrderRequest, order: Order, instruments: Mapping[str, Instrument]
) -> Terms:
    """The terms that `request` asks for; what it does not give keeps its value.

    Raises `InvalidArgument` naming the field.
    """
    given = [name for name in ("quantity", "price", "stop_price") if request.HasField(name)]
    if not given:
        raise InvalidArgument("quantity", "or price or stop_price must be given")
    if order.order_type is OrderType.MARKET:
        raise InvalidArgument(given[0], "must not be given: market orders cannot be amended")
    for name, taken in zip(("price", "stop_price"), PRICES[order.order_type], strict=True):
        if name in given and not taken:
            raise InvalidArgument(name, f"must not be given for {order.order_type} orders")
    instrument = instruments.get(order.symbol)
    if instrument is None:
        raise FailedPrecondition(
            f"{order.symbol} is not a known instrument any more",
            reason="UNKNOWN_SYMBOL",
            metadata={"order_id": order.order_id, "symbol": order.symbol},
        )
    quantity, price, stop_price = order.terms.quantity, order.terms.price, order.terms.stop_price
    if "quantity" in given:
        quantity = read_positive("quantity", request.quantity.value, instrument.quantity_increment)
    if "price" in given:
        price = read_positive("price", request.price.value, instrument.price_increment)
    if "stop_price" in given:
        stop_price = read_positive("stop_price", request.stop_price.value, instrument.price_increment)
    check_value(quantity, price, stop_price)
    return Terms(quantity, price, stop_price, order.terms.protection_price)


def _same(one: Terms, other: Terms) -> bool:
    """Whether a client would see no difference."""
    return (one.quantity, one.price, one.stop_price) == (other.quantity, other.price, other.stop_price)


def _facts(order: Order) -> dict[str, str]:
    return {"order_id": order.order_id, "state": order.state.value, "revision": str(order.revision)}


def _not_working(order: Order) -> FailedPrecondition:
    return FailedPrecondition(
        f"order {order.order_id} is {order.state}",
        reason="ORDER_NOT_WORKING" if order.is_open else "ORDER_ENDED",
        metadata=_facts(order),
    )


def _grouped(order: Order) -> FailedPrecondition:
    return FailedPrecondition(
        f"order {order.order_id} is of a group, and its terms cannot be changed",
        reason="ORDER_GROUPED",
        metadata=_facts(order),
    )


def _in_flight(order: Order) -> FailedPrecondition:
    return FailedPrecondition(
        f"an amendment of order {order.order_id} is in flight",
        reason="AMENDMENT_IN_FLIGHT",
        metadata=_facts(order),
    )


def _overtaken(order: Order) -> Conflict:
    return Conflict(
        f"order {order.order_id} was amended meanwhile; it is at revision {order.revision}",
        reason="REVISION_USED",
        metadata=_facts(order),
    )


def _denied(order: Order, reason: str, message: str) -> ServiceError:
    if reason == "ledger_unavailable":
        return _nothing_changed(order.order_id, message, "LEDGER_UNAVAILABLE")
    return FailedPrecondition(
        f"{message}; the old terms stand",
        reason=reason.upper(),
        metadata={**_facts(order), "reason": reason},
    )


def _nothing_changed(order_id: str, message: str, reason: str) -> Unavailable:
    return Unavailable(
        f"{message}; the old terms stand", reason=reason, metadata={"order_id": order_id[:128]}
    )


def _unknown(order: Order) -> OutcomeUnknown:
    return OutcomeUnknown(
        order, f"whether the amendment of order {order.order_id} is on its way is not known; ask again"
    )
