"""Two orders of which one cancels the other, as the venue executes them."""

from decimal import Decimal

import pytest

from services.ledger.order import OrderState, OrderType, Side
from services.live_gateway import records
from services.live_gateway.orders import Decision, SeenOrder, WorkingOrder
from tests.unit.live_gateway.venue import Venue, market_model, order_id, said, trades

BUY, SELL = Side.BUY, Side.SELL
PROFIT, LOSS = order_id(101), order_id(102)


def _exits(
    venue: Venue, quantity: str = "1", limit: str = "46000", stop: str = "44000"
) -> tuple[WorkingOrder, WorkingOrder]:
    """A sell at a profit, and a sell that stops a loss."""
    return (
        venue.order(OrderType.LIMIT, SELL, quantity, limit, id=PROFIT),
        venue.order(OrderType.STOP, SELL, quantity, stop=stop, id=LOSS),
    )


def _told(decisions: list[Decision]) -> list[tuple[str, str]]:
    return list(zip([one.order_id for one in decisions], said(decisions), strict=True))


@pytest.fixture
def venue() -> Venue:
    venue = market_model()
    venue.mark("45000")
    return venue


def test_both_orders_of_a_pair_rest_and_are_told_apart(venue: Venue) -> None:
    assert _told(venue.pair(*_exits(venue))) == [(PROFIT, "accepted"), (LOSS, "accepted")]
    assert venue.working == [PROFIT, LOSS]


def test_fill_of_one_order_cancels_the_other_in_the_same_changes(venue: Venue) -> None:
    venue.pair(*_exits(venue))
    assert _told(venue.mark("46000")) == [(PROFIT, "fill 1 @ 46000"), (LOSS, "canceled sibling_executed")]
    assert set(venue.changes.removed) == {PROFIT, LOSS}
    assert set(venue.changes.seen) == {PROFIT, LOSS}
    assert venue.mark("43000") == []


def test_partial_fill_of_one_order_cancels_the_other_whole() -> None:
    venue = market_model(slices=2, delay_ns=1_000_000_000)
    venue.mark("45000")
    venue.pair(*_exits(venue))
    venue.mark("46000")
    assert _told(venue.pass_time(1)) == [(PROFIT, "fill 0.500 @ 46000"), (LOSS, "canceled sibling_executed")]
    assert venue.working == [PROFIT]


def test_mark_that_reaches_both_orders_executes_the_one_that_came_first(venue: Venue) -> None:
    venue.pair(*_exits(venue, limit="46000", stop="46000"))
    # The stop is reached at once: it sells at the mark, and the limit is gone.
    assert venue.working == []
    venue.pair(
        venue.order(OrderType.STOP, BUY, "1", stop="46000", id=order_id(103)),
        venue.order(OrderType.STOP, BUY, "1", stop="45500", id=order_id(104)),
    )
    assert _told(venue.mark("47000")) == [
        (order_id(103), "fill 1 @ 47000"),
        (order_id(104), "canceled sibling_executed"),
    ]


def test_first_order_that_executes_on_arrival_lets_the_second_not_begin(venue: Venue) -> None:
    decisions = venue.pair(*_exits(venue, limit="44500"))
    assert _told(decisions) == [(PROFIT, "fill 1 @ 45000"), (LOSS, "canceled sibling_executed")]
    assert venue.working == []


def test_second_order_that_executes_on_arrival_cancels_the_first(venue: Venue) -> None:
    decisions = venue.pair(*_exits(venue, stop="45500"))
    assert _told(decisions) == [
        (PROFIT, "accepted"),
        (LOSS, "fill 1 @ 45000"),
        (PROFIT, "canceled sibling_executed"),
    ]


@pytest.mark.parametrize("ended", ["canceled", "expired", "rejected"])
def test_end_without_execution_leaves_the_other_order_working(venue: Venue, ended: str) -> None:
    profit, loss = _exits(venue)
    if ended == "rejected":
        profit.symbol = "UNKNOWN"
    if ended == "expired":
        profit.expire_ns = venue.now_ns + 1
    venue.pair(profit, loss)
    if ended == "canceled":
        venue.cancel(PROFIT)
    if ended == "expired":
        venue.pass_time(1)
    assert venue.working == [LOSS]
    assert said(venue.mark("43900")) == ["fill 1 @ 43900"]


def test_pair_whose_first_order_was_canceled_before_it_came_works_with_the_second(venue: Venue) -> None:
    venue.cancel(PROFIT)
    assert _told(venue.pair(*_exits(venue))) == [(LOSS, "accepted")]


def test_repeated_pair_changes_nothing(venue: Venue) -> None:
    venue.pair(*_exits(venue))
    assert venue.pair(*_exits(venue)) == []
    venue.mark("46000")
    assert venue.pair(*_exits(venue)) == []


def test_pair_of_which_reports_tell_an_execution_after_a_lost_journal_works_with_that_order_alone(
    venue: Venue,
) -> None:
    venue.memory.remember(LOSS, SeenOrder(OrderState.PARTIALLY_FILLED, Decimal("0.4")))
    assert _told(venue.pair(*_exits(venue))) == [(PROFIT, "canceled sibling_executed")]
    assert venue.working == [LOSS]


def test_pair_is_still_one_after_a_restart(venue: Venue) -> None:
    venue.pair(*_exits(venue))
    journaled = [records.decode_order(records.encode_order(o)) for o in venue.engine.working.values()]
    restarted = market_model()
    restarted.engine.restore(journaled, {}, {})
    assert len(trades(restarted.mark("46000"))) == 1
    assert restarted.working == []
