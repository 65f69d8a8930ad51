"""Every way in which a submission can go wrong between two steps, and what the client is told then."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from services.ledger.account import TradingState
from services.ledger.commands import Abandon, Command, RequestCancel
from services.ledger.errors import CommitUnknown, LedgerUnavailable
from services.ledger.order import OrderState
from services.oms.outcomes import OutcomeUnknown, Rejected, Submitted
from services.oms.risk_client import Answer, ReservationUnknown, RiskUnreachable
from services.runtime.errors import ResourceExhausted, Unavailable
from services.runtime.publisher import PublishRefused, PublishUnknown
from tests.support import eventually
from tests.unit.oms.desk import Desk, buy, only_order, open_orders
from tests.unit.oms.memory import deny
from trade2026.risk.v1 import risk_pb2


async def test_an_approved_order_is_published_once_and_submitted(desk: Desk) -> None:
    outcome = await desk.submit()
    assert outcome == Submitted(only_order(desk).order_id, "")
    assert desk.venue.sent == [only_order(desk).order_id]


async def test_a_denied_order_is_rejected_and_not_published(desk: Desk) -> None:
    desk.risk.script = lambda request: desk.reserve(request, deny)
    outcome = await desk.submit()
    assert isinstance(outcome, Rejected)
    assert (outcome.reason, outcome.message) == ("order_size_limit", "too large")
    assert desk.venue.sent == []


@pytest.mark.parametrize("reason", ["risk_timeout", "risk_error"])
@pytest.mark.parametrize("lands", ["never", "before", "after"])
async def test_an_order_without_an_answer_is_given_up_whenever_its_reservation_lands(
    desk: Desk, reason: str, lands: str
) -> None:
    asked: list[risk_pb2.ReserveRequest] = []

    def silent(request: risk_pb2.ReserveRequest) -> Answer:
        asked.append(request)
        if lands == "before":
            desk.reserve(request)
        raise ReservationUnknown(reason, "no answer")

    desk.risk.script = silent
    outcome = await desk.submit("mine")
    if lands == "after":
        desk.reserve(asked[0])
    assert isinstance(outcome, Rejected)
    assert (outcome.reason, outcome.message, outcome.client_order_id) == (reason, "no answer", "mine")
    assert desk.venue.sent == []
    assert open_orders(desk) == 0
    assert not only_order(desk).is_open


async def test_a_denial_that_lands_before_the_order_is_given_up_is_what_the_client_is_told(
    desk: Desk,
) -> None:
    def late_denial(request: risk_pb2.ReserveRequest) -> Answer:
        desk.reserve(request, deny)
        raise ReservationUnknown("risk_timeout", "no answer")

    desk.risk.script = late_denial
    outcome = await desk.submit()
    assert isinstance(outcome, Rejected)
    assert outcome.reason == "order_size_limit"


async def test_a_commit_that_is_not_answered_is_settled_by_repeating_it(desk: Desk) -> None:
    def unanswered(command: Command) -> None:
        if len([one for one in desk.ledger.commands if isinstance(one, Abandon)]) < 3:
            raise CommitUnknown("no answer")

    def silent(request: risk_pb2.ReserveRequest) -> Answer:
        desk.reserve(request)
        raise ReservationUnknown("risk_timeout", "no answer")

    desk.risk.script = silent
    desk.ledger.after = unanswered
    outcome = await desk.submit()
    assert isinstance(outcome, Rejected)
    assert outcome.reason == "risk_timeout"
    assert open_orders(desk) == 0


@pytest.mark.parametrize("error", [CommitUnknown("no answer"), LedgerUnavailable("gone")])
async def test_an_order_that_cannot_be_given_up_is_told_as_unknown(desk: Desk, error: Exception) -> None:
    def fails(command: Command) -> None:
        raise error

    def silent(request: risk_pb2.ReserveRequest) -> Answer:
        desk.reserve(request)
        raise ReservationUnknown("risk_timeout", "no answer")

    desk.risk.script = silent
    desk.ledger.before = fails
    with pytest.raises(OutcomeUnknown) as unknown:
        await desk.submit("mine")
    assert unknown.value.metadata == {"order_id": only_order(desk).order_id, "client_order_id": "mine"}
    assert unknown.value.retry_after_sec > 0
    assert desk.venue.sent == []


async def test_an_order_that_the_sweeper_cancels_meanwhile_is_told_as_unknown(desk: Desk) -> None:
    def swept(request: risk_pb2.ReserveRequest) -> Answer:
        desk.reserve(request)
        desk.ledger.apply(RequestCancel("desk", request.order_id, "venue_silent"))
        raise ReservationUnknown("risk_timeout", "no answer")

    desk.risk.script = swept
    with pytest.raises(OutcomeUnknown):
        await desk.submit()


async def test_an_order_of_which_nothing_was_sent_is_rejected_without_a_trace(desk: Desk) -> None:
    def unreachable(request: risk_pb2.ReserveRequest) -> Answer:
        raise RiskUnreachable("risk_error", "nobody there")

    desk.risk.script = unreachable
    outcome = await desk.submit()
    assert isinstance(outcome, Rejected)
    assert outcome.reason == "risk_error"
    assert desk.ledger.orders == {}


async def test_a_publication_without_acknowledgement_is_unknown_and_sent_again(desk: Desk) -> None:
    desk.venue.raises = [PublishUnknown("silence"), PublishUnknown("silence"), None]
    with pytest.raises(OutcomeUnknown) as unknown:
        await desk.submit("mine")
    order_id = only_order(desk).order_id
    assert unknown.value.metadata["order_id"] == order_id
    await eventually(lambda: desk.venue.sent == [order_id] * 3)
    assert only_order(desk).state is OrderState.PENDING_NEW
    assert await desk.submit("mine") == Submitted(order_id, "mine")


async def test_an_order_is_not_sent_again_once_its_cancel_was_requested(desk: Desk) -> None:
    desk.venue.raises = [PublishUnknown("silence")]
    with pytest.raises(OutcomeUnknown):
        await desk.submit()
    order = only_order(desk)
    desk.ledger.apply(RequestCancel("desk", order.order_id, "venue_silent"))
    await eventually(lambda: desk.submitter.running == 0)
    assert desk.venue.sent == [order.order_id]


@pytest.mark.parametrize(("connected", "error"), [(True, ResourceExhausted), (False, Unavailable)])
async def test_a_refused_publication_is_released_and_never_told_as_a_denial(
    desk: Desk, connected: bool, error: type[Exception]
) -> None:
    def then(request: risk_pb2.ReserveRequest) -> Answer:
        answer = desk.reserve(request)
        desk.connected[0] = connected
        return answer

    desk.risk.script = then
    desk.venue.raises = [PublishRefused("no")]
    with pytest.raises(error):
        await desk.submit()
    assert open_orders(desk) == 0
    assert only_order(desk).reason == "not_published"


async def test_without_the_journal_nothing_is_reserved(desk: Desk) -> None:
    desk.connected[0] = False
    with pytest.raises(Unavailable):
        await desk.submit()
    assert desk.risk.requests == []


async def test_an_account_halted_after_its_reservation_is_not_published(desk: Desk) -> None:
    def halted(request: risk_pb2.ReserveRequest) -> Answer:
        answer = desk.reserve(request)
        account = desk.ledger.accounts["desk"]
        desk.ledger.accounts["desk"] = replace(account, trading_state=TradingState.HALTED)
        return answer

    desk.risk.script = halted
    outcome = await desk.submit()
    assert isinstance(outcome, Rejected)
    assert outcome.reason == "trading_halted"
    assert desk.venue.sent == []
    assert open_orders(desk) == 0


async def test_a_client_that_goes_away_interrupts_nothing(desk: Desk) -> None:
    desk.venue.acknowledges.clear()
    caller = asyncio.create_task(desk.submit("mine"))
    await eventually(lambda: len(desk.ledger.orders) == 1)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    desk.venue.acknowledges.set()
    await eventually(lambda: desk.submitter.running == 0)
    assert desk.venue.sent == [only_order(desk).order_id]


async def test_a_stop_refuses_new_orders_and_finishes_begun_ones(desk: Desk) -> None:
    begun = desk.submitter.begin(buy("mine"))
    draining = asyncio.create_task(desk.submitter.drain())
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        desk.submitter.begin(buy("other"))
    await draining
    assert isinstance(begun.result(), Submitted)


async def test_an_account_that_cannot_be_opened_is_not_asked_for(desk: Desk) -> None:
    async def gone(command: Command, timeout: float = 1.0) -> object:
        raise LedgerUnavailable("gone")

    desk.ledger.execute = gone  # type: ignore[method-assign, assignment]
    outcome = await desk.submit()
    assert isinstance(outcome, Rejected)
    assert outcome.reason == "ledger_unavailable"
    assert desk.risk.requests == []
