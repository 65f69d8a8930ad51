"""Positions by three records, brought to one report; orders by two; what counts as a difference."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from services.ledger.account import Account, Position
from services.ledger.order import OrderState
from services.oms.reconciliation.comparison import (
    QUIET_NS,
    Compared,
    Cut,
    OrderPair,
    Standing,
    StoredTrade,
    VenuePosition,
    compare_positions,
    confirmed_orders,
    confirmed_positions,
    differing_orders,
)
from tests.unit.ledger.making import SYMBOL, make_order

KEY = ("acc", SYMBOL)
NOW = 10**18


def an_account(quantity: Decimal, applied_seq: int, **gaps: Decimal) -> dict[str, Account]:
    position = Position(SYMBOL, quantity, **gaps)
    held = Account("acc", "i", Decimal(0), Decimal(0), applied_seq=applied_seq, positions={SYMBOL: position})
    return {"acc": held}


TRADES = st.lists(st.integers(-5, 5).filter(bool), max_size=30)


@given(TRADES, st.data())
def test_records_of_the_same_trades_are_equal_wherever_each_of_them_stands(
    quantities: list[int], data: st.DataObject
) -> None:
    """The venue was asked at one report, the fills are added up to an earlier one, the ledger is ahead."""
    trades = [StoredTrade(*KEY, Decimal(q), number) for number, q in enumerate(quantities, 1)]
    end = len(trades)
    first = data.draw(st.integers(0, end))
    told = data.draw(st.integers(first, end))
    applied = data.draw(st.integers(told, end))

    def through(sequence: int) -> Decimal:
        return sum((one.quantity for one in trades if one.sequence <= sequence), Decimal(0))

    compared = compare_positions(
        an_account(through(applied), applied),
        {KEY: VenuePosition(through(told), told, told)},
        first,
        {KEY: through(first)},
        [one for one in trades if one.sequence > first],
    )
    one = compared[KEY]
    assert (one.ledger, one.fill_store, one.venue) == (through(told),) * 3
    assert not one.differs


def test_a_fill_of_somebody_else_counts_although_the_venue_stands_before_it() -> None:
    own = StoredTrade(*KEY, Decimal(2), 10)
    foreign = StoredTrade(*KEY, Decimal(1), 11, foreign=True)
    not_applied = StoredTrade(*KEY, Decimal(4), 12, foreign=True)
    venue = {KEY: VenuePosition(Decimal(5), 1, 9)}
    compared = compare_positions(
        an_account(Decimal(8), 11), venue, 9, {KEY: Decimal(5)}, [own, foreign, not_applied]
    )[KEY]
    assert (compared.ledger, compared.fill_store, compared.venue) == (6, 6, 5)


def test_a_fill_that_the_ledger_has_and_the_others_have_not_differs_by_it() -> None:
    compared = compare_positions(an_account(Decimal(3), 9), {}, 9, {}, ())[KEY]
    assert (compared.store_difference, compared.venue_difference) == (3, 3)
    assert compared.differs


def test_a_position_that_the_ledger_does_not_have_is_compared_too() -> None:
    empty = {"acc": Account("acc", "i", Decimal(0), Decimal(0))}
    compared = compare_positions(empty, {}, 9, {KEY: Decimal(2)}, ())
    assert compared[KEY].store_difference == -2


def test_a_gap_that_was_acknowledged_is_no_difference_and_another_one_is() -> None:
    accounts = an_account(Decimal(3), 9, store_gap=Decimal(1), venue_gap=Decimal(2))
    venue = {KEY: VenuePosition(Decimal(1), 1, 9)}
    assert not compare_positions(accounts, venue, 9, {KEY: Decimal(2)}, ())[KEY].differs
    assert compare_positions(accounts, venue, 9, {KEY: Decimal(3)}, ())[KEY].differs


def test_what_is_compared_names_the_last_correction_that_is_part_of_it() -> None:
    held = replace(an_account(Decimal(3), 9)["acc"], adjustments=("a1", "a2"))
    assert compare_positions({"acc": held}, {}, 9, {}, ())[KEY].last_adjustment == "a2"
    assert compare_positions(an_account(Decimal(3), 9), {}, 9, {}, ())[KEY].last_adjustment == ""


def test_only_what_both_cuts_show_is_confirmed() -> None:
    equal = Compared(1, Decimal(1), Decimal(1), Decimal(1))
    other = replace(equal, venue=Decimal(2))
    more = replace(equal, venue=Decimal(3))
    assert confirmed_positions(Cut({KEY: other}), Cut({KEY: equal})) == {}
    assert confirmed_positions(Cut({KEY: equal}), Cut({KEY: other})) == {}
    assert confirmed_positions(Cut({KEY: other}), Cut({KEY: more})) == {KEY: more}
    assert not other.same_difference(more)
    assert other.same_difference(replace(other, ledger=Decimal(5), venue=Decimal(6), fill_store=Decimal(5)))


def test_an_open_order_that_does_not_work_at_the_venue_differs_once_it_is_quiet() -> None:
    order = replace(make_order("acc"), state=OrderState.NEW, updated_ns=NOW - QUIET_NS)
    held = {order.order_id: order}
    assert differing_orders(["acc"], held, {}, NOW - 1) == {}
    pair = OrderPair("acc", Standing(OrderState.NEW, Decimal(0)), None, order.updated_ns)
    assert differing_orders(["acc"], held, {}, NOW) == {order.order_id: pair}


def test_an_exit_that_waits_for_its_entry_is_not_missing_at_the_venue() -> None:
    order = replace(make_order("acc"), state=OrderState.WAITING)
    assert differing_orders(["acc"], {order.order_id: order}, {}, NOW) == {}


def test_orders_that_work_on_both_sides_differ_by_what_is_executed() -> None:
    order = replace(make_order("acc"), state=OrderState.NEW)
    same = {order.order_id: ("acc", Standing(OrderState.NEW, Decimal(0)))}
    more = {order.order_id: ("acc", Standing(OrderState.PARTIALLY_FILLED, Decimal(1)))}
    assert differing_orders(["acc"], {order.order_id: order}, same, NOW) == {}
    assert list(differing_orders(["acc"], {order.order_id: order}, more, NOW)) == [order.order_id]


def test_an_order_that_works_at_the_venue_alone_differs_if_its_account_is_looked_at() -> None:
    venue = {
        "x": ("acc", Standing(OrderState.NEW, Decimal(0))),
        "y": ("other", Standing(OrderState.NEW, Decimal(0))),
    }
    found = differing_orders(["acc"], {}, venue, NOW)
    assert found == {"x": OrderPair("acc", None, Standing(OrderState.NEW, Decimal(0)))}
    assert confirmed_orders(Cut(orders=found), Cut(orders={})) == {}
    assert confirmed_orders(Cut(orders=found), Cut(orders=dict(found))) == found
