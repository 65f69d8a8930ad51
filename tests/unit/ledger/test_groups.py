"""What the orders of a group hold together, and what the end or the execution of one means for the others."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from services.ledger import events as e
from services.ledger.account import Account
from services.ledger.commands import Command, Effect, Open, Outcome, Register, ReportKind
from services.ledger.draft import Copy, Draft, preread
from services.ledger.numbers import install_context
from services.ledger.order import Order, OrderEvent, OrderState, Side, TimeInForce, next_state
from tests.unit.ledger.making import (
    abandon_group,
    amend,
    fill,
    grouped,
    make_order,
    report,
    request_cancel,
    reserve_group,
)

BUY, SELL = Side.BUY, Side.SELL


class Book:
    """An account and its orders, changed through drafts, one command each."""

    def __init__(self) -> None:
        install_context()
        self.now_ns = 1_000_000_000
        self.seq = 0
        self.copy = Copy()
        self.clients: dict[str, str] = {}
        self.events: list[e.Event] = []
        self.do(Open("acc", "life", Decimal(100_000)))
        self.do(Register("acc"))

    @property
    def account(self) -> Account:
        assert self.copy.account is not None
        return self.copy.account

    def do(self, command: Command) -> Outcome:
        self.now_ns += 1
        orders = dict(self.copy.orders)
        copy = Copy(self.copy.token, self.copy.account, {}, orders, dict(self.clients))
        while missing := preread([command], copy):
            copy.orders.update(dict.fromkeys(missing))
        draft = Draft(copy, self.now_ns)
        draft.apply(command)
        (outcome,) = draft.results
        assert isinstance(outcome, Outcome), outcome
        for client_id, holder in draft.clients.items():
            if holder is None:
                self.clients.pop(client_id, None)
            else:
                self.clients[client_id] = holder
        self.events = draft.events
        self.copy = Copy("t", draft.account, {}, {**orders, **draft.orders})
        return outcome

    def place(self, *orders: Order) -> list[str]:
        """Reserves a group; the ids of its orders."""
        self.do(reserve_group(grouped(*orders)))
        return [order.order_id for order in orders]

    def order(self, order_id: str) -> Order:
        found = self.copy.orders[order_id]
        assert found is not None
        return found

    def told(self, kind: ReportKind, order_id: str) -> Outcome:
        self.seq += 1
        return self.do(report(kind, self.order(order_id), self.seq))

    def filled(self, order_id: str, quantity: str) -> Outcome:
        self.seq += 1
        return self.do(fill(self.order(order_id), self.seq, quantity))

    def held(self) -> tuple[Decimal, Decimal]:
        """Open buy and sell quantity as reserved."""
        position = self.account.position("BTCUSDT")
        return position.open_buy, position.open_sell

    def states(self, order_ids: list[str]) -> list[str]:
        return [self.order(order_id).state.value for order_id in order_ids]


def _order(quantity: str, side: Side = SELL, price: str = "100", **more: str) -> Order:
    return make_order("acc", quantity, side=side, price=price, **more)  # type: ignore[arg-type]


@pytest.fixture
def book() -> Book:
    return Book()


def test_pair_of_one_side_holds_the_larger_leg_at_the_worse_price(book: Book) -> None:
    book.place(_order("2", price="90"), _order("3", price="80"))
    position = book.account.position("BTCUSDT")
    assert book.held() == (0, 3)
    assert position.sell_value == 3 * 90
    assert position.adverse_loss == 3 * Decimal("0.9")
    assert book.account.open_orders == 2


def test_pair_of_two_sides_holds_each_leg(book: Book) -> None:
    first, second = _order("2", BUY), _order("3", SELL)
    group = grouped(replace(first, side=SELL), second)
    book.do(reserve_group((replace(group[0], side=BUY), group[1])))
    assert book.held() == (2, 3)
    book.filled(first.order_id, "1")
    assert book.held() == (1, 0)


@pytest.mark.parametrize("ended", [0, 1])
def test_end_of_one_leg_leaves_what_the_other_needs(book: Book, ended: int) -> None:
    ids = book.place(_order("2", price="90"), _order("3", price="80"))
    book.told(ReportKind.CANCELED, ids[ended])
    left = book.order(ids[1 - ended])
    assert book.held() == (0, left.leaves)
    assert book.account.position("BTCUSDT").sell_value == left.leaves * (left.terms.price or 0)
    book.told(ReportKind.EXPIRED, ids[1 - ended])
    assert book.held() == (0, 0)
    assert book.account.open_orders == 0


@pytest.mark.parametrize("executed", [0, 1])
def test_execution_of_one_leg_makes_it_the_only_one_that_holds(book: Book, executed: int) -> None:
    ids = book.place(_order("2"), _order("3"))
    book.filled(ids[executed], "0.5")
    assert book.held() == (0, book.order(ids[executed]).leaves)
    book.told(ReportKind.CANCELED, ids[1 - executed])
    assert book.held() == (0, book.order(ids[executed]).leaves)
    book.told(ReportKind.CANCELED, ids[executed])
    assert book.held() == (0, 0)


@pytest.mark.parametrize("executed", [0, 1])
def test_full_execution_of_one_leg_releases_everything_before_the_other_is_told_canceled(
    book: Book, executed: int
) -> None:
    ids = book.place(_order("2"), _order("3"))
    book.filled(ids[executed], ["2", "3"][executed])
    assert book.held() == (0, 0)
    assert book.account.open_orders == 1
    book.told(ReportKind.CANCELED, ids[1 - executed])
    assert (book.held(), book.account.open_orders) == ((0, 0), 0)


def test_leg_that_executes_against_the_rules_is_booked_and_takes_nothing_from_the_other(book: Book) -> None:
    ids = book.place(_order("2"), _order("3"))
    book.filled(ids[0], "1")
    book.filled(ids[1], "1")
    assert book.account.position("BTCUSDT").quantity == -2
    assert book.held() == (0, 1 + 2)


def test_group_is_refused_whole(book: Book) -> None:
    orders = grouped(_order("2"), _order("3"))
    outcome = book.do(reserve_group(orders, refused=True))
    assert [order.state for order in outcome.orders] == [OrderState.DENIED] * 2
    assert book.held() == (0, 0)
    repeated = book.do(reserve_group(orders))
    assert (repeated.effect, repeated.state) == (Effect.REPEATED, OrderState.DENIED)


def test_repeated_reservation_of_a_group_tells_all_its_orders_as_they_are_stored(book: Book) -> None:
    orders = grouped(_order("2", client_order_id="a"), _order("3", client_order_id="b"))
    first = book.do(reserve_group(orders))
    again = book.do(reserve_group(orders))
    assert (again.effect, again.orders) == (Effect.REPEATED, first.orders)


def test_group_under_known_client_ids_meets_the_first_one(book: Book) -> None:
    book.place(_order("2", client_order_id="a"), _order("3", client_order_id="b"))
    again = grouped(_order("2", client_order_id=""), _order("3", client_order_id="b"))
    outcome = book.do(reserve_group(again))
    assert outcome.effect is Effect.REPEATED
    assert outcome.order is not None
    assert (outcome.order.client_order_id, outcome.orders) == ("b", ())
    other = grouped(_order("2", client_order_id="a", digest="other"), _order("3", client_order_id="c"))
    assert book.do(reserve_group(other)).effect is Effect.CONFLICT
    assert book.account.open_orders == 2


def test_abandoned_group_is_released_and_its_client_ids_are_free_again(book: Book) -> None:
    orders = grouped(_order("2", client_order_id="a"), _order("3", client_order_id="b"))
    book.do(reserve_group(orders))
    assert book.do(abandon_group(orders)).effect is Effect.DONE
    assert (book.held(), book.account.open_orders, book.clients) == ((0, 0), 0, {})
    assert book.do(abandon_group(orders)).effect is Effect.REPEATED


def test_late_reservation_of_an_abandoned_group_meets_the_tombstones(book: Book) -> None:
    orders = grouped(_order("2", BUY), _order("2"), _order("2"))
    assert book.do(abandon_group(orders)).effect is Effect.DONE
    outcome = book.do(reserve_group(orders))
    assert (outcome.effect, outcome.state) == (Effect.REPEATED, OrderState.DENIED)
    assert book.account.open_orders == 0


def test_abandoned_bracket_gives_up_the_exits_too(book: Book) -> None:
    orders = grouped(_order("2", BUY), _order("2", client_order_id="x"), _order("2"))
    book.do(reserve_group(orders))
    book.do(abandon_group(orders))
    assert book.states([order.order_id for order in orders]) == ["canceled"] * 3
    assert "x" not in book.clients


def test_order_of_a_group_is_not_amended(book: Book) -> None:
    ids = book.place(_order("2"), _order("3"))
    book.told(ReportKind.ACCEPTED, ids[0])
    assert book.do(amend(book.order(ids[0]), 1, "1", "100")).effect is Effect.GROUPED


class TestBracket:
    """An entry to buy 4 with exits to sell 4 and 3."""

    @pytest.fixture
    def ids(self, book: Book) -> list[str]:
        return book.place(_order("4", BUY), _order("4", price="110"), _order("3", price="90"))

    def test_exits_wait_and_hold_nothing(self, book: Book, ids: list[str]) -> None:
        assert book.states(ids) == ["pending_new", "waiting", "waiting"]
        assert (book.held(), book.account.open_orders) == ((4, 0), 1)

    def test_exits_hold_what_the_entry_has_executed(self, book: Book, ids: list[str]) -> None:
        book.filled(ids[0], "1")
        assert book.held() == (3, 1)
        book.filled(ids[0], "2.5")
        assert book.held() == (Decimal("0.5"), Decimal("3.5"))
        assert book.states(ids) == ["partially_filled", "waiting", "waiting"]

    def test_full_fill_activates_the_exits_in_the_same_step(self, book: Book, ids: list[str]) -> None:
        book.filled(ids[0], "4")
        assert book.states(ids) == ["filled", "pending_new", "pending_new"]
        assert [type(event) for event in book.events] == [e.Filled, e.Activated, e.Activated]
        assert (book.held(), book.account.open_orders) == ((0, 4), 2)
        assert [book.order(name).terms.quantity for name in ids[1:]] == [4, 3]

    def test_end_of_a_partly_filled_entry_activates_the_exits_for_what_was_filled(
        self, book: Book, ids: list[str]
    ) -> None:
        book.filled(ids[0], "1.5")
        book.told(ReportKind.CANCELED, ids[0])
        assert book.states(ids) == ["canceled", "pending_new", "pending_new"]
        assert [book.order(name).terms.quantity for name in ids[1:]] == [Decimal("1.5")] * 2
        assert book.held() == (0, Decimal("1.5"))
        book.filled(ids[2], "1.5")
        assert (book.held(), book.account.position("BTCUSDT").quantity) == ((0, 0), 0)

    @pytest.mark.parametrize("kind", [ReportKind.CANCELED, ReportKind.REJECTED, ReportKind.EXPIRED])
    def test_entry_that_ends_unfilled_cancels_the_exits(
        self, book: Book, ids: list[str], kind: ReportKind
    ) -> None:
        book.told(kind, ids[0])
        assert book.states(ids)[1:] == ["canceled", "canceled"]
        assert book.order(ids[1]).reason == "entry_unfilled"
        assert (book.held(), book.account.open_orders) == ((0, 0), 0)
        assert book.order(ids[1]).client_order_id in book.clients

    def test_waiting_exit_is_canceled_at_once_and_stays_remembered(self, book: Book, ids: list[str]) -> None:
        book.filled(ids[0], "1")
        outcome = book.do(request_cancel(book.order(ids[1])))
        assert (outcome.effect, outcome.state) == (Effect.DONE, OrderState.CANCELED)
        assert book.order(ids[1]).client_order_id in book.clients
        assert book.held() == (3, 1)
        book.filled(ids[0], "3")
        assert book.states(ids)[1:] == ["canceled", "pending_new"]
        group = book.order(ids[2]).group
        assert group is not None
        assert group.linked == (ids[1],)
        assert (book.held(), book.account.open_orders) == ((0, 3), 1)

    def test_activated_exit_that_ends_leaves_its_sibling_holding_its_own(
        self, book: Book, ids: list[str]
    ) -> None:
        book.filled(ids[0], "4")
        book.told(ReportKind.REJECTED, ids[1])
        assert book.held() == (0, 3)

    def test_repeated_report_of_the_entry_activates_nothing_again(self, book: Book, ids: list[str]) -> None:
        last = fill(book.order(ids[0]), 1, "4")
        book.do(last)
        assert book.do(last).effect is Effect.REPEATED
        assert book.held() == (0, 4)

    def test_exits_never_make_the_account_shorter_than_it_was(self, book: Book, ids: list[str]) -> None:
        for quantity in ("1", "2", "1"):
            book.filled(ids[0], quantity)
            position = book.account.position("BTCUSDT")
            assert position.quantity - position.open_sell == 0


@pytest.mark.parametrize("kind", [kind for kind in ReportKind if kind is not ReportKind.FILL])
def test_report_on_an_exit_that_waits_leads_where_the_table_says(book: Book, kind: ReportKind) -> None:
    ids = book.place(_order("4", BUY), _order("4"))
    book.told(kind, ids[1])
    after = next_state(OrderState.WAITING, OrderEvent(kind.value), executed=False) or OrderState.WAITING
    assert book.order(ids[1]).state is after
    assert (book.held(), book.account.open_orders) == ((4, 0), 1)


@pytest.mark.parametrize("quantity", ["1", "4"])
def test_fill_of_an_exit_that_waits_is_booked(book: Book, quantity: str) -> None:
    ids = book.place(_order("4", BUY), _order("4"))
    book.filled(ids[1], quantity)
    assert book.account.position("BTCUSDT").quantity == -Decimal(quantity)
    assert book.order(ids[1]).is_open == (quantity != "4")
    assert (book.held()[0], book.account.open_orders) == (4, 1)
    assert book.held()[1] == book.order(ids[1]).reserved_quantity


def test_life_of_an_exit_begins_with_its_activation(book: Book) -> None:
    exit_order = replace(_order("1"), time_in_force=TimeInForce.TIMEOUT, expire_ns=book.now_ns + 301)
    day = replace(_order("1"), time_in_force=TimeInForce.DAY, expire_ns=86_400_000_000_000)
    ids = book.place(_order("1", BUY), exit_order, day)
    created = book.order(ids[1]).created_ns
    book.now_ns = 3 * 86_400_000_000_000
    book.filled(ids[0], "1")
    assert book.order(ids[1]).expire_ns == book.now_ns + (exit_order.expire_ns - created)
    assert book.order(ids[2]).expire_ns == 4 * 86_400_000_000_000
