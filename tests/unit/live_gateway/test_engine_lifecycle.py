"""Cancels, amendments, expiry, orders seen before, and what has to be journaled."""

from decimal import Decimal

import pytest

from services.ledger.order import OrderState, Side
from services.live_gateway.engine import Engine
from services.live_gateway.memory import OrderMemory
from services.live_gateway.orders import Decision, SeenOrder
from tests.unit.live_gateway.venue import Venue, market_model, only_report, only_trade, order_id, said

BUY, SELL = Side.BUY, Side.SELL
ID = order_id(500)


@pytest.fixture
def venue() -> Venue:
    venue = market_model()
    venue.mark("45000")
    return venue


def test_cancel_of_a_working_order_ends_it_and_echoes_the_number(venue: Venue) -> None:
    venue.limit(BUY, "1", "44000", id=ID)
    report = only_report(venue.cancel(ID, 3))
    assert (report.kind, report.status, report.revision, report.reason) == ("canceled", "canceled", 3, "")
    assert venue.working == []
    assert venue.mark("43000") == []


def test_repeated_cancel_number_is_not_answered_again(venue: Venue) -> None:
    venue.limit(BUY, "1", "44000", id=ID)
    venue.cancel(ID, 1)
    assert venue.cancel(ID, 1) == []


def test_cancel_of_an_ended_order_is_rejected_with_its_state(venue: Venue) -> None:
    venue.limit(BUY, "1", "46000", id=ID)
    report = only_report(venue.cancel(ID, 1))
    assert (report.kind, report.reason, report.status, report.revision) == (
        "cancel_rejected",
        "filled",
        "filled",
        1,
    )
    assert report.cumulative == 1
    assert venue.cancel(ID, 1) == []
    assert said(venue.cancel(ID, 2)) == ["cancel_rejected filled"]


def test_cancel_of_an_unknown_order_is_answered_and_a_late_new_is_refused(venue: Venue) -> None:
    report = only_report(venue.cancel(ID))
    assert (report.kind, report.reason, report.account, report.cumulative) == (
        "canceled",
        "unknown_order",
        "alice",
        0,
    )
    assert venue.limit(BUY, "1", "46000", id=ID) == []
    assert said(venue.cancel(ID, 2)) == ["cancel_rejected canceled"]


def test_amendment_is_reported_and_the_order_looked_at_again(venue: Venue) -> None:
    venue.limit(BUY, "1", "44000", id=ID)
    replaced = only_report(venue.amend(ID, "2", "44500"))
    assert (replaced.kind, replaced.revision, replaced.status, replaced.leaves) == ("replaced", 1, "new", 2)
    assert said(venue.amend(ID, "2", "45000", revision=2)) == ["replaced", "fill 2 @ 45000"]


def test_old_terms_of_an_amended_order_are_void(venue: Venue) -> None:
    venue.limit(BUY, "1", "44500", id=ID)
    venue.amend(ID, "1", "44000")
    assert venue.mark("44400") == []
    assert said(venue.mark("44000")) == ["fill 1 @ 44000"]


def test_repeated_revision_is_not_answered_again(venue: Venue) -> None:
    venue.limit(BUY, "1", "44000", id=ID)
    venue.amend(ID, "2", "44000")
    assert venue.amend(ID, "3", "44000") == []
    assert venue.engine.working[ID].terms.quantity == 2


@pytest.mark.parametrize("total", ["0.5", "0.4"])
def test_amendment_to_no_more_than_was_executed_is_rejected_and_the_old_terms_stand(total: str) -> None:
    venue = market_model(slices=2, delay_ns=10**9)
    venue.mark("45000")
    venue.limit(BUY, "1", "46000", id=ID)
    venue.pass_time(1)
    report = only_report(venue.amend(ID, total, "46000"))
    assert (report.kind, report.reason, report.status) == (
        "replace_rejected",
        "already_executed",
        "partially_filled",
    )
    assert only_trade(venue.pass_time(1)).cumulative == 1


