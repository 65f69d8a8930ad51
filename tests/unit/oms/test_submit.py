"""Every way in which a submission can go wrong between two steps, and what the client is told then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from services.instruments import DEFAULT_INSTRUMENTS, instruments_of
from services.ledger.account import TradingState
from services.ledger.commands import Abandon, Command, ReportKind, RequestCancel, Reserve
from services.ledger.errors import CommitUnknown, LedgerUnavailable
from services.ledger.order import Order, OrderState
from services.oms import settling
from services.oms import submit as submit_module
from services.oms.order_entry import OrderEntry
from services.oms.outcomes import OutcomeUnknown, Rejected, SubmissionRecord, Submitted
from services.oms.risk_client import Answer, ReservationUnknown, RiskUnreachable
from services.oms.submit import SubmitRules, Submitter
from services.oms.wire import REASONS, STATES
from services.runtime.clock import SystemClock
from services.runtime.errors import AlreadyExists, ResourceExhausted, Unavailable
from services.runtime.publisher import PublishRefused, PublishUnknown
from tests.support import eventually
from tests.unit.ledger.making import report
from tests.unit.oms.memory import MemoryLedger, ScriptedRisk, ScriptedVenue, approve, deny
from trade2026.oms.v1 import order_pb2
from trade2026.risk.v1 import risk_pb2
from trade2026.type.v1 import order_pb2 as type_pb2


@dataclass
class Desk:
    submitter: Submitter
    ledger: MemoryLedger
    risk: ScriptedRisk
    venue: ScriptedVenue
    connected: list[bool]

    def reserve(self, request: risk_pb2.ReserveRequest, assess: Callable[..., object] = approve) -> Answer:
        """What a healthy risk does: the reservation in the ledger, and its outcome."""
        order = self.order_of(request)
        outcome = self.ledger.apply(Reserve(order, assess))  # type: ignore[arg-type]
        held = outcome.order
        assert held is not None
        response = risk_pb2.ReserveResponse(
            approved=held.state is not OrderState.DENIED,
            order_id=held.order_id,
            state=STATES[held.state],
            repeated=outcome.effect == "repeated",
        )
        if held.state is OrderState.DENIED:
            response.reason = REASONS[held.reason]
            response.message = held.message
        return Answer(response, 1.0)

    def order_of(self, request: risk_pb2.ReserveRequest) -> Order:
        entry = OrderEntry(instruments_of(DEFAULT_INSTRUMENTS), ["limit"], 300, 10)
        asked = order_pb2.SubmitOrderRequest(
            account=request.account, symbol=request.symbol, side=request.side, quantity=request.quantity
        )
        asked.price.CopyFrom(request.price)
        asked.client_order_id = request.client_order_id
        return replace(entry.read(asked, 1), order_id=request.order_id, digest=request.digest)

    async def submit(self, client_order_id: str = "", quantity: str = "0.1") -> Submitted | Rejected:
        return await asyncio.shield(self.submitter.begin(buy(client_order_id, quantity)))


def buy(client_order_id: str = "", quantity: str = "0.1") -> order_pb2.SubmitOrderRequest:
    request = order_pb2.SubmitOrderRequest(
        account="desk", symbol="BTCUSDT", side=type_pb2.SIDE_BUY, client_order_id=client_order_id
    )
    request.quantity.value = quantity
    request.price.value = "45000"
    return request


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that a test has to sit out are short."""
    monkeypatch.setattr(settling, "SETTLE_SEC", 0.2)
    monkeypatch.setattr(submit_module, "REPEAT_WAIT_SEC", 0.1)
    monkeypatch.setattr(submit_module, "REPUBLISH_WAIT_SEC", 0.01)


def make_desk(*, fail_closed: bool = True, enabled: bool = True) -> Desk:
    clock = SystemClock()
    ledger = MemoryLedger(clock)
    risk = ScriptedRisk(ledger)
    venue = ScriptedVenue()
    connected = [True]
    submitter = Submitter(
        OrderEntry(instruments_of(DEFAULT_INSTRUMENTS), ["limit", "market"], 300, 10),
        risk if enabled else None,
        ledger,
        venue,
        lambda: connected[0],
        SubmissionRecord(10_000, 10_000),
        SubmitRules(fail_closed, 10),
        clock,
    )
    desk = Desk(submitter, ledger, risk, venue, connected)
    risk.script = desk.reserve
    return desk


@pytest.fixture
async def desk() -> Desk:
    return make_desk()


def only_order(desk: Desk) -> Order:
    (order,) = desk.ledger.orders.values()
    return order


def open_orders(desk: Desk) -> int:
    return desk.ledger.accounts["desk"].open_orders


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


