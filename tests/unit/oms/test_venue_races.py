"""An order between its ledger and the venue's own engine: whatever crosses on the way, both end alike."""

from __future__ import annotations

import pytest

from services.ledger.account import Position
from services.ledger.commands import (
    AbandonAmend,
    Amend,
    Effect,
    Outcome,
    ReportKind,
    RequestCancel,
    Reserve,
)
from services.ledger.order import Order, OrderState, OrderType, Side
from services.live_gateway.orders import Decision
from services.runtime.clock import SystemClock
from tests.unit.ledger.making import amend, hold_price, make_order, report
from tests.unit.live_gateway.venue import Venue, market_model, report_of
from tests.unit.oms.memory import MemoryLedger


class Crossing:
    """A buy of 10 at 100 that rests at a venue whose mark is at 110. Reports wait for `deliver`."""

    def __init__(self, **rules: object) -> None:
        self.ledger = MemoryLedger(SystemClock())
        self.venue: Venue = market_model(**rules)
        self.venue.mark("110")
        order = make_order("acc", "10", price="100")
        self.order_id = order.order_id
        self.ledger.apply(Reserve(order, hold_price))
        self.waiting: list[Decision] = []
        self.sequence = 0
        self.heard(
            self.venue.submit(OrderType.LIMIT, Side.BUY, "10", "100", account="acc", id=order.order_id)
        )
        self.deliver()

    @property
    def order(self) -> Order:
        return self.ledger.orders[self.order_id]

    @property
    def position(self) -> Position:
        return self.ledger.accounts["acc"].position("BTCUSDT")

    def heard(self, decisions: list[Decision]) -> None:
        """What the venue has decided, and oms does not know yet."""
        self.waiting += decisions

    def ask_amend(self, quantity: str, price: str = "100") -> Amend:
        """Records an amendment in the ledger; `arrive` brings it to the venue."""
        command = amend(self.order, self.order.revision + 1, quantity, price, request_id="r")
        assert self.ledger.apply(command).effect is Effect.DONE
        return command

    def arrive(self, command: Amend) -> None:
        terms = (str(command.quantity), str(command.price))
        self.heard(self.venue.amend(command.order_id, *terms, revision=command.revision))

    def ask_cancel(self) -> int:
        outcome = self.ledger.apply(RequestCancel("acc", self.order_id, "client_request"))
        assert outcome.order is not None
        return outcome.order.cancels

    def arrive_cancel(self, number: int) -> None:
        self.heard(self.venue.cancel(self.order_id, number))

    def deliver(self) -> list[Effect]:
        """Applies what waits, in its order."""
        reports, self.waiting = self.waiting, []
        return [self._apply(one).effect for one in reports]

    def _apply(self, decision: Decision) -> Outcome:
        self.sequence += 1
        return self.ledger.apply(report_of(decision, "acc", self.sequence))

    def settled(self, state: OrderState, held: int) -> None:
        """The ledger has the venue's position, and holds no more than `held` units reserved."""
        assert self.order.state is state
        assert (self.position.open_buy, self.position.open_sell) == (held, 0)
        at_venue = self.venue.engine.positions.get(("acc", "BTCUSDT"))
        assert self.position.quantity == (at_venue.quantity if at_venue else 0)
        if not held:
            rest = [self.position.buy_value, self.position.adverse_loss, self.position.worst_fee]
            assert not any(rest)
            assert self.ledger.accounts["acc"].open_orders == 0


@pytest.fixture
def crossing() -> Crossing:
    return Crossing()


def test_fill_of_the_old_total_while_a_replace_is_in_flight_ends_the_order(crossing: Crossing) -> None:
    command = crossing.ask_amend("20")
    crossing.heard(crossing.venue.mark("99"))
    crossing.arrive(command)
    assert crossing.deliver() == [Effect.DONE, Effect.IGNORED]
    crossing.settled(OrderState.FILLED, 0)