def test_amendment_to_just_more_than_was_executed_leaves_the_difference() -> None:
    venue = market_model(slices=2, delay_ns=10**9)
    venue.mark("45000")
    venue.limit(BUY, "1", "46000", id=ID)
    venue.pass_time(1)
    report = only_report(venue.amend(ID, "0.501", "46000"))
    assert (report.kind, report.leaves, report.cumulative) == ("replaced", Decimal("0.001"), Decimal("0.5"))
    assert only_trade(venue.pass_time(1)).status == OrderState.FILLED


def test_amendment_of_an_unknown_order_is_rejected_and_the_order_may_still_come(venue: Venue) -> None:
    assert said(venue.amend(ID, "1", "44000")) == ["replace_rejected unknown_order"]
    assert said(venue.limit(BUY, "1", "44000", id=ID)) == ["accepted"]


def test_amendment_of_an_ended_order_is_rejected_with_its_state_once(venue: Venue) -> None:
    venue.limit(BUY, "1", "46000", id=ID)
    assert said(venue.amend(ID, "2", "46000")) == ["replace_rejected filled"]
    assert venue.amend(ID, "2", "46000") == []


@pytest.mark.parametrize(
    ("quantity", "price", "reason"),
    [
        ("0", "44000", "invalid_quantity"),
        ("0.0001", "44000", "invalid_quantity"),
        ("1", None, "invalid_price"),
        ("1", "44000.001", "invalid_price"),
    ],
)
def test_malformed_amendment_is_rejected_and_the_old_terms_stand(
    venue: Venue, quantity: str, price: str | None, reason: str
) -> None:
    venue.limit(BUY, "1", "44000", id=ID)
    assert said(venue.amend(ID, quantity, price)) == [f"replace_rejected {reason}"]
    assert said(venue.mark("44000")) == ["fill 1 @ 44000"]


def test_amendment_out_of_range_of_the_mark_is_rejected_and_the_old_terms_stand() -> None:
    venue = Venue(delay_ns=10**9)  # `instant`, with time to amend
    venue.mark("45000")
    venue.limit(BUY, "1", "44000", id=ID)
    assert said(venue.amend(ID, "1", "1")) == ["replace_rejected price_out_of_range"]
    assert said(venue.pass_time(1)) == ["fill 1 @ 44000"]


def test_amended_stop_waits_for_its_new_price(venue: Venue) -> None:
    venue.stop(BUY, "1", "46000", id=ID)
    assert said(venue.amend(ID, "1", stop="47000")) == ["replaced"]
    assert venue.mark("46500") == []
    assert said(venue.amend(ID, "1", stop="46500", revision=2)) == ["replaced", "fill 1 @ 46500"]


def test_working_order_expires_at_its_time_and_not_before(venue: Venue) -> None:
    venue.limit(BUY, "1", "44000", id=ID, expire_sec=10)
    assert venue.pass_time(9.999) == []
    report = only_report(venue.pass_time(0.001))
    assert (report.kind, report.status, report.leaves) == ("expired", "expired", 0)
    assert venue.mark("44000") == []
    assert said(venue.cancel(ID)) == ["cancel_rejected expired"]


def test_canceled_order_does_not_expire(venue: Venue) -> None:
    venue.limit(BUY, "1", "44000", id=ID, expire_sec=10)
    venue.cancel(ID)
    assert venue.pass_time(20) == []


def test_next_time_is_that_of_the_earliest_expiry(venue: Venue) -> None:
    assert venue.engine.next_ns() is None
    venue.limit(BUY, "1", "44000", expire_sec=20)
    venue.limit(BUY, "1", "44000", expire_sec=10)
    assert venue.engine.next_ns() == venue.now_ns + 10 * 10**9


def test_changes_name_what_to_journal_and_nothing_else(venue: Venue) -> None:
    venue.limit(BUY, "1", "44000", id=ID)
    assert list(venue.changes.touched) == [ID]
    assert venue.changes.seen == {}
    venue.mark("44000")
    assert venue.changes.touched == {}
    assert venue.changes.removed == [ID]
    assert venue.changes.seen == {ID: SeenOrder(OrderState.FILLED, Decimal(1))}
    assert venue.changes.positions == {("alice", "BTCUSDT")}
    assert venue.told() == []
    assert venue.changes.positions == set()


