"""What can go wrong between two steps of a group's submission: all of it happens, or nothing."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from services.ledger.account import TradingState
from services.ledger.commands import Command, RequestCancel
from services.ledger.errors import CommitUnknown
from services.oms.outcomes import OutcomeUnknown, Rejected, SubmissionRecord, Submitted
from services.oms.risk_client import Answer, ReservationUnknown, RiskUnreachable
from services.runtime.errors import InvalidArgument, ResourceExhausted
from services.runtime.publisher import PublishRefused, PublishUnknown
from tests.support import eventually
from tests.unit.oms.group_desk import PROTECTION, Ask, Desk, bracket, make_desk, pair
from trade2026.oms.v1 import order_pb2
from trade2026.risk.v1 import risk_pb2


@pytest.fixture
async def desk() -> Desk:
    return make_desk()


async def test_pair_leaves_in_one_message(desk: Desk) -> None:
    outcomes = await desk.submit(pair())
    first, second = desk.ledger.orders.values()
    assert outcomes == (Submitted(first.order_id, ""), Submitted(second.order_id, ""))
    assert desk.venue.payloads == [f"{first.order_id} {second.order_id}".encode()]
    assert desk.held == Decimal("0.1")


async def test_of_a_bracket_only_the_entry_leaves(desk: Desk) -> None:
    outcomes = await desk.submit(bracket())
    assert [type(one) for one in outcomes] == [Submitted] * 3
    entry = next(iter(desk.ledger.orders.values()))
    assert desk.venue.payloads == [entry.order_id.encode()]
    assert desk.states == ["pending_new", "waiting", "waiting"]


async def test_denied_group_is_rejected_whole_and_not_published(desk: Desk) -> None:
    desk.refused = True
    outcomes = await desk.submit(pair("a", "b"))
    assert [(type(one), one.client_order_id) for one in outcomes] == [(Rejected, "a"), (Rejected, "b")]
    assert desk.venue.sent == []
    again = await desk.submit(pair("a", "b"))
    assert [one.reason for one in again if isinstance(one, Rejected)] == ["order_size_limit"] * 2
    assert len(desk.ledger.orders) == 2


@pytest.mark.parametrize("reason", ["risk_timeout", "risk_error"])
@pytest.mark.parametrize("lands", ["never", "before", "after"])
@pytest.mark.parametrize("request_of", [pair, bracket])
async def test_group_without_an_answer_is_given_up_whenever_its_reservation_lands(
    desk: Desk, reason: str, lands: str, request_of: Ask
) -> None:
    def silent(request: risk_pb2.ReserveRequest) -> Answer:
        if lands == "before":
            desk.reserve(request)
        raise ReservationUnknown(reason, "no answer")

    desk.risk.script = silent
    outcomes = await desk.submit(request_of())
    assert {one.reason for one in outcomes if isinstance(one, Rejected)} == {reason}
    if lands == "after":
        desk.reserve(desk.risk.requests[0])
    assert set(desk.states) <= {"denied", "canceled"}
    assert desk.held == 0
    assert desk.ledger.accounts["desk"].open_orders == 0
    assert desk.venue.sent == []


async def test_unreachable_risk_rejects_without_a_trace(desk: Desk) -> None:
    def away(request: risk_pb2.ReserveRequest) -> Answer:
        raise RiskUnreachable("risk_error", "risk cannot be reached; nothing was reserved")

    desk.risk.script = away
    assert [type(one) for one in await desk.submit(pair())] == [Rejected] * 2
    assert desk.ledger.orders == {}


async def test_group_whose_abandoning_is_not_answered_is_told_as_unknown(desk: Desk) -> None:
    def silent(request: risk_pb2.ReserveRequest) -> Answer:
        raise ReservationUnknown("risk_timeout", "no answer")

    def unanswered(command: Command) -> None:
        raise CommitUnknown("no answer")

    desk.risk.script = silent
    desk.ledger.before = unanswered
    with pytest.raises(OutcomeUnknown) as caught:
        await desk.submit(pair())
    assert caught.value.metadata["order_id"].startswith("desk-")


@pytest.mark.parametrize("request_of", [pair, bracket])
async def test_refused_publication_releases_the_whole_group(desk: Desk, request_of: Ask) -> None:
    desk.venue.raises = [PublishRefused("full")]
    with pytest.raises(ResourceExhausted):
        await desk.submit(request_of())
    assert desk.held == 0
    assert set(desk.states) == {"canceled"}


async def test_unacknowledged_pair_is_told_as_unknown_and_sent_again_as_a_pair(desk: Desk) -> None:
    desk.venue.raises = [PublishUnknown("no ack"), None]
    with pytest.raises(OutcomeUnknown):
        await desk.submit(pair("a", "b"))
    await eventually(lambda: len(desk.venue.payloads) == 2)
    assert desk.venue.payloads[0] == desk.venue.payloads[1]
    await eventually(lambda: desk.submitter.running == 0)
    assert [type(one) for one in await desk.submit(pair("a", "b"))] == [Submitted] * 2
    assert len(desk.venue.payloads) == 2


async def test_halt_between_reservation_and_publication_releases_the_group(desk: Desk) -> None:
    def halting(request: risk_pb2.ReserveRequest) -> Answer:
        answer = desk.reserve(request)
        account = desk.ledger.accounts["desk"]
        desk.ledger.accounts["desk"] = replace(account, trading_state=TradingState.HALTED)
        return answer

    desk.risk.script = halting
    outcomes = await desk.submit(pair())
    assert {one.reason for one in outcomes if isinstance(one, Rejected)} == {"trading_halted"}
    assert (desk.held, desk.venue.sent) == (0, [])


async def test_leg_that_somebody_cancels_meanwhile_is_not_called_given_up(desk: Desk) -> None:
    def silent(request: risk_pb2.ReserveRequest) -> Answer:
        answer = desk.reserve(request)
        order_id = answer.response.group[0].order_id
        desk.ledger.apply(RequestCancel("desk", order_id, "venue_silent"))
        raise ReservationUnknown("risk_timeout", "no answer")

    desk.risk.script = silent
    with pytest.raises(OutcomeUnknown):
        await desk.submit(pair())
    assert sorted(desk.states) == ["canceled", "pending_cancel"]


@pytest.mark.parametrize(("request_of", "sent"), [(pair, 2), (bracket, 1)])
async def test_group_that_risk_reserved_and_could_not_tell_leaves_as_risk_has_checked_it(
    monkeypatch: pytest.MonkeyPatch, request_of: Ask, sent: int
) -> None:
    desk = make_desk(fail_closed=False)
    unchecked: list[str] = []
    monkeypatch.setattr(SubmissionRecord, "unchecked", lambda _, order, why: unchecked.append(order.order_id))

    def late(request: risk_pb2.ReserveRequest) -> Answer:
        desk.reserve(request)
        raise ReservationUnknown("risk_timeout", "no answer")

    desk.risk.script = late
    assert {type(one) for one in await desk.submit(request_of())} == {Submitted}
    assert desk.venue.protections == [PROTECTION] * sent
    assert unchecked == []
    desk.risk.script = lambda _: (_ for _ in ()).throw(ReservationUnknown("risk_timeout", "no answer"))
    outcomes = await desk.submit(request_of())
    assert unchecked == [one.order_id for one in outcomes]


async def test_group_that_risk_denied_and_could_not_tell_is_denied_without_fail_closed_too() -> None:
    desk = make_desk(fail_closed=False)
    desk.refused = True

    def late(request: risk_pb2.ReserveRequest) -> Answer:
        desk.reserve(request)
        raise ReservationUnknown("risk_timeout", "no answer")

    desk.risk.script = late
    assert {one.reason for one in await desk.submit(pair()) if isinstance(one, Rejected)} == {
        "order_size_limit"
    }
    assert desk.venue.sent == []


@pytest.mark.parametrize("enabled", [True, False])
async def test_unchecked_group_is_reserved_whole(enabled: bool) -> None:
    desk = make_desk(fail_closed=False, enabled=enabled)

    def away(request: risk_pb2.ReserveRequest) -> Answer:
        raise RiskUnreachable("risk_error", "away")

    desk.risk.script = away
    assert [type(one) for one in await desk.submit(bracket())] == [Submitted] * 3
    assert all(one.unchecked for one in desk.ledger.orders.values())
    assert desk.states == ["pending_new", "waiting", "waiting"]


@pytest.mark.parametrize(
    ("request_of", "field"),
    [
        (lambda: order_pb2.SubmitOrderGroupRequest(orders=pair().orders), "kind"),
        (lambda: order_pb2.SubmitOrderGroupRequest(kind=order_pb2.GROUP_KIND_OCO), "orders"),
    ],
)
async def test_wrong_group_leaves_nothing_behind(desk: Desk, request_of: Ask, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        desk.groups.begin(request_of())
    assert caught.value.violations[0][0] == field
    assert desk.ledger.commands == []
