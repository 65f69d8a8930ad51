"""Every way in which an amendment can go wrong between two steps, and what the client is told then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import pytest

from services.instruments import DEFAULT_INSTRUMENTS, instruments_of
from services.ledger.account import TradingState
from services.ledger.commands import (
    AbandonAmend,
    Amend,
    Command,
    Effect,
    RepeatAmend,
    ReportKind,
    RequestCancel,
    Reserve,
)
from services.ledger.errors import CommitUnknown, LedgerUnavailable
from services.ledger.order import Order, OrderState, OrderType, Terms, TimeInForce
from services.oms.amend import Amender, read_terms
from services.oms.outcomes import OutcomeUnknown, SubmissionRecord
from services.oms.risk_client import Answer, ReservationUnknown, RiskUnreachable
from services.oms.wire import REASONS, STATES
from services.runtime.clock import SystemClock
from services.runtime.errors import (
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    ServiceError,
    Unavailable,
)
from services.runtime.publisher import PublishRefused, PublishUnknown
from tests.unit.ledger.making import fill, make_order, report
from tests.unit.oms.memory import MemoryLedger, ScriptedRisk, ScriptedVenue, approve, deny
from trade2026.oms.v1 import order_pb2
from trade2026.risk.v1 import risk_pb2


@dataclass
class Desk:
    amender: Amender
    ledger: MemoryLedger
    risk: ScriptedRisk
    venue: ScriptedVenue
    order_id: str

    @property
    def order(self) -> Order:
        return self.ledger.orders[self.order_id]

    def reserve(self, request: risk_pb2.ReserveRequest, assess: Callable[..., Any] = approve) -> Answer:
        """What a healthy risk does with an amendment."""
        outcome = self.ledger.apply(self.amend(request, assess))
        held = outcome.order
        assert held is not None
        if outcome.effect is Effect.BUSY:
            raise FailedPrecondition("in flight", reason="AMENDMENT_IN_FLIGHT")
        if outcome.effect is Effect.STALE:
            raise Conflict("used", reason="REVISION_USED")
        response = risk_pb2.ReserveResponse(
            approved=outcome.refusal is None, order_id=held.order_id, state=STATES[held.state]
        )
        if outcome.refusal is not None:
            response.reason = REASONS[outcome.refusal.reason]
            response.message = outcome.refusal.message
        return Answer(response, 1.0)

    def amend(self, request: risk_pb2.ReserveRequest, assess: Callable[..., Any] = approve) -> Amend:
        return Amend(
            request.account,
            request.replaces.order_id,
            request.replaces.revision,
            Decimal(request.quantity.value),
            Decimal(request.price.value),
            None,
            assess,
            request.digest,
        )

    async def ask(self, **terms: str) -> Order:
        return await self.amender.amend(asking(self.order_id, **terms))

    def told(self, kind: ReportKind, sequence: int, revision: int = 0) -> None:
        """What the venue says."""
        self.ledger.apply(report(kind, self.order, sequence, revision=revision))


def asking(order_id: str, **terms: str) -> order_pb2.ReplaceOrderRequest:
    request = order_pb2.ReplaceOrderRequest(order_id=order_id)
    for name, value in terms.items():
        getattr(request, name).value = value
    return request


def make_desk(*, fail_closed: bool = True, enabled: bool = True) -> Desk:
    """A desk with an order of 1 at 45,000 that the venue has accepted."""
    clock = SystemClock()
    ledger = MemoryLedger(clock)
    risk, venue = ScriptedRisk(ledger), ScriptedVenue()
    order = make_order("desk", "1", price="45000")
    ledger.apply(Reserve(order, approve))
    ledger.apply(report(ReportKind.ACCEPTED, order, 1))
    amender = Amender(
        instruments_of(DEFAULT_INSTRUMENTS),
        risk if enabled else None,
        ledger,
        venue,
        lambda: True,
        SubmissionRecord(10_000, 10_000),
        fail_closed,
        clock,
    )
    desk = Desk(amender, ledger, risk, venue, order.order_id)
    risk.script = desk.reserve
    return desk


@pytest.fixture
async def desk() -> Desk:
    return make_desk()


def open_buy(desk: Desk) -> Decimal:
    return desk.ledger.accounts["desk"].position("BTCUSDT").open_buy


async def test_an_approved_amendment_is_sent_once_and_pending(desk: Desk) -> None:
    order = await desk.ask(quantity="2")
    assert (order.state, order.revision, order.terms.quantity) == (OrderState.PENDING_REPLACE, 1, 1)
    assert desk.venue.sent == [f"{desk.order_id} 1 2 45000"]
    assert open_buy(desk) == 2


async def test_a_denied_amendment_names_the_check_and_the_old_terms_stand(desk: Desk) -> None:
    desk.risk.script = lambda request: desk.reserve(request, deny)
    with pytest.raises(FailedPrecondition) as refused:
        await desk.ask(quantity="2")
    assert refused.value.reason == "ORDER_SIZE_LIMIT"
    assert refused.value.metadata["reason"] == "order_size_limit"
    assert "too large" in refused.value.message
    assert (desk.order.state, desk.order.revision, desk.venue.sent) == (OrderState.NEW, 0, [])


async def test_a_timeout_is_not_taken_for_a_rejection_of_new_terms_that_the_venue_has_taken(
    desk: Desk,
) -> None:
    def slow(request: risk_pb2.ReserveRequest) -> Answer:
        desk.reserve(request)
        desk.ledger.apply(RepeatAmend("desk", desk.order_id, 1))
        desk.told(ReportKind.REPLACED, 2, revision=1)
        raise ReservationUnknown("risk_timeout", "no answer")

    desk.risk.script = slow
    order = await desk.ask(quantity="2")
    assert (order.state, order.terms.quantity) == (OrderState.NEW, 2)


@pytest.mark.parametrize("reason", ["risk_timeout", "risk_error"])
@pytest.mark.parametrize("lands", ["never", "before", "after"])
async def test_an_amendment_without_an_answer_is_taken_back_whenever_its_reservation_lands(
    desk: Desk, reason: str, lands: str
) -> None:
    def silent(request: risk_pb2.ReserveRequest) -> Answer:
        if lands == "before":
            desk.reserve(request)
        raise ReservationUnknown(reason, "no answer")

    desk.risk.script = silent
    with pytest.raises(Unavailable) as told:
        await desk.ask(quantity="2")
    assert told.value.reason == reason.upper()
    if lands == "after":
        (request,) = desk.risk.requests
        assert desk.ledger.apply(desk.amend(request)).effect is Effect.STALE
    assert (desk.order.state, desk.order.terms.quantity, open_buy(desk)) == (OrderState.NEW, 1, 1)
    assert desk.venue.sent == []
    # The number is used up, so that the next amendment is another one for the venue too.
    desk.risk.script = desk.reserve
    assert (await desk.ask(quantity="3")).revision == 2


async def test_an_amendment_that_cannot_be_taken_back_is_told_as_unknown(desk: Desk) -> None:
    def silent(request: risk_pb2.ReserveRequest) -> Answer:
        desk.reserve(request)
        raise ReservationUnknown("risk_timeout", "no answer")

    def unavailable(command: Command) -> None:
        raise LedgerUnavailable("down")

    desk.risk.script = silent
    desk.ledger.before = unavailable
    with pytest.raises(OutcomeUnknown) as told:
        await desk.ask(quantity="2")
    assert told.value.metadata["order_id"] == desk.order_id
    assert desk.order.state is OrderState.PENDING_REPLACE


async def test_taking_back_is_repeated_until_a_commit_is_answered(desk: Desk) -> None:
    def silent(request: risk_pb2.ReserveRequest) -> Answer:
        desk.reserve(request)
        raise ReservationUnknown("risk_timeout", "no answer")

    lost = [CommitUnknown("lost"), LedgerUnavailable("down")]

    def fail(command: Command) -> None:
        if lost:
            raise lost.pop(0)

    desk.risk.script = silent
    desk.ledger.after = fail
    with pytest.raises(Unavailable):
        await desk.ask(quantity="2")
    assert desk.order.state is OrderState.NEW
    assert [type(command) for command in desk.ledger.commands] == [AbandonAmend] * 3


async def test_an_amendment_that_the_sweeper_has_sent_is_not_taken_back(desk: Desk) -> None:
    def slow(request: risk_pb2.ReserveRequest) -> Answer:
        desk.reserve(request)
        desk.ledger.apply(RepeatAmend("desk", desk.order_id, 1))
        raise ReservationUnknown("risk_timeout", "no answer")

    desk.risk.script = slow
    order = await desk.ask(quantity="2")
    assert order.state is OrderState.PENDING_REPLACE
    assert desk.order.replacement is not None


async def test_risk_that_cannot_be_reached_changes_nothing(desk: Desk) -> None:
    def unreachable(request: risk_pb2.ReserveRequest) -> Answer:
        raise RiskUnreachable("risk_error", "risk cannot be reached")

    desk.risk.script = unreachable
    with pytest.raises(Unavailable) as told:
        await desk.ask(quantity="2")
    assert told.value.reason == "RISK_ERROR"
    assert (desk.order.state, desk.ledger.commands, desk.venue.sent) == (OrderState.NEW, [], [])


@pytest.mark.parametrize("lands", [False, True])
async def test_risk_without_an_answer_is_done_without_where_it_is_not_fail_closed(lands: bool) -> None:
    desk = make_desk(fail_closed=False)

    def silent(request: risk_pb2.ReserveRequest) -> Answer:
        if lands:
            desk.reserve(request)
        raise ReservationUnknown("risk_timeout", "no answer")

    desk.risk.script = silent
    assert (await desk.ask(quantity="2")).state is OrderState.PENDING_REPLACE
    assert desk.venue.sent == [f"{desk.order_id} 1 2 45000"]
    assert open_buy(desk) == 2


async def test_amendments_without_risk_obey_the_trading_state() -> None:
    desk = make_desk(enabled=False)
    assert (await desk.ask(price="44000")).state is OrderState.PENDING_REPLACE
    desk.told(ReportKind.REPLACED, 2, revision=1)
    account = desk.ledger.accounts["desk"]
    desk.ledger.accounts["desk"] = replace(account, trading_state=TradingState.HALTED)
    with pytest.raises(FailedPrecondition) as refused:
        await desk.ask(price="43000")
    assert refused.value.reason == "TRADING_HALTED"
    assert desk.order.terms.price == 44_000


async def test_an_amendment_halted_before_it_is_sent_is_taken_back(desk: Desk) -> None:
    def halting(request: risk_pb2.ReserveRequest) -> Answer:
        answer = desk.reserve(request)
        account = desk.ledger.accounts["desk"]
        desk.ledger.accounts["desk"] = replace(account, trading_state=TradingState.HALTED)
        return answer

    desk.risk.script = halting
    with pytest.raises(FailedPrecondition) as refused:
        await desk.ask(quantity="2")
    assert refused.value.reason == "TRADING_HALTED"
    assert (desk.order.state, desk.venue.sent, open_buy(desk)) == (OrderState.NEW, [], 1)


async def test_an_amendment_that_the_journal_refuses_is_taken_back(desk: Desk) -> None:
    desk.venue.raises = [PublishRefused("full")]
    with pytest.raises(ResourceExhausted):
        await desk.ask(quantity="2")
    assert (desk.order.state, open_buy(desk)) == (OrderState.NEW, 1)


async def test_an_unacknowledged_amendment_is_unknown_and_stays_in_flight(desk: Desk) -> None:
    desk.venue.raises = [PublishUnknown("no ack")]
    with pytest.raises(OutcomeUnknown):
        await desk.ask(quantity="2")
    assert desk.order.state is OrderState.PENDING_REPLACE


async def test_a_repeated_request_is_answered_and_not_sent_again(desk: Desk) -> None:
    await desk.ask(quantity="2")
    again = await desk.ask(quantity="2")
    assert (again.state, again.revision) == (OrderState.PENDING_REPLACE, 1)
    desk.told(ReportKind.REPLACED, 2, revision=1)
    done = await desk.ask(quantity="2.0")
    assert (done.state, done.terms.quantity) == (OrderState.NEW, 2)
    assert len(desk.venue.sent) == 1


async def test_a_second_amendment_waits_for_the_answer_to_the_first(desk: Desk) -> None:
    await desk.ask(quantity="2")
    with pytest.raises(FailedPrecondition) as refused:
        await desk.ask(quantity="3")
    assert refused.value.reason == "AMENDMENT_IN_FLIGHT"
    assert len(desk.venue.sent) == 1


async def test_of_two_amendments_at_once_one_gets_the_revision(desk: Desk) -> None:
    answers = await asyncio.gather(*(desk.ask(quantity=str(n)) for n in (2, 3, 4)), return_exceptions=True)
    winners = [one for one in answers if isinstance(one, Order)]
    assert len(winners) == len(desk.venue.sent) == 1
    refused = [one for one in answers if not isinstance(one, Order)]
    assert all(isinstance(one, FailedPrecondition | Conflict) for one in refused), refused


async def test_an_amendment_with_the_same_terms_and_revision_as_another_is_not_taken_back_for_it(
    desk: Desk,
) -> None:
    """One's reservation never came; the other's did, under the same number and with the same terms."""
    inner = asking(desk.order_id, quantity="2")

    def silent(request: risk_pb2.ReserveRequest) -> Answer:
        desk.reserve(replace_digest(request, "somebody-else"))
        raise ReservationUnknown("risk_timeout", "no answer")

    desk.risk.script = silent
    with pytest.raises(Conflict):
        await desk.amender.amend(inner)
    assert desk.order.replacement is not None
    assert desk.order.replacement.request_id == "somebody-else"


def replace_digest(request: risk_pb2.ReserveRequest, digest: str) -> risk_pb2.ReserveRequest:
    other = risk_pb2.ReserveRequest()
    other.CopyFrom(request)
    other.digest = digest
    return other


async def test_an_order_that_does_not_work_is_not_amended(desk: Desk) -> None:
    desk.ledger.apply(RequestCancel("desk", desk.order_id, "client_request"))
    with pytest.raises(FailedPrecondition) as refused:
        await desk.ask(quantity="2")
    assert (refused.value.reason, refused.value.metadata["state"]) == ("ORDER_NOT_WORKING", "pending_cancel")
    desk.told(ReportKind.CANCELED, 2)
    with pytest.raises(FailedPrecondition) as refused:
        await desk.ask(quantity="2")
    assert (refused.value.reason, refused.value.metadata["state"]) == ("ORDER_ENDED", "canceled")


async def test_an_order_that_ends_while_its_amendment_is_taken_back_is_told_as_ended(desk: Desk) -> None:
    def filled(request: risk_pb2.ReserveRequest) -> Answer:
        desk.reserve(request)
        desk.ledger.apply(fill(desk.order, 2, "1", "45000"))
        raise ReservationUnknown("risk_timeout", "no answer")

    desk.risk.script = filled
    with pytest.raises(FailedPrecondition) as refused:
        await desk.ask(quantity="2")
    assert (refused.value.reason, open_buy(desk)) == ("ORDER_ENDED", 0)


@pytest.mark.parametrize(
    ("order_type", "terms", "field"),
    [
        (OrderType.LIMIT, {}, "quantity"),
        (OrderType.LIMIT, {"stop_price": "1"}, "stop_price"),
        (OrderType.LIMIT, {"quantity": "0"}, "quantity"),
        (OrderType.LIMIT, {"quantity": "-1"}, "quantity"),
        (OrderType.LIMIT, {"quantity": "0.0000001"}, "quantity"),
        (OrderType.LIMIT, {"quantity": "many"}, "quantity"),
        (OrderType.LIMIT, {"price": "45000.001"}, "price"),
        (OrderType.LIMIT, {"quantity": "1e18"}, "price"),
        (OrderType.MARKET, {"quantity": "2"}, "quantity"),
        (OrderType.MARKET, {"price": "2"}, "price"),
        (OrderType.STOP, {"price": "45000"}, "price"),
    ],
)
def test_a_field_that_makes_no_sense_is_named(
    order_type: OrderType, terms: dict[str, str], field: str
) -> None:
    order = replace(make_order("desk", "1", price="45000"), order_type=order_type)
    with pytest.raises(InvalidArgument) as refused:
        read_terms(asking(order.order_id, **terms), order, instruments_of(DEFAULT_INSTRUMENTS))
    assert [violation[0] for violation in refused.value.violations] == [field]


def test_what_is_not_given_keeps_its_value() -> None:
    order = make_order("desk", "1", price="45000")
    order = replace(
        order,
        order_type=OrderType.STOP_LIMIT,
        time_in_force=TimeInForce.GTC,
        terms=Terms(Decimal(1), Decimal(45_000), Decimal(44_000), Decimal(46_000)),
    )
    read = read_terms(asking(order.order_id, price="45500"), order, instruments_of(DEFAULT_INSTRUMENTS))
    assert read == replace(order.terms, price=Decimal(45_500))


@pytest.mark.parametrize("order_id", ["nonsense", "desk-01M82EZKQ7EJAM4DB9ET4N1CJX"])
async def test_an_unknown_order_is_not_found(desk: Desk, order_id: str) -> None:
    with pytest.raises(NotFound):
        await desk.amender.amend(asking(order_id, quantity="2"))


async def test_every_refusal_carries_a_reason(desk: Desk) -> None:
    await desk.ask(quantity="2")
    with pytest.raises(ServiceError) as refused:
        await desk.ask(quantity="3")
    assert refused.value.metadata == {"order_id": desk.order_id, "state": "pending_replace", "revision": "1"}