def test_order_that_came_and_ended_between_two_looks_was_never_working(venue: Venue) -> None:
    venue.limit(BUY, "1", "46000", id=ID)
    assert (venue.changes.touched, venue.changes.removed) == ({}, [])
    assert list(venue.changes.seen) == [ID]


def test_restored_engine_goes_on_where_the_first_one_stopped(venue: Venue) -> None:
    venue.limit(BUY, "1", "44000", id=order_id(1))
    venue.limit(BUY, "2", "44000", id=order_id(2), expire_sec=10)
    venue.limit(BUY, "1", "46000", id=order_id(3))
    first = venue.engine
    second = Engine("venue", venue.rules, OrderMemory(100), first.next_number)
    marks = {symbol: (book.mark, book.mark_ns) for symbol, book in first.books.items() if book.mark}
    second.restore(reversed(list(first.working.values())), first.positions, marks)
    second.mark("BTCUSDT", Decimal("44000"), venue.now_ns)
    decisions = second.take_changes().decisions
    assert said(decisions) == ["fill 1 @ 44000", "fill 2 @ 44000"]
    assert decisions[0].exec_id == f"venue-{first.next_number}"
    assert second.positions["alice", "BTCUSDT"].quantity == 4


def test_order_whose_journal_was_lost_goes_on_where_its_reports_stand(venue: Venue) -> None:
    venue.memory.remember(ID, SeenOrder(OrderState.PARTIALLY_FILLED, Decimal("0.4")))
    trade = only_trade(venue.limit(BUY, "1", "46000", id=ID))
    assert (trade.quantity, trade.cumulative, trade.status) == (Decimal("0.6"), 1, OrderState.FILLED)


def test_order_whose_journal_was_lost_is_not_accepted_a_second_time(venue: Venue) -> None:
    venue.memory.remember(ID, SeenOrder(OrderState.NEW, Decimal(0)))
    assert venue.stop(BUY, "1", "47000", id=ID) == []
    assert only_trade(venue.mark("47000")).status == OrderState.FILLED


def test_order_whose_journal_was_lost_can_be_canceled_before_its_terms_come_back(venue: Venue) -> None:
    venue.memory.remember(ID, SeenOrder(OrderState.PARTIALLY_FILLED, Decimal("0.4")))
    report = only_report(venue.cancel(ID))
    assert (report.kind, report.cumulative) == ("canceled", Decimal("0.4"))
    assert venue.limit(BUY, "1", "46000", id=ID) == []


def test_mark_of_a_symbol_that_is_not_traded_is_ignored(venue: Venue) -> None:
    venue.engine.mark("DOGEUSDT", Decimal(1), venue.now_ns)
    assert venue.told() == []
    assert venue.engine.without_mark(venue.now_ns) == ["ETHUSDT"]


def _give_up(venue: Venue, seen: SeenOrder) -> list[Decision]:
    venue.engine.give_up("alice", ID, seen, venue.now_ns)
    return venue.told()


def test_order_whose_terms_were_lost_is_canceled_once_with_what_was_executed(venue: Venue) -> None:
    partly = SeenOrder(OrderState.PARTIALLY_FILLED, Decimal("0.4"))
    report = only_report(_give_up(venue, partly))
    assert (report.kind, report.status, report.reason) == ("canceled", "canceled", "terms_lost")
    assert (report.account, report.order_id, report.revision) == ("alice", ID, 0)
    assert (report.cumulative, report.leaves) == (Decimal("0.4"), 0)
    assert venue.changes.seen == {ID: SeenOrder(OrderState.CANCELED, Decimal("0.4"))}
    assert _give_up(venue, partly) == []
    assert venue.limit(BUY, "1", "46000", id=ID) == []


def test_order_that_works_or_has_ended_is_not_given_up(venue: Venue) -> None:
    venue.limit(BUY, "1", "44000", id=ID)
    assert _give_up(venue, SeenOrder(OrderState.NEW)) == []
    venue.cancel(ID, 1)
    assert _give_up(venue, SeenOrder(OrderState.NEW)) == []
