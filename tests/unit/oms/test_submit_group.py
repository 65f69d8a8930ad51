"""What can go wrong between two steps of a group's submission: all of it happens, or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal

import pytest

from services.instruments import DEFAULT_INSTRUMENTS, instruments_of
from services.ledger.account import Account, TradingState
from services.ledger.commands import Approved, Command, Refused, RequestCancel, ReserveGroup
from services.ledger.errors import CommitUnknown
from services.ledger.order import Order, OrderState
from services.oms.order_entry import OrderEntry
from services.oms.outcomes import Outcome, OutcomeUnknown, Rejected, SubmissionRecord, Submitted
from services.oms.risk_client import Answer, ReservationUnknown, RiskUnreachable
from services.oms.submit import SubmitRules, Submitter
from services.oms.submit_group import GroupSubmitter
from services.oms.wire import REASONS, STATES
from services.runtime.clock import SystemClock
from services.runtime.errors import AlreadyExists, InvalidArgument, ResourceExhausted
from services.runtime.publisher import PublishRefused, PublishUnknown
from tests.support import eventually
from tests.unit.oms.memory import MemoryLedger, ScriptedRisk, ScriptedVenue, approve, deny
from trade2026.oms.v1 import order_pb2
from trade2026.risk.v1 import risk_pb2
from trade2026.type.v1 import order_pb2 as type_pb2

Ask = Callable[[], order_pb2.SubmitOrderGroupRequest]

ENTRY = OrderEntry(instruments_of(DEFAULT_INSTRUMENTS), ["market", "limit", "stop"], 300, 10)


def order(
    side: str, client_order_id: str = "", price: str = "45000", quantity: str = "0.1"
) -> order_pb2.SubmitOrderRequest:
    request = order_pb2.SubmitOrderRequest(
        account="desk",
        symbol="BTCUSDT",
        side=type_pb2.SIDE_BUY if side == "buy" else type_pb2.SIDE_SELL,
        client_order_id=client_order_id,
    )
    request.quantity.value = quantity
    request.price.value = price
    return request


def pair(*names: str, price: str = "46000") -> order_pb2.SubmitOrderGroupRequest:
    first, second = names or ("", "")
    return order_pb2.SubmitOrderGroupRequest(
        kind=order_pb2.GROUP_KIND_OCO, orders=[order("sell", first, price), order("sell", second, "44000")]
    )


def bracket(*names: str) -> order_pb2.SubmitOrderGroupRequest:
    first, second, third = names or ("", "", "")
    return order_pb2.SubmitOrderGroupRequest(
        kind=order_pb2.GROUP_KIND_BRACKET,
        orders=[order("buy", first), order("sell", second, "46000"), order("sell", third, "44000")],
    )


@dataclass
class Desk:
    groups: GroupSubmitter
    submitter: Submitter
    ledger: MemoryLedger
    risk: ScriptedRisk
    venue: ScriptedVenue
    asked: list[ReserveGroup]
    refused: bool = False

    def _assess(self, account: Account, orders: tuple[Order, ...]) -> tuple[Approved, ...] | Refused:
        if self.refused:
            refusal = deny(account, orders[0])
            assert isinstance(refusal, Refused)
            return refusal
        return tuple(one for one in (approve(account, o) for o in orders) if isinstance(one, Approved))

    def reserve(self, request: risk_pb2.ReserveRequest) -> Answer:
        """What a healthy risk does: the reservation in the ledger, and its outcome."""
        asked = [request, *request.group.orders]
        kinds = {
            risk_pb2.RESERVE_GROUP_KIND_OCO: order_pb2.GROUP_KIND_OCO,
            risk_pb2.RESERVE_GROUP_KIND_BRACKET: order_pb2.GROUP_KIND_BRACKET,
        }
        group = order_pb2.SubmitOrderGroupRequest(kind=kinds[request.group.kind])
        for one in asked:
            added = group.orders.add(
                account=one.account,
                symbol=one.symbol,
                side=one.side,
                quantity=one.quantity,
                client_order_id=one.client_order_id,
            )
            added.price.CopyFrom(one.price)
        ids = {read.order_id: one for read, one in zip(self._read(group), asked, strict=True)}
        orders = tuple(
            replace(
                read,
                order_id=ids[read.order_id].order_id,
                digest=ids[read.order_id].digest,
                group=replace(
                    read.group,
                    group_id=ids[read.group.group_id].order_id,
                    linked=tuple(ids[name].order_id for name in read.group.linked),
                ),
            )
            for read in self._last
            if read.group is not None
        )
        command = ReserveGroup(orders, self._assess)
        self.asked.append(command)
        outcome = self.ledger.apply(command)
        if outcome.effect == "conflict":
            raise AlreadyExists("the client order id belongs to an order with other terms")
        held = outcome.order
        assert held is not None
        response = risk_pb2.ReserveResponse(
            approved=held.state is not OrderState.DENIED,
            order_id=held.order_id,
            state=STATES[held.state],
            repeated=outcome.effect == "repeated",
        )
        if held.state is OrderState.DENIED:
            response.reason, response.message = REASONS[held.reason], held.message
        for further in outcome.orders[1:]:
            response.group.add(approved=True, order_id=further.order_id).protection_price.value = "43000"
        return Answer(response, 1.0)

    def _read(self, group: order_pb2.SubmitOrderGroupRequest) -> tuple[Order, ...]:
        self._last = ENTRY.read_group(group, 1)
        return self._last

    async def submit(self, request: order_pb2.SubmitOrderGroupRequest) -> tuple[Outcome, ...]:
        return await asyncio.shield(self.groups.begin(request))

    @property
    def states(self) -> list[str]:
        return [one.state.value for one in self.ledger.orders.values()]

    @property
    def held(self) -> Decimal:
        position = self.ledger.accounts["desk"].position("BTCUSDT")
        return position.open_buy + position.open_sell


def make_desk(*, fail_closed: bool = True, enabled: bool = True) -> Desk:
    clock = SystemClock()
    ledger = MemoryLedger(clock)
    risk = ScriptedRisk(ledger)
    venue = ScriptedVenue()
    record, rules = SubmissionRecord(10_000, 10_000), SubmitRules(fail_closed, 10)
    used = risk if enabled else None
    submitter = Submitter(ENTRY, used, ledger, venue, lambda: True, record, rules, clock)
    groups = GroupSubmitter(submitter, ENTRY, used, ledger, venue, record, rules, clock)
    desk = Desk(groups, submitter, ledger, risk, venue, [])
    risk.script = desk.reserve
    return desk


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


async def test_client_ids_are_free_again_after_a_time_out(desk: Desk) -> None:
    def silent(request: risk_pb2.ReserveRequest) -> Answer:
        raise ReservationUnknown("risk_timeout", "no answer")

    desk.risk.script = silent
    await desk.submit(pair("a", "b"))
    desk.risk.script = desk.reserve
    assert [type(one) for one in await desk.submit(pair("a", "b"))] == [Submitted] * 2


async def test_unreachable_risk_rejects_without_a_trace(desk: Desk) -> None:
    def away(request: risk_pb2.ReserveRequest) -> Answer:
        raise RiskUnreachable("risk_error", "risk cannot be reached; nothing was reserved")

    desk.risk.script = away
    assert [type(one) for one in await desk.submit(pair())] == [Rejected] * 2
    assert desk.ledger.orders == {}


async def test_repeated_group_is_told_its_outcome_although_risk_cannot_be_reached(desk: Desk) -> None:
    def away(request: risk_pb2.ReserveRequest) -> Answer:
        raise RiskUnreachable("risk_error", "risk cannot be reached; nothing was reserved")

    first = await desk.submit(pair("", "b"))
    desk.risk.script = away
    assert await desk.submit(pair("", "b")) == first
    assert [type(one) for one in await desk.submit(pair("c", "d"))] == [Rejected] * 2


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
