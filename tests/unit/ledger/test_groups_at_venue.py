"""Groups on the ledger's rules and the venue's engine together: any order of marks, cancels and reports."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from services.ledger import events as e
from services.ledger.commands import ReportKind
from services.ledger.order import Order, OrderState, OrderType, Side, Terms
from services.live_gateway.orders import Decision, Trade, WorkingOrder
from services.live_gateway.rules import FillModel
from tests.unit.ledger.making import fill, grouped, make_order, report, request_cancel, reserve_group
from tests.unit.ledger.test_groups import Book
from tests.unit.live_gateway.venue import Venue

_price = st.integers(90, 110).map(str)
_quantity = st.integers(1, 5).map(str)
_leg = st.tuples(st.booleans(), _quantity, _price)
_step = st.one_of(
    st.tuples(st.just("mark"), _price),
    st.tuples(st.just("wait"), st.just("")),
    st.tuples(st.just("read"), st.sampled_from(["1", "1", "1", "9"])),
    st.tuples(st.just("read"), st.just("1")),
    st.tuples(st.just("publish"), st.just("")),
    st.tuples(st.just("cancel"), st.integers(0, 2).map(str)),
)


def _leg_order(stop: bool, quantity: str, price: str, side: Side) -> Order:
    order = make_order("acc", quantity, side=side, price=price)
    if not stop:
        return order
    terms = Terms(order.terms.quantity, None, order.terms.price, None)
    return replace(order, order_type=OrderType.STOP, terms=terms)


class World:
    """A ledger and a venue; orders, cancels and reports wait on their way until a step moves them."""

    def __init__(self, delay_ns: int) -> None:
        self.book = Book()
        self.venue = Venue(fill_model=FillModel.MARKET, slices=2, delay_ns=delay_ns)
        self.venue.mark("100")
        self.reports: deque[Decision] = deque()
        self.outgoing: deque[tuple[Order, ...]] = deque()
        self.executed: dict[str, Decimal] = {}

    def send(self, orders: tuple[Order, ...]) -> None:
        working = [
            WorkingOrder(
                o.order_id, o.account, o.symbol, o.side, o.order_type, o.time_in_force, o.terms, o.expire_ns
            )
            for o in orders
        ]
        if len(working) == 2:
            self.venue.engine.submit_pair(working[0], working[1], self.venue.now_ns)
        else:
            self.venue.engine.submit(working[0], self.venue.now_ns)
        self.tell()

    def tell(self) -> None:
        for decision in self.venue.told():
            self.reports.append(decision)
            if isinstance(decision, Trade):
                before = self.executed.get(decision.order_id, Decimal(0))
                self.executed[decision.order_id] = before + decision.quantity

    def publish(self) -> None:
        if self.outgoing:
            orders = self.outgoing.popleft()
            # Sent twice, as a relay that died before it could note the first time.
            self.send(orders)
            self.send(orders)

    def read(self, count: int) -> None:
        for _ in range(min(count, len(self.reports))):
            decision = self.reports.popleft()
            order = self.book.order(decision.order_id)
            self.book.seq += 1
            if isinstance(decision, Trade):
                command = fill(
                    order, self.book.seq, decision.quantity, decision.price, decision.fee, decision.exec_id
                )
            else:
                command = report(ReportKind(decision.kind.value), order, self.book.seq)
            self.book.do(command)
            activated = tuple(event.order for event in self.book.events if isinstance(event, e.Activated))
            if activated:
                self.outgoing.append(activated)

    def cancel(self, order: Order) -> None:
        outcome = self.book.do(request_cancel(order))
        if outcome.state is OrderState.PENDING_CANCEL:
            self.venue.engine.cancel("acc", order.order_id, 1, self.venue.now_ns)
            self.tell()

    def do(self, step: tuple[str, str], orders: list[Order]) -> None:
        kind, argument = step
        if kind == "mark":
            self.venue.engine.mark("BTCUSDT", Decimal(argument), self.venue.now_ns)
            self.tell()
        elif kind == "wait":
            self.venue.now_ns += 1_000_000_000
            self.venue.engine.advance(self.venue.now_ns)
            self.tell()
        elif kind == "read":
            self.read(int(argument))
        elif kind == "publish":
            self.publish()
        elif int(argument) < len(orders):
            self.cancel(self.book.order(orders[int(argument)].order_id))

    def settle(self, orders: list[Order]) -> None:
        """Everything arrives, and what still works is canceled."""
        for _ in range(4):
            while self.outgoing or self.reports:
                self.publish()
                self.read(100)
            for order in orders:
                if self.book.order(order.order_id).is_open:
                    self.cancel(self.book.order(order.order_id))


def _run(orders: tuple[Order, ...], steps: list[tuple[str, str]], delay_ns: int) -> World:
    world = World(delay_ns)
    world.book.do(reserve_group(orders))
    reserved = tuple(world.book.order(order.order_id) for order in orders)
    pair = all(order.state is OrderState.PENDING_NEW for order in reserved)
    world.outgoing.append(reserved if pair else reserved[:1])
    for step in steps:
        world.do(step, list(orders))
        _holds_what_can_execute(world, orders)
    world.settle(list(orders))
    assert world.book.held() == (0, 0)
    assert world.book.account.open_orders == 0
    position = world.book.account.position("BTCUSDT")
    assert position.adverse_loss == position.worst_fee == position.sell_value == position.buy_value == 0
    return world


def _holds_what_can_execute(world: World, orders: tuple[Order, ...]) -> None:
    """The reservation is exactly what the orders that can still execute need, of a pair the larger one."""
    known = [world.book.order(order.order_id) for order in orders]
    exits = [order for order in known if order.side is Side.SELL and order.is_open]
    executed = [order for order in known if order.side is Side.SELL and order.cumulative]
    entries = [order for order in known if order.side is Side.BUY]
    most = max((order.leaves for order in executed or exits if order.is_open), default=Decimal(0))
    if any(order.state is OrderState.WAITING for order in exits):
        most = min(most, entries[0].cumulative)
    assert world.book.held() == (sum(order.leaves for order in entries), most)


@given(_leg, _leg, st.lists(_step, min_size=5, max_size=25), st.sampled_from([0, 500_000_000]))
def test_pair_executes_one_of_its_orders_and_leaves_nothing_reserved(
    first: tuple[bool, str, str], second: tuple[bool, str, str], steps: list[tuple[str, str]], delay_ns: int
) -> None:
    orders = grouped(_leg_order(*first, Side.SELL), _leg_order(*second, Side.SELL))
    world = _run(orders, steps, delay_ns)
    assert len(world.executed) <= 1
    for order in orders:
        assert world.executed.get(order.order_id, 0) <= order.terms.quantity


@given(
    st.tuples(st.booleans(), st.just("5"), _price),
    st.lists(_leg, min_size=1, max_size=2),
    st.lists(_step, min_size=10, max_size=40),
    st.sampled_from([0, 500_000_000]),
)
def test_bracket_exits_no_more_than_it_entered_and_leaves_nothing_reserved(
    entry: tuple[bool, str, str],
    exits: list[tuple[bool, str, str]],
    steps: list[tuple[str, str]],
    delay_ns: int,
) -> None:
    orders = grouped(_leg_order(*entry, Side.BUY), *(_leg_order(*leg, Side.SELL) for leg in exits))
    world = _run(orders, steps, delay_ns)
    entered = world.executed.pop(orders[0].order_id, Decimal(0))
    assert len(world.executed) <= 1
    assert sum(world.executed.values()) <= entered
    assert 0 <= world.book.account.position("BTCUSDT").quantity <= entered
