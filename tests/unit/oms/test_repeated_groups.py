"""What a request for a group is told whose client order ids were used before: one group, one outcome."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from services.ledger.commands import ReportKind, RequestCancel
from services.ledger.groups import ENTRY_UNFILLED
from services.ledger.order import Order, OrderState
from services.oms.outcomes import Outcome, OutcomeUnknown, Rejected, Submitted
from services.oms.risk_client import Answer, ReservationUnknown, RiskUnreachable
from services.oms.sweeper import VENUE_SILENT
from services.runtime.errors import AlreadyExists
from services.runtime.publisher import PublishUnknown
from tests.support import eventually
from tests.unit.ledger.making import fill, report, request_cancel
from tests.unit.oms.group_desk import Ask, Desk, bracket, make_desk, pair
from trade2026.oms.v1 import order_pb2
from trade2026.risk.v1 import risk_pb2


@pytest.fixture
async def desk() -> Desk:
    return make_desk()


async def test_client_ids_are_free_again_after_a_time_out(desk: Desk) -> None:
    def silent(request: risk_pb2.ReserveRequest) -> Answer:
        raise ReservationUnknown("risk_timeout", "no answer")

    desk.risk.script = silent
    await desk.submit(pair("a", "b"))
    desk.risk.script = desk.reserve
    assert [type(one) for one in await desk.submit(pair("a", "b"))] == [Submitted] * 2


async def test_repeated_group_is_told_its_outcome_although_risk_cannot_be_reached(desk: Desk) -> None:
    def away(request: risk_pb2.ReserveRequest) -> Answer:
        raise RiskUnreachable("risk_error", "risk cannot be reached; nothing was reserved")

    first = await desk.submit(pair("", "b"))
    desk.risk.script = away
    assert await desk.submit(pair("", "b")) == first
    assert [type(one) for one in await desk.submit(pair("c", "d"))] == [Rejected] * 2


@pytest.mark.parametrize("known_by", [("a", ""), ("", "b"), ("a", "b")])
async def test_repeated_group_has_the_first_outcome(desk: Desk, known_by: tuple[str, str]) -> None:
    first = await desk.submit(pair(*known_by))
    again = await desk.submit(pair(*known_by))
    assert again == first
    assert len(desk.venue.payloads) == 1
    assert len(desk.ledger.orders) == 2


async def test_group_with_other_terms_under_a_known_client_id_already_exists(desk: Desk) -> None:
    await desk.submit(pair("a", "b"))
    with pytest.raises(AlreadyExists):
        await desk.submit(pair("a", "b", price="46001"))
    with pytest.raises(AlreadyExists):
        await desk.submit(bracket("a", "", ""))


async def test_repeated_group_of_another_worker_that_is_not_known_to_be_sent_is_unknown(desk: Desk) -> None:
    other = make_desk()
    other.ledger.orders, other.ledger.accounts = desk.ledger.orders, desk.ledger.accounts
    await desk.submit(pair("a", "b"))
    with pytest.raises(OutcomeUnknown):
        await other.submit(pair("a", "b"))


def worker_beside(desk: Desk) -> Desk:
    """Another worker on the same ledger, which knows nothing of what `desk` has sent."""
    other = make_desk()
    other.ledger.orders, other.ledger.accounts = desk.ledger.orders, desk.ledger.accounts
    return other


async def unacknowledged(request: order_pb2.SubmitOrderGroupRequest) -> tuple[Desk, list[Order]]:
    """A desk that does not know whether the venue got its group, and the orders of that."""
    desk = make_desk()
    desk.venue.raises = [PublishUnknown("no ack")] * 10_000
    with pytest.raises(OutcomeUnknown):
        await desk.submit(request)
    return desk, list(desk.ledger.orders.values())


def tombstone(desk: Desk, order: Order, number: int = 1) -> None:
    """A cancel of `order` reaches the venue before the order does."""
    desk.ledger.apply(request_cancel(order))
    desk.ledger.apply(report(ReportKind.CANCELED, order, number, reason="unknown_order"))


def told(outcomes: tuple[Outcome, ...]) -> list[tuple[str, str]]:
    return [(one.order_id, one.reason if isinstance(one, Rejected) else "submitted") for one in outcomes]


async def test_pair_of_which_a_cancel_overtook_one_is_told_order_by_order() -> None:
    desk, (first, second) = await unacknowledged(pair("a", "b"))
    tombstone(desk, first)
    desk.ledger.apply(report(ReportKind.ACCEPTED, second, 2))
    outcomes = await worker_beside(desk).submit(pair("a", "b"))
    assert told(outcomes) == [(first.order_id, "not_published"), (second.order_id, "submitted")]


async def test_pair_of_which_one_is_undecided_is_unknown_although_the_other_never_reached_the_venue() -> None:
    desk, (first, second) = await unacknowledged(pair("a", "b"))
    tombstone(desk, first)
    other = worker_beside(desk)
    with pytest.raises(OutcomeUnknown) as unknown:
        await other.submit(pair("a", "b"))
    assert unknown.value.metadata["order_id"] == second.order_id
    tombstone(desk, second, 2)
    outcomes = await other.submit(pair("a", "b"))
    assert told(outcomes) == [(first.order_id, "not_published"), (second.order_id, "not_published")]


async def test_repeated_group_waits_for_the_original_that_is_in_hand_whatever_its_orders_have_become(
    desk: Desk,
) -> None:
    desk.venue.acknowledges.clear()
    original = desk.groups.begin(pair("a", "b"))
    await eventually(lambda: len(desk.ledger.orders) == 2)
    tombstone(desk, next(iter(desk.ledger.orders.values())))
    again = desk.groups.begin(pair("a", "b"))
    await asyncio.wait({again}, timeout=0.05)
    assert not again.done()
    desk.venue.acknowledges.set()
    assert await again == await original


@pytest.mark.parametrize("known_by", [("a", ""), ("", "b"), ("a", "b")])
async def test_repeated_denied_group_has_the_orders_of_the_original(
    desk: Desk, known_by: tuple[str, str]
) -> None:
    desk.refused = True
    first = await desk.submit(pair(*known_by))
    assert await desk.submit(pair(*known_by)) == first
    assert [one.order_id for one in first] == list(desk.ledger.orders)


async def test_group_that_was_given_up_is_rejected_whole_although_one_of_it_is_still_being_canceled(
    desk: Desk,
) -> None:
    """Its client order ids are free, but a request may have met them just before."""
    await desk.submit(pair("a", "b"))
    first, second = desk.ledger.orders.values()
    given_up = replace(first, state=OrderState.CANCELED, reason="risk_timeout", message="no answer")
    desk.ledger.orders[first.order_id] = given_up
    desk.ledger.apply(RequestCancel("desk", second.order_id, VENUE_SILENT))
    outcomes = await worker_beside(desk).submit(pair("", "b"))
    assert told(outcomes) == [(first.order_id, "risk_timeout"), (second.order_id, "risk_timeout")]


async def test_exits_of_an_entry_that_never_reached_the_venue_are_rejected_with_it() -> None:
    desk, orders = await unacknowledged(bracket("a", "b", "c"))
    tombstone(desk, orders[0])
    assert desk.ledger.orders[orders[1].order_id].reason == ENTRY_UNFILLED
    outcomes = await worker_beside(desk).submit(bracket("a", "b", "c"))
    assert told(outcomes) == [(order.order_id, "not_published") for order in orders]


async def test_exits_of_an_entry_that_was_submitted_were_submitted_with_it() -> None:
    desk, orders = await unacknowledged(bracket("a", "b", "c"))
    desk.ledger.apply(fill(orders[0], 1, orders[0].terms.quantity))
    tombstone(desk, orders[1], 2)
    outcomes = await worker_beside(desk).submit(bracket("a", "b", "c"))
    assert told(outcomes) == [(order.order_id, "submitted") for order in orders]


@pytest.mark.parametrize("request_of", [lambda: pair("", "b"), lambda: bracket("", "", "c")])
async def test_group_whose_first_order_has_left_without_a_memory_is_told_by_another_one(
    desk: Desk, request_of: Ask
) -> None:
    first = await desk.submit(request_of())
    last = list(desk.ledger.orders)[-1]
    desk.ledger.orders[last] = replace(desk.ledger.orders[last], state=OrderState.CANCELED)
    for order_id in list(desk.ledger.orders)[:-1]:
        del desk.ledger.orders[order_id]
    assert await desk.submit(request_of()) == first


async def test_bracket_is_told_by_the_exit_that_was_activated_alone(desk: Desk) -> None:
    first = await desk.submit(bracket("", "b", ""))
    entry, _, canceled = list(desk.ledger.orders.values())
    desk.ledger.apply(request_cancel(canceled))
    desk.ledger.apply(fill(entry, 1, entry.terms.quantity))
    for gone in (entry, canceled):
        del desk.ledger.orders[gone.order_id]
    assert await desk.submit(bracket("", "b", "")) == first
