"""The model against the rules that it shares no code with: groups whose messages and reports cross at random.

The ledger's rules and the venue's engine run in one process, each message between them late; what they make
of it has to pass every check. A model that is not theirs is found here in seconds, not by a long run.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

import pytest

from services.ledger import events as e
from services.ledger.commands import Command, Effect, Outcome, RequestCancel
from services.ledger.groups import as_bracket, as_pair
from services.ledger.order import Order, OrderState, OrderType, Side, Terms, TimeInForce
from services.live_gateway.orders import Decision, Trade, WorkingOrder
from services.oms.wire import execution_event
from services.runtime.ids import new_order_id
from tests.robustness.history import Answer, CancelAttempt, GroupAttempt, GroupIntent, History, Intent, Told
from tests.robustness.intents import Intents
from tests.robustness.observed import LedgerOrder, LedgerPosition, LoggedEvent, Observed, StoredFill
from tests.robustness.validator import validate
from tests.robustness.wire import copied
from tests.unit.ledger.making import reserve_group
from tests.unit.ledger.test_groups import Book
from tests.unit.live_gateway.venue import Venue, market_model, report_of
from trade2026.oms.v1 import order_pb2

ACCOUNT, SYMBOL = "acc", "BTCUSDT"
STEPS = 200


class Crossing:
    """An account, its venue, and what is on its way between them."""

    def __init__(self, seed: int) -> None:
        self.choose = random.Random(seed)
        self.book = Book()
        self.venue: Venue = market_model(slices=2, delay_ns=40_000_000)
        self.mark = Decimal(100)
        self.venue.mark("100")
        marks = dict.fromkeys(("BTCUSDT", "ETHUSDT", "SOLUSDT"), self.mark)
        self.intents = Intents("c", self.choose, [ACCOUNT], marks)
        self.events: list[e.Event] = []
        self.requests: deque[tuple[Order, ...] | Order] = deque()
        """New orders that leave together, or one to be canceled."""
        self.activated: deque[tuple[Order, ...]] = deque()
        self.reports: deque[Decision] = deque()
        self.order_ids: list[str] = []
        self.history = History()
        self.observed = Observed(ACCOUNT)

    def run(self) -> None:
        """Random steps, then everything that is on its way arrives."""
        for _ in range(STEPS):
            (step,) = self.choose.choices(
                (self.submit, self.cancel, self.report, self.arrive, self.relay, self.tick),
                (25, 20, 15, 15, 5, 20),
            )
            step()
        while self.reports or self.requests or self.activated:
            for step in (self.relay, self.arrive, self.report):
                step()

    def do(self, command: Command) -> Outcome:
        outcome = self.book.do(command)
        self.events += self.book.events
        exits = tuple(event.order for event in self.book.events if isinstance(event, e.Activated))
        if exits:
            self.activated.append(exits)
        return outcome

    def submit(self) -> None:
        wanted = self.intents.group()
        wanted = GroupIntent.of(wanted.kind, [replace(order, symbol=SYMBOL) for order in wanted.orders])
        first, *others = map(_order, wanted.orders)
        pair = wanted.kind == "oco"
        orders = as_pair(first, others[0]) if pair else as_bracket(first, others)
        self.do(reserve_group(orders))
        self.requests.append(orders if pair else orders[:1])
        self.order_ids += [order.order_id for order in orders]
        answers = tuple(Answer(Told.SUBMITTED, order.order_id) for order in orders)
        self.history.note_group(GroupAttempt(wanted, "grpc", 1, 2, answers))

    def cancel(self) -> None:
        if self.order_ids:
            order_id = self.choose.choice(self.order_ids[-8:])
            outcome = self.do(RequestCancel(ACCOUNT, order_id, "client_request"))
            if outcome.effect is Effect.DONE and outcome.order is not None and outcome.order.is_open:
                self.requests.append(outcome.order)
            self.history.cancels.append(CancelAttempt(order_id, 1, 2, "asked"))

    def relay(self) -> None:
        """Sends activated exits; now and then once too often."""
        if self.activated:
            self.requests.append(self.activated[0])
            if self.choose.random() < 0.8:
                self.activated.popleft()

    def arrive(self) -> None:
        if not self.requests:
            return
        request = self.requests.popleft()
        if isinstance(request, Order):
            self.reports += self.venue.cancel(request.order_id, request.cancels)
            return
        ids = [order.order_id for order in request]
        self.observed.journal.update(ids)
        for order_id in ids:
            others = {other for other in ids if other != order_id} or {""}
            self.observed.together.setdefault(order_id, set()).update(others)
        first, *second = map(_working, request)
        if second:
            self.reports += self.venue.pair(first, second[0])
        else:
            self.venue.engine.submit(first, self.venue.now_ns)
            self.reports += self.venue.told()

    def tick(self) -> None:
        self.mark += Decimal(self.choose.randrange(-30, 31)) / 100
        self.reports += [*self.venue.pass_time(0.02), *self.venue.mark(str(self.mark))]

    def report(self) -> None:
        """The ledger takes the oldest report."""
        if not self.reports:
            return
        decision = self.reports.popleft()
        self.book.seq += 1
        self.do(report_of(decision, ACCOUNT, self.book.seq))
        if isinstance(decision, Trade):
            side = decision.side.value
            self.observed.stored_fills.append(
                StoredFill(
                    decision.exec_id, decision.order_id, SYMBOL, side, decision.quantity, decision.price
                )
            )

    def look(self) -> Observed:
        """What the rules have made of it, as stores would tell it."""
        seen, account = self.observed, self.book.account
        seen.reported_fills = list(seen.stored_fills)
        seen.drop_copy = [
            copied(
                order_pb2.StreamExecutionsResponse(sequence=number, event=execution_event(ACCOUNT, event, 1))
            )
            for number, event in enumerate(self.events, 1)
        ]
        seen.logged = [LoggedEvent(event.sequence, event.order_id, event.kind) for event in seen.drop_copy]
        for order in self.book.copy.orders.values():
            assert order is not None
            assert order.group is not None
            seen.orders[order.order_id] = LedgerOrder(
                order.order_id,
                order.client_order_id,
                order.symbol,
                order.side.value,
                order.state.value,
                order.terms.quantity,
                order.cumulative,
                order.leaves,
                order.group.group_id,
            )
        for symbol, held in account.positions.items():
            seen.positions[symbol] = LedgerPosition(held.quantity, held.open_buy, held.open_sell)
            seen.projected[symbol] = held.quantity
        seen.open_orders = account.open_orders
        seen.venue_open = {order.order_id: order.leaves for order in self.venue.engine.working.values()}
        for (_, symbol), position in self.venue.engine.positions.items():
            seen.venue_positions[symbol] = position.quantity
        return seen


def _order(intent: Intent) -> Order:
    return Order(
        order_id=new_order_id(ACCOUNT),
        account=ACCOUNT,
        client_order_id=intent.client_order_id,
        digest="digest",
        symbol=SYMBOL,
        side=Side(intent.side),
        order_type=OrderType(intent.type),
        time_in_force=TimeInForce.GTC,
        terms=Terms(intent.quantity, intent.price, intent.stop_price, None),
        state=OrderState.PENDING_NEW,
        created_ns=0,
        updated_ns=0,
        expire_ns=0,
    )


def _working(order: Order) -> WorkingOrder:
    return WorkingOrder(
        order.order_id,
        ACCOUNT,
        order.symbol,
        order.side,
        order.order_type,
        order.time_in_force,
        order.terms,
        order.expire_ns,
    )


def ends(seen: Sequence[Observed]) -> Counter[str]:
    """How often each reason and `activated` came."""
    return Counter(
        event.reason if event.kind == "ended" else event.kind for one in seen for event in one.drop_copy
    )


@pytest.mark.parametrize("seed", range(5))
def test_whatever_crosses_the_rules_do_what_the_checks_want(seed: int) -> None:
    seen: list[Observed] = []
    for further in range(5):
        crossing = Crossing(5 * seed + further)
        crossing.run()
        seen.append(crossing.look())
        assert validate(crossing.history, seen[-1]) == []
    came = ends(seen)
    assert min(came[name] for name in ("activated", "entry_unfilled", "sibling_executed")) > 5, came
