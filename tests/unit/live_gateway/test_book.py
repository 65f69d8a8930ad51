"""The book's indexes: order, void entries, size."""

from decimal import Decimal

from services.ledger.order import OrderType, Side
from services.live_gateway.book import Book, OwnLimits, Timetable
from services.live_gateway.orders import WorkingOrder
from tests.unit.live_gateway.venue import Venue


def _working(arrival: int) -> WorkingOrder:
    order = Venue().order(OrderType.LIMIT, Side.BUY, "1", "1", id=f"order-{arrival}")
    order.arrival, order.working, order.version = arrival, True, 1
    return order


def test_orders_are_reached_from_both_sides_in_order_of_arrival() -> None:
    book = Book()
    first, second, third, fourth = (_working(arrival) for arrival in range(1, 5))
    book.when_at_or_above(Decimal(100), third)
    book.when_at_or_below(Decimal(100), second)
    book.when_at_or_below(Decimal(99), fourth)
    book.at_next_mark(first)
    assert book.take_reached(Decimal(100)) == [first, second, third]
    assert book.take_reached(Decimal(100)) == []
    assert book.take_reached(Decimal(99)) == [fourth]


def test_entry_of_an_order_that_was_filed_anew_is_void() -> None:
    book, order = Book(), _working(1)
    book.when_at_or_below(Decimal(100), order)
    order.version += 1
    book.when_at_or_below(Decimal(90), order)
    assert book.take_reached(Decimal(100)) == []
    assert book.take_reached(Decimal(90)) == [order]


def test_void_entries_do_not_pile_up() -> None:
    book, order = Book(), _working(1)
    for _ in range(10_000):
        order.version += 1
        book.when_at_or_below(Decimal(90), order)
    assert len(book._falling) <= 9


def test_orders_that_ended_do_not_pile_up_in_the_timetable() -> None:
    timetable = Timetable()
    kept = _working(0)
    kept.expire_ns = 10**9
    timetable.expires(kept)
    for arrival in range(1, 10_000):
        order = _working(arrival)
        order.expire_ns = 10**9 + arrival
        timetable.expires(order)
        order.working = False
    assert len(timetable._expiries) <= 9
    assert timetable.take_expired(2 * 10**9) == [kept]


def test_nothing_is_kept_of_own_limits_that_ended() -> None:
    limits = OwnLimits()
    orders = [_working(arrival) for arrival in range(1, 1_001)]
    for order in orders:
        limits.rests(order, Decimal(order.arrival))
    for order in orders[1:]:
        order.working = False
        limits.forget(order)
    (side,) = limits._sides.values()
    assert len(side.by_price) <= 8
    seller = Venue().order(OrderType.LIMIT, Side.SELL, "1", "1")
    limits.forget(seller)
    assert limits.crossed(seller, Decimal(1)) is orders[0]
    orders[0].working = False
    limits.forget(orders[0])
    assert len(limits) == 0


def test_expiry_stays_filed_when_the_order_is_filed_anew() -> None:
    timetable, order = Timetable(), _working(1)
    order.expire_ns = 5
    timetable.expires(order)
    order.version += 1
    assert timetable.next_ns() == 5
    assert timetable.take_expired(4) == []
    assert timetable.take_expired(5) == [order]


def test_forgotten_order_is_not_reached() -> None:
    book, order = Book(), _working(1)
    book.at_next_mark(order)
    book.forget(order)
    assert book.take_reached(Decimal(1)) == []
