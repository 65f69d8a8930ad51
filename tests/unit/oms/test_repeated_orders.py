"""What a request is told whose client order id was used before: one order, one outcome."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from services.ledger.commands import Command, ReportKind, RequestCancel, Reserve
from services.ledger.errors import LedgerUnavailable
from services.ledger.order import OrderState
from services.oms.cancel import BY_CLIENT
from services.oms.disconnect import DISCONNECTED
from services.oms.outcomes import OutcomeUnknown, Rejected, Submitted
from services.oms.risk_client import Answer, ReservationUnknown, RiskUnreachable
from services.oms.sweeper import VENUE_SILENT
from services.runtime.errors import AlreadyExists
from services.runtime.publisher import PublishUnknown
from tests.support import eventually
from tests.unit.ledger.making import report
from tests.unit.oms.desk import Desk, buy, make_desk, only_order
from tests.unit.oms.memory import deny
from trade2026.risk.v1 import risk_pb2
from trade2026.type.v1 import order_pb2 as type_pb2


async def test_a_repeated_order_is_told_its_outcome_although_risk_cannot_be_reached(desk: Desk) -> None:
    first = await desk.submit("mine")

    def unreachable(request: risk_pb2.ReserveRequest) -> Answer:
        raise RiskUnreachable("risk_error", "nobody there")

    desk.risk.script = unreachable
    assert isinstance(first, Submitted)
    assert await desk.submit("mine") == first
    assert desk.venue.sent == [first.order_id]


async def test_a_repeated_order_is_told_its_outcome_although_risk_cannot_read_the_ledger(desk: Desk) -> None:
    first = await desk.submit("mine")
    denied = risk_pb2.ReserveResponse(reason=type_pb2.DENIAL_REASON_LEDGER_UNAVAILABLE, message="not read")
    desk.risk.script = lambda request: Answer(_named(denied, request), 1.0)
    assert await desk.submit("mine") == first
    second = await desk.submit("other")
    assert isinstance(second, Rejected)
    assert second.reason == "ledger_unavailable"


async def test_an_order_that_may_be_a_repeated_one_is_unknown_while_the_ledger_cannot_be_asked(
    desk: Desk,
) -> None:
    def unreachable(request: risk_pb2.ReserveRequest) -> Answer:
        raise RiskUnreachable("risk_error", "nobody there")

    def gone(command: Command) -> None:
        raise LedgerUnavailable("gone")

    desk.risk.script = unreachable
    desk.ledger.before = gone
    with pytest.raises(OutcomeUnknown, match="client order id mine"):
        await desk.submit("mine")
    outcome = await desk.submit()
    assert isinstance(outcome, Rejected)
    assert outcome.reason == "risk_error"


def _named(response: risk_pb2.ReserveResponse, request: risk_pb2.ReserveRequest) -> risk_pb2.ReserveResponse:
    named = risk_pb2.ReserveResponse()
    named.CopyFrom(response)
    named.order_id = request.order_id
    return named


async def test_a_retry_after_an_unknown_outcome_submits_no_second_order(desk: Desk) -> None:
    desk.venue.raises = [PublishUnknown("silence"), PublishUnknown("silence")]
    with pytest.raises(OutcomeUnknown):
        await desk.submit("mine")
    answers = await asyncio.gather(*(desk.submit("mine") for _ in range(5)), return_exceptions=True)
    order = only_order(desk)
    assert {type(answer) for answer in answers} <= {Submitted, OutcomeUnknown}
    await eventually(lambda: desk.submitter.running == 0)
    assert await desk.submit("mine") == Submitted(order.order_id, "mine")
    assert set(desk.venue.sent) == {only_order(desk).order_id} == {order.order_id}


@pytest.mark.parametrize("reason", [VENUE_SILENT, BY_CLIENT, DISCONNECTED, "expired"])
async def test_an_order_that_was_never_published_is_not_told_as_submitted_whoever_has_it_canceled(
    desk: Desk, reason: str
) -> None:
    def reserved_and_silent(request: risk_pb2.ReserveRequest) -> Answer:
        desk.reserve(request)
        raise ReservationUnknown("risk_timeout", "no answer")

    def gone(command: Command) -> None:
        raise LedgerUnavailable("gone")

    desk.risk.script = reserved_and_silent
    desk.ledger.before = gone
    with pytest.raises(OutcomeUnknown):
        await desk.submit("mine")
    order = only_order(desk)
    desk.ledger.before = lambda _: None
    desk.risk.script = desk.reserve
    desk.ledger.apply(RequestCancel("desk", order.order_id, reason))
    with pytest.raises(OutcomeUnknown):
        await desk.submit("mine")
    desk.ledger.apply(report(ReportKind.CANCELED, order, 1, reason="unknown_order"))
    outcome = await desk.submit("mine")
    assert isinstance(outcome, Rejected)
    assert (outcome.order_id, outcome.reason) == (order.order_id, "not_published")
    assert desk.venue.sent == []


async def test_a_repeated_request_waits_for_the_original_that_is_in_hand(desk: Desk) -> None:
    desk.venue.acknowledges.clear()
    first = desk.submitter.begin(buy("mine"))
    await eventually(lambda: len(desk.ledger.orders) == 1)
    second = desk.submitter.begin(buy("mine"))
    await asyncio.wait({second}, timeout=0.05)
    assert not second.done()
    desk.venue.acknowledges.set()
    assert await first == await second == Submitted(only_order(desk).order_id, "mine")
    assert desk.venue.sent == [only_order(desk).order_id]


async def test_a_repeated_request_that_another_worker_has_in_hand_is_unknown(desk: Desk) -> None:
    desk.venue.raises = [PublishUnknown("silence")]
    with pytest.raises(OutcomeUnknown):
        await desk.submit("mine")
    other = make_desk()
    other.ledger.orders, other.ledger.accounts = desk.ledger.orders, desk.ledger.accounts
    with pytest.raises(OutcomeUnknown) as unknown:
        await other.submit("mine")
    assert unknown.value.metadata["order_id"] == only_order(desk).order_id
    assert other.venue.sent == []


async def test_another_workers_order_is_submitted_as_soon_as_the_venue_has_it(desk: Desk) -> None:
    order_id = (await desk.submit("mine")).order_id
    other = make_desk()
    other.ledger.orders, other.ledger.accounts = desk.ledger.orders, desk.ledger.accounts
    asking = other.submitter.begin(buy("mine"))
    await asyncio.sleep(0.01)
    desk.ledger.orders[order_id] = replace(desk.ledger.orders[order_id], state=OrderState.NEW)
    assert await asking == Submitted(order_id, "mine")


async def test_a_repeated_denial_is_the_same_denial(desk: Desk) -> None:
    desk.risk.script = lambda request: desk.reserve(request, deny)
    first = await desk.submit("mine")
    second = await desk.submit("mine")
    assert isinstance(first, Rejected)
    assert first == second


async def test_a_timeout_is_no_outcome_to_be_remembered(desk: Desk) -> None:
    def silent(request: risk_pb2.ReserveRequest) -> Answer:
        raise ReservationUnknown("risk_timeout", "no answer")

    desk.risk.script = silent
    assert isinstance(await desk.submit("mine"), Rejected)
    desk.risk.script = desk.reserve
    assert isinstance(await desk.submit("mine"), Submitted)


async def test_an_order_given_up_because_the_ledger_did_not_answer_is_never_told_as_submitted() -> None:
    desk = make_desk(fail_closed=False)

    def late(request: risk_pb2.ReserveRequest) -> Answer:
        desk.reserve(request)
        raise ReservationUnknown("risk_timeout", "no answer")

    def gone(command: Command) -> None:
        if isinstance(command, Reserve):
            raise LedgerUnavailable("gone")

    desk.risk.script = late
    desk.ledger.before = gone
    told = await desk.submit("mine")
    assert isinstance(told, Rejected)
    assert (told.reason, only_order(desk).state) == ("ledger_unavailable", OrderState.CANCELED)
    assert await desk.submitter.earlier.outcome(only_order(desk)) == told
    assert desk.venue.sent == []


async def test_an_attempt_that_waited_while_a_later_one_was_given_up_is_told_the_same_and_not_traded(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_desk()
    other.ledger.orders, other.ledger.accounts = desk.ledger.orders, desk.ledger.accounts
    asked: list[risk_pb2.ReserveRequest] = []
    waiting: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def wait(request: risk_pb2.ReserveRequest) -> asyncio.Future[Answer]:
        asked.append(request)
        return waiting

    monkeypatch.setattr(other.risk, "reserve", wait)
    first = other.submitter.begin(buy("mine"))
    await eventually(lambda: bool(asked))

    def silent(request: risk_pb2.ReserveRequest) -> Answer:
        raise ReservationUnknown("risk_timeout", "no answer")

    desk.risk.script = silent
    repeated = await desk.submit("mine")
    assert isinstance(repeated, Rejected)
    waiting.set_result(other.reserve(asked[0]))
    assert await first == repeated
    assert other.venue.sent == []


async def test_a_conflict_that_the_abandonment_finds_already_exists(desk: Desk) -> None:
    await desk.submit("mine")

    def silent(request: risk_pb2.ReserveRequest) -> Answer:
        raise ReservationUnknown("risk_timeout", "no answer")

    desk.risk.script = silent
    with pytest.raises(AlreadyExists):
        await desk.submit("mine", quantity="0.2")
    again = await desk.submit("mine")
    assert isinstance(again, Submitted)