def test_fill_while_a_replace_is_in_flight_counts_towards_the_new_total() -> None:
    crossing = Crossing(slices=2, delay_ns=1_000_000_000)
    command = crossing.ask_amend("20")
    crossing.heard(crossing.venue.mark("99"))
    crossing.heard(crossing.venue.pass_time(1))
    crossing.arrive(command)
    crossing.deliver()
    assert (crossing.order.cumulative, crossing.order.leaves) == (5, 15)
    crossing.settled(OrderState.PARTIALLY_FILLED, 15)


def test_replace_below_what_has_filled_meanwhile_is_rejected_and_the_old_terms_stand() -> None:
    crossing = Crossing(slices=2, delay_ns=1_000_000_000)
    command = crossing.ask_amend("5")
    crossing.heard(crossing.venue.mark("99"))
    crossing.heard(crossing.venue.pass_time(1))
    crossing.arrive(command)
    crossing.deliver()
    assert (crossing.order.terms.quantity, crossing.order.leaves) == (10, 5)
    crossing.settled(OrderState.PARTIALLY_FILLED, 5)


def test_replaced_order_that_fills_at_once_ends_under_its_new_terms(crossing: Crossing) -> None:
    crossing.arrive(crossing.ask_amend("12", "115"))
    crossing.deliver()
    assert crossing.order.cumulative == 12
    crossing.settled(OrderState.FILLED, 0)


def test_cancel_that_overtakes_a_replace_ends_the_order(crossing: Crossing) -> None:
    command = crossing.ask_amend("20")
    crossing.arrive_cancel(crossing.ask_cancel())
    crossing.arrive(command)
    crossing.deliver()
    crossing.settled(OrderState.CANCELED, 0)


def test_cancel_behind_a_replace_ends_the_order(crossing: Crossing) -> None:
    command = crossing.ask_amend("20")
    number = crossing.ask_cancel()
    crossing.arrive(command)
    crossing.deliver()
    assert crossing.order.state is OrderState.PENDING_CANCEL
    crossing.arrive_cancel(number)
    crossing.deliver()
    crossing.settled(OrderState.CANCELED, 0)


def test_fill_that_crosses_a_cancel_wins_and_nothing_stays_pending_or_reserved(crossing: Crossing) -> None:
    number = crossing.ask_cancel()
    crossing.heard(crossing.venue.mark("99"))
    crossing.arrive_cancel(number)
    assert crossing.deliver() == [Effect.DONE, Effect.IGNORED]
    crossing.settled(OrderState.FILLED, 0)


def test_fill_reported_after_the_cancel_is_booked_and_holds_nothing(crossing: Crossing) -> None:
    number = crossing.ask_cancel()
    crossing.heard(crossing.venue.mark("99"))
    crossing.arrive_cancel(number)
    fill, _ = crossing.waiting
    # A venue with bad manners: it confirms the cancel, and tells of the trade afterwards.
    crossing.sequence += 1
    crossing.ledger.apply(report(ReportKind.CANCELED, crossing.order, crossing.sequence))
    crossing.waiting = [fill]
    crossing.deliver()
    assert crossing.order.cumulative == 10
    crossing.settled(OrderState.CANCELED, 0)


def test_replace_sent_twice_is_made_once(crossing: Crossing) -> None:
    command = crossing.ask_amend("20")
    crossing.arrive(command)
    crossing.arrive(command)
    assert crossing.deliver() == [Effect.DONE]
    crossing.settled(OrderState.NEW, 20)


def test_replace_that_was_taken_back_leaves_its_number_unused_at_the_venue(crossing: Crossing) -> None:
    command = crossing.ask_amend("20")
    crossing.ledger.apply(AbandonAmend("acc", crossing.order_id, command.revision, "r", "risk_timeout"))
    crossing.settled(OrderState.NEW, 10)
    crossing.arrive(crossing.ask_amend("30"))
    crossing.deliver()
    assert crossing.order.revision == 2
    crossing.settled(OrderState.NEW, 30)
