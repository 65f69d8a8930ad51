"""What single commands do to an account and its orders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

import pytest

from services.ledger import events as e
from services.ledger.account import Account
from services.ledger.commands import (
    Approved,
    Command,
    Effect,
    Open,
    Refused,
    Register,
    RepeatAmend,
    ReportKind,
)
from services.ledger.numbers import install_context
from services.ledger.order import Order, OrderState, Side
from services.ledger.transition import AccountMissing, Transition, transition
from tests.unit.ledger.making import (
    abandon,
    abandon_amend,
    amend,
    fill,
    hold_price,
    make_order,
    refuse,
    report,
    request_cancel,
    reserve,
)


class Book:
    """An account and its orders, changed by commands one after the other."""

    def __init__(self) -> None:
        install_context()
        self.now = 1_000
        self.orders: dict[str, Order] = {}
        self.account: Account | None = None
        self.last: Transition
        self.do(Open("acc", "life-1", Decimal(100_000)))
        self.do(Register("acc"))

    def do(self, command: Command, known: Order | None = None) -> Transition:
        self.now += 1
        order_id = getattr(command, "order_id", "") or getattr(
            getattr(command, "order", None), "order_id", ""
        )
        self.last = transition(self.account, known or self.orders.get(order_id), command, self.now)
        self.account = self.last.account
        self.orders.update(self.last.orders)
        return self.last

    def position(self, symbol: str = "BTCUSDT"):  # type: ignore[no-untyped-def]
        assert self.account is not None
        return self.account.position(symbol)


@pytest.fixture
def book() -> Book:
    return Book()


def _placed(book: Book, quantity: str = "10", side: Side = Side.BUY, price: str = "100") -> Order:
    order = make_order("acc", quantity, side=side, price=price)
    book.do(reserve(order))
    return book.orders[order.order_id]


def _working(book: Book, quantity: str = "10", side: Side = Side.BUY) -> Order:
    order = _placed(book, quantity, side)
    book.do(report(ReportKind.ACCEPTED, order, book.now))
    return book.orders[order.order_id]


def test_command_on_an_account_that_is_not_open_raises() -> None:
    with pytest.raises(AccountMissing):
        transition(None, None, Register("acc"), 1)


def test_opening_again_repeats(book: Book) -> None:
    step = book.do(Open("acc", "life-2", Decimal(5)))
    assert step.outcome.effect is Effect.REPEATED
    assert book.account is not None
    assert book.account.incarnation == "life-1"


def test_reservation_holds_value_loss_and_fee(book: Book) -> None:
    _placed(book, "10", price="100")
    position = book.position()
    assert (position.open_buy, position.buy_value) == (10, 1000)
    assert (position.adverse_loss, position.worst_fee) == (10, 1)
    assert book.account is not None
    assert book.account.open_orders == 1


def test_refused_order_is_denied_with_its_reason_and_holds_nothing(book: Book) -> None:
    order = make_order("acc")
    step = book.do(reserve(order, refuse))
    assert step.outcome.state is OrderState.DENIED
    assert step.outcome.order is not None
    assert step.outcome.order.reason == "order_size_limit"
    assert book.position().open_buy == 0
    assert not isinstance(step.events[0], e.Reserved)


def test_reserving_the_same_order_again_repeats_the_outcome(book: Book) -> None:
    order = _placed(book)
    step = book.do(reserve(order))
    assert (step.outcome.effect, step.outcome.order, step.events) == (Effect.REPEATED, order, ())


def test_client_id_with_another_payload_conflicts(book: Book) -> None:
    order = _placed(book)
    step = book.do(reserve(make_order("acc", digest="another")), known=order)
    assert step.outcome.effect is Effect.CONFLICT


def test_checks_see_the_account_without_the_order(book: Book) -> None:
    seen: list[Account] = []

    def look(account: Account, order: Order) -> Approved:
        seen.append(account)
        return hold_price(account, order)

    book.do(reserve(make_order("acc"), look))
    assert seen[0].open_orders == 0


def test_abandoned_reservation_is_released(book: Book) -> None:
    order = _placed(book)
    step = book.do(abandon(order))
    assert step.outcome.state is OrderState.CANCELED
    assert book.position().open_buy == 0
    assert book.account is not None
    assert book.account.open_orders == 0


def test_abandon_before_the_reservation_leaves_a_tombstone_that_it_meets(book: Book) -> None:
    order = make_order("acc")
    tombstone = book.do(abandon(order))
    assert tombstone.events == (e.Denied(book.orders[order.order_id], abandoned=True),)
    late = book.do(reserve(order))
    assert (late.outcome.effect, late.outcome.state, late.events) == (Effect.REPEATED, OrderState.DENIED, ())


def test_abandon_of_an_accepted_order_changes_nothing(book: Book) -> None:
    order = _working(book)
    step = book.do(abandon(order))
    assert (step.outcome.effect, step.outcome.state) == (Effect.REPEATED, OrderState.NEW)


def test_fills_move_cash_position_and_reservation(book: Book) -> None:
    order = _working(book, "10")
    book.do(fill(order, 2_000, "4", price="90", fee="0.5"))
    position = book.position()
    assert (position.quantity, position.cost, position.last_price, position.open_buy) == (4, 360, 90, 6)
    assert book.account is not None
    assert book.account.cash == Decimal("100000") - 360 - Decimal("0.5")
    assert book.orders[order.order_id].state is OrderState.PARTIALLY_FILLED
    book.do(fill(order, 2_001, "6", price="90", fee="0"))
    assert book.orders[order.order_id].state is OrderState.FILLED
    assert (book.position().open_buy, book.account.open_orders) == (0, 0)
    assert (book.position().buy_value, book.position().adverse_loss, book.position().worst_fee) == (0, 0, 0)


def test_fill_across_zero_realises_and_opens_anew(book: Book) -> None:
    book.do(fill(_working(book, "10"), 2_000, "10", price="100", fee="0"))
    book.do(fill(_working(book, "15", Side.SELL), 2_001, "15", price="110", fee="0"))
    position = book.position()
    assert (position.quantity, position.cost, position.realised) == (-5, -550, 100)


def test_report_with_an_old_sequence_repeats(book: Book) -> None:
    order = _working(book)
    book.do(fill(order, 2_000, "1"))
    before = book.account
    step = book.do(fill(order, 2_000, "1"))
    assert (step.outcome.effect, step.events) == (Effect.REPEATED, ())
    assert book.account is before


def test_execution_under_a_new_sequence_is_booked_once(book: Book) -> None:
    order = _working(book)
    book.do(fill(order, 2_000, "1", exec_id="e1"))
    step = book.do(fill(order, 2_001, "1", exec_id="e1"))
    assert step.outcome.effect is Effect.IGNORED
    assert book.position().quantity == 1
    assert book.account is not None
    assert book.account.applied_seq == 2_001


def test_fill_of_an_unknown_order_is_booked_and_flagged(book: Book) -> None:
    foreign = make_order("acc")
    step = book.do(fill(foreign, 2_000, "3", exec_id="e9"))
    assert isinstance(step.events[0], e.Filled)
    assert step.events[0].unknown
    assert book.position().quantity == 3
    again = book.do(fill(foreign, 2_001, "3", exec_id="e9"))
    assert again.outcome.effect is Effect.IGNORED
    assert book.position().quantity == 3


@pytest.mark.parametrize(
    "change", [{"symbol": "ETHUSDT"}, {"side": Side.SELL}], ids=["another symbol", "another side"]
)
def test_fill_that_contradicts_its_order_leaves_the_order_alone(
    book: Book, change: Mapping[str, object]
) -> None:
    order = _working(book, "10")
    step = book.do(replace(fill(order, 2_000, "3"), **change))  # type: ignore[arg-type]
    assert isinstance(step.events[0], e.Filled)
    assert step.events[0].unknown
    assert book.orders[order.order_id] == order
    assert book.position().open_buy == 10


def test_fill_without_quantity_raises(book: Book) -> None:
    with pytest.raises(ValueError, match="positive quantity"):
        book.do(fill(_working(book), 2_000, "0"))


def test_late_fill_is_booked_on_the_ended_order(book: Book) -> None:
    order = _working(book, "10")
    book.do(report(ReportKind.CANCELED, order, 2_000))
    step = book.do(fill(order, 2_001, "4"))
    assert isinstance(step.events[0], e.Filled)
    assert step.events[0].late
    assert book.orders[order.order_id].state is OrderState.CANCELED
    assert book.orders[order.order_id].cumulative == 4
    assert (book.position().quantity, book.position().open_buy) == (4, 0)


def test_overfill_is_booked_whole_and_measured(book: Book) -> None:
    order = _working(book, "10")
    step = book.do(fill(order, 2_000, "13"))
    assert isinstance(step.events[0], e.Filled)
    assert step.events[0].overfill == 3
    assert book.orders[order.order_id].state is OrderState.FILLED
    assert (book.position().quantity, book.position().open_buy, book.position().buy_value) == (13, 0, 0)


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (ReportKind.CANCELED, OrderState.CANCELED),
        (ReportKind.REJECTED, OrderState.REJECTED),
        (ReportKind.EXPIRED, OrderState.EXPIRED),
    ],
)
def test_reported_end_releases_the_rest(book: Book, kind: ReportKind, state: OrderState) -> None:
    order = _working(book, "10")
    book.do(fill(order, 2_000, "4"))
    step = book.do(report(kind, order, 2_001, reason="because"))
    assert (step.outcome.state, step.outcome.order and step.outcome.order.reason) == (state, "because")
    assert (book.position().open_buy, book.position().adverse_loss) == (0, 0)
    again = book.do(report(kind, order, 2_002))
    assert again.outcome.effect is Effect.IGNORED


def test_cancel_requests_are_numbered_and_repeat_while_one_is_on_its_way(book: Book) -> None:
    order = _working(book)
    assert book.do(request_cancel(order)).outcome.state is OrderState.PENDING_CANCEL
    assert book.do(request_cancel(order)).outcome.effect is Effect.REPEATED
    assert book.do(request_cancel(order, again=True)).outcome.effect is Effect.DONE
    assert book.orders[order.order_id].cancels == 2


def test_cancel_of_an_unknown_or_ended_order_says_so(book: Book) -> None:
    assert book.do(request_cancel(make_order("acc"))).outcome.effect is Effect.NOT_FOUND
    order = _working(book)
    book.do(report(ReportKind.CANCELED, order, 2_000))
    assert book.do(request_cancel(order)).outcome.effect is Effect.NOT_OPEN


def test_rejected_cancel_lets_the_order_work_on(book: Book) -> None:
    order = _working(book)
    book.do(request_cancel(order))
    book.do(report(ReportKind.CANCEL_REJECTED, order, 2_000, revision=1))
    assert book.orders[order.order_id].state is OrderState.NEW


def test_amendment_holds_enough_for_both_terms_until_it_is_answered(book: Book) -> None:
    order = _working(book, "10")
    book.do(amend(order, 1, "6", "120"))
    assert (book.position().open_buy, book.position().buy_value) == (10, 1200)
    book.do(report(ReportKind.REPLACED, order, 2_000, revision=1))
    assert (book.position().open_buy, book.position().buy_value) == (6, 720)
    assert book.orders[order.order_id].terms.price == 120
    assert book.orders[order.order_id].state is OrderState.NEW


def test_rejected_amendment_falls_back_to_the_old_terms(book: Book) -> None:
    order = _working(book, "10")
    book.do(amend(order, 1, "20", "90"))
    assert (book.position().open_buy, book.position().buy_value) == (20, 2000)
    book.do(report(ReportKind.REPLACE_REJECTED, order, 2_000, revision=1))
    assert (book.position().open_buy, book.position().buy_value) == (10, 1000)
    assert book.orders[order.order_id].terms == order.terms


def test_second_amendment_waits_for_the_first(book: Book) -> None:
    order = _working(book)
    book.do(amend(order, 1, "6", "120"))
    assert book.do(amend(order, 1, "6", "120")).outcome.effect is Effect.REPEATED
    assert book.do(amend(order, 2, "5", "120")).outcome.effect is Effect.BUSY


def test_second_request_for_a_revision_in_flight_waits_even_with_the_same_terms(book: Book) -> None:
    order = _working(book)
    book.do(amend(order, 1, "6", "120", request_id="one"))
    assert book.do(amend(order, 1, "6", "120", request_id="two")).outcome.effect is Effect.BUSY
    assert book.do(amend(order, 1, "6", "120", request_id="one")).outcome.effect is Effect.REPEATED


def test_revision_that_was_answered_is_stale(book: Book) -> None:
    order = _working(book)
    book.do(amend(order, 1, "6", "120"))
    book.do(report(ReportKind.REPLACE_REJECTED, order, 2_000, revision=1))
    assert book.do(amend(order, 1, "5", "120")).outcome.effect is Effect.STALE
    assert book.do(amend(order, 2, "5", "120")).outcome.effect is Effect.DONE


def test_abandoned_amendment_falls_back_to_the_old_terms(book: Book) -> None:
    order = _working(book, "10")
    book.do(amend(order, 1, "20", "120", request_id="one"))
    assert book.do(abandon_amend(order, 1, "other")).outcome.effect is Effect.REPEATED
    assert book.do(abandon_amend(order, 1, "one")).outcome.effect is Effect.DONE
    after = book.orders[order.order_id]
    assert (after.state, after.revision, after.terms, after.replacement) == (
        OrderState.NEW,
        1,
        order.terms,
        None,
    )
    assert (book.position().open_buy, book.position().buy_value) == (10, 1000)
    assert book.do(abandon_amend(order, 1, "one")).outcome.effect is Effect.REPEATED


def test_amendment_that_comes_after_it_was_abandoned_finds_its_revision_used(book: Book) -> None:
    order = _working(book)
    assert book.do(abandon_amend(order, 1, "one")).outcome.effect is Effect.DONE
    assert book.do(amend(order, 1, "20", "120", request_id="one")).outcome.effect is Effect.STALE
    assert book.orders[order.order_id].state is OrderState.NEW


def test_amendment_that_was_sent_again_is_not_abandoned(book: Book) -> None:
    order = _working(book)
    book.do(amend(order, 1, "20", "120", request_id="one"))
    again = book.do(RepeatAmend("acc", order.order_id, 1))
    assert again.outcome.effect is Effect.DONE
    held = book.orders[order.order_id]
    assert held.replacement is not None
    assert (held.state, held.replacement.repeats) == (OrderState.PENDING_REPLACE, 1)
    assert (book.position().open_buy, book.position().buy_value) == (20, 2400)
    assert book.do(abandon_amend(order, 1, "one")).outcome.effect is Effect.BUSY
    book.do(report(ReportKind.REPLACED, order, 2_000, revision=1))
    assert book.orders[order.order_id].terms.quantity == 20


def test_amendment_that_is_not_in_flight_is_not_sent_again(book: Book) -> None:
    order = _working(book)
    assert book.do(RepeatAmend("acc", order.order_id, 1)).outcome.effect is Effect.NOT_OPEN
    book.do(amend(order, 1, "20", "120"))
    assert book.do(RepeatAmend("acc", order.order_id, 2)).outcome.effect is Effect.STALE
    book.do(request_cancel(order))
    assert book.do(RepeatAmend("acc", order.order_id, 1)).outcome.effect is Effect.NOT_OPEN


def test_amendment_abandoned_after_a_cancel_was_requested_leaves_the_cancel_on_its_way(book: Book) -> None:
    order = _working(book)
    book.do(amend(order, 1, "20", "120", request_id="one"))
    book.do(request_cancel(order))
    book.do(abandon_amend(order, 1, "one"))
    after = book.orders[order.order_id]
    assert (after.state, after.replacement) == (OrderState.PENDING_CANCEL, None)
    assert book.position().open_buy == 10


def test_refused_amendment_changes_nothing(book: Book) -> None:
    order = _working(book)
    step = book.do(amend(order, 1, "600", "120", refuse))
    assert step.outcome.effect is Effect.REFUSED
    assert step.outcome.refusal == Refused("order_size_limit", "too large")
    assert book.orders[order.order_id] == order


def test_amendment_to_what_is_executed_already_ends_the_order(book: Book) -> None:
    order = _working(book, "10")
    book.do(amend(order, 1, "5", "100"))
    book.do(fill(order, 2_000, "5"))
    book.do(report(ReportKind.REPLACED, order, 2_001, revision=1))
    assert book.orders[order.order_id].state is OrderState.FILLED
    assert (book.position().open_buy, book.position().buy_value) == (0, 0)


def test_fill_of_the_old_total_during_an_amendment_ends_the_order(book: Book) -> None:
    order = _working(book, "10")
    book.do(amend(order, 1, "20", "100"))
    book.do(fill(order, 2_000, "10"))
    assert book.orders[order.order_id].state is OrderState.FILLED
    assert book.position().open_buy == 0
    late = book.do(report(ReportKind.REPLACED, order, 2_001, revision=1))
    assert late.outcome.effect is Effect.IGNORED


def test_cancel_rejected_during_an_amendment_waits_for_the_amendment(book: Book) -> None:
    order = _working(book)
    book.do(amend(order, 1, "20", "100"))
    book.do(request_cancel(order))
    book.do(report(ReportKind.CANCEL_REJECTED, order, 2_000, revision=1))
    assert book.orders[order.order_id].state is OrderState.PENDING_REPLACE


def test_canceled_amendment_releases_everything(book: Book) -> None:
    order = _working(book)
    book.do(amend(order, 1, "20", "130"))
    book.do(report(ReportKind.CANCELED, order, 2_000))
    position = book.position()
    assert (position.open_buy, position.buy_value, position.adverse_loss, position.worst_fee) == (0, 0, 0, 0)
    assert book.orders[order.order_id].replacement is None