async def test_an_order_is_not_sent_again_once_its_cancel_was_requested(desk: Desk) -> None:
    desk.venue.raises = [PublishUnknown("silence")]
    with pytest.raises(OutcomeUnknown):
        await desk.submit()
    order = only_order(desk)
    desk.ledger.apply(RequestCancel("desk", order.order_id, "venue_silent"))
    await eventually(lambda: desk.submitter.running == 0)
    assert desk.venue.sent == [order.order_id]


async def test_an_order_that_was_never_published_is_not_told_as_submitted_when_the_venue_has_ended_it(
    desk: Desk,
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
    desk.ledger.apply(RequestCancel("desk", order.order_id, "venue_silent"))
    with pytest.raises(OutcomeUnknown):
        await desk.submit("mine")
    desk.ledger.apply(report(ReportKind.CANCELED, order, 1, reason="unknown_order"))
    outcome = await desk.submit("mine")
    assert isinstance(outcome, Rejected)
    assert (outcome.order_id, outcome.reason) == (order.order_id, "unknown_order")
    assert desk.venue.sent == []


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


async def test_a_repeated_request_waits_for_the_original_that_is_in_hand(desk: Desk) -> None:
    acknowledged = asyncio.Event()
    send = desk.venue.send_new

    async def slow(order: Order, payload: bytes) -> object:
        await acknowledged.wait()
        return await send(order, payload)

    desk.venue.send_new = slow  # type: ignore[method-assign]
    first = desk.submitter.begin(buy("mine"))
    await eventually(lambda: len(desk.ledger.orders) == 1)
    second = desk.submitter.begin(buy("mine"))
    await asyncio.wait({second}, timeout=0.05)
    assert not second.done()
    acknowledged.set()
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


async def test_a_conflict_that_the_abandonment_finds_already_exists(desk: Desk) -> None:
    await desk.submit("mine")

    def silent(request: risk_pb2.ReserveRequest) -> Answer:
        raise ReservationUnknown("risk_timeout", "no answer")

    desk.risk.script = silent
    with pytest.raises(AlreadyExists):
        await desk.submit("mine", quantity="0.2")
    again = await desk.submit("mine")
    assert isinstance(again, Submitted)


async def test_a_client_that_goes_away_interrupts_nothing(desk: Desk) -> None:
    acknowledged = asyncio.Event()
    send = desk.venue.send_new

    async def slow(order: Order, payload: bytes) -> object:
        await acknowledged.wait()
        return await send(order, payload)

    desk.venue.send_new = slow  # type: ignore[method-assign]
    caller = asyncio.create_task(desk.submit("mine"))
    await eventually(lambda: len(desk.ledger.orders) == 1)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    acknowledged.set()
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


async def test_without_fail_closed_silence_is_reserved_unchecked_but_a_denial_denies() -> None:
    desk = make_desk(fail_closed=False)
    desk.risk.script = lambda request: desk.reserve(request, deny)
    assert isinstance(await desk.submit(), Rejected)

    def silent(request: risk_pb2.ReserveRequest) -> Answer:
        raise ReservationUnknown("risk_timeout", "no answer")

    desk.risk.script = silent
    outcome = await desk.submit()
    assert isinstance(outcome, Submitted)
    assert desk.ledger.orders[outcome.order_id].unchecked


async def test_without_fail_closed_a_denial_that_landed_late_still_denies() -> None:
    desk = make_desk(fail_closed=False)

    def late_denial(request: risk_pb2.ReserveRequest) -> Answer:
        desk.reserve(request, deny)
        raise ReservationUnknown("risk_timeout", "no answer")

    desk.risk.script = late_denial
    outcome = await desk.submit()
    assert isinstance(outcome, Rejected)
    assert outcome.reason == "order_size_limit"
    assert desk.venue.sent == []


async def test_with_risk_switched_off_the_open_orders_and_the_trading_state_still_hold() -> None:
    desk = make_desk(enabled=False)
    for _ in range(10):
        assert isinstance(await desk.submit(), Submitted)
    eleventh = await desk.submit()
    assert isinstance(eleventh, Rejected)
    assert eleventh.reason == "max_open_orders"
    for state, reason in (
        (TradingState.HALTED, "trading_halted"),
        (TradingState.REDUCING, "trading_reducing"),
    ):
        desk.ledger.accounts["desk"] = replace(desk.ledger.accounts["desk"], trading_state=state)
        outcome = await desk.submit()
        assert isinstance(outcome, Rejected)
        assert outcome.reason == reason


async def test_an_account_that_cannot_be_opened_is_not_asked_for(desk: Desk) -> None:
    async def gone(command: Command, timeout: float = 1.0) -> object:
        raise LedgerUnavailable("gone")

    desk.ledger.execute = gone  # type: ignore[method-assign, assignment]
    outcome = await desk.submit()
    assert isinstance(outcome, Rejected)
    assert outcome.reason == "ledger_unavailable"
    assert desk.risk.requests == []
