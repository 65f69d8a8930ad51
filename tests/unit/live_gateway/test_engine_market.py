"""Fill model `market`: limits wait for the mark; trades may come in slices and with delays."""

from decimal import Decimal

import pytest

from services.ledger.order import OrderState, OrderType, Side, TimeInForce
from services.live_gateway.orders import Liquidity, Report
from tests.unit.live_gateway.venue import Venue, market_model, only_trade, order_id, said, trades

BUY, SELL = Side.BUY, Side.SELL
DELAY_NS = 100_000_000


@pytest.fixture
def venue() -> Venue:
    venue = market_model()
    venue.mark("45000")
    return venue


@pytest.mark.parametrize(("side", "price"), [(BUY, "45000"), (BUY, "46000"), (SELL, "44000")])
def test_limit_that_the_mark_allows_is_filled_at_the_mark_as_taker(
    venue: Venue, side: Side, price: str
) -> None:
    trade = only_trade(venue.limit(side, "1", price))
    assert (trade.price, trade.liquidity) == (Decimal(45000), Liquidity.TAKER)


@pytest.mark.parametrize(
    ("side", "price", "before"), [(BUY, "44000", "44000.01"), (SELL, "46000", "45999.99")]
)
def test_limit_rests_until_the_mark_reaches_it_and_is_filled_at_its_own_price_as_maker(
    venue: Venue, side: Side, price: str, before: str
) -> None:
    assert said(venue.limit(side, "1", price)) == ["accepted"]
    assert venue.mark(before) == []
    trade = only_trade(venue.mark(price))
    assert (trade.price, trade.liquidity) == (Decimal(price), Liquidity.MAKER)


def test_limit_that_the_mark_jumps_over_is_filled_at_its_own_price(venue: Venue) -> None:
    venue.limit(BUY, "1", "44000")
    assert said(venue.mark("40000")) == ["fill 1 @ 44000"]


def test_limit_far_from_the_mark_rests(venue: Venue) -> None:
    assert said(venue.limit(BUY, "1", "1")) == ["accepted"]


def test_orders_that_one_mark_reaches_are_filled_in_order_of_arrival(venue: Venue) -> None:
    venue.limit(BUY, "1", "44000")
    venue.stop(SELL, "2", "43500")
    venue.limit(BUY, "3", "44500")
    assert [trade.quantity for trade in trades(venue.mark("43000"))] == [1, 2, 3]


def test_stop_limit_whose_limit_the_mark_passed_rests_as_a_limit(venue: Venue) -> None:
    venue.submit(OrderType.STOP_LIMIT, BUY, "1", "46100", stop="46000")
    assert venue.mark("46500") == []
    assert venue.mark("46200") == []
    trade = only_trade(venue.mark("46100"))
    assert (trade.price, trade.liquidity) == (Decimal(46100), Liquidity.MAKER)


def test_triggered_stop_limit_stays_triggered_when_the_mark_turns_back(venue: Venue) -> None:
    venue.submit(OrderType.STOP_LIMIT, SELL, "1", "44100", stop="44000")
    assert venue.mark("43900") == []
    assert said(venue.mark("44200")) == ["fill 1 @ 44100"]


@pytest.mark.parametrize(
    ("tif", "reason"),
    [(TimeInForce.IOC, "immediate_or_cancel"), (TimeInForce.FOK, "fill_or_kill")],
)
def test_order_at_once_that_the_mark_does_not_allow_is_canceled(
    venue: Venue, tif: TimeInForce, reason: str
) -> None:
    assert said(venue.limit(BUY, "1", "44999.99", tif=tif)) == [f"canceled {reason}"]


def test_slices_without_delay_come_together_and_the_last_takes_the_rest() -> None:
    venue = market_model(slices=3)
    venue.mark("45000")
    decisions = venue.market(BUY, "1")
    assert said(decisions) == ["fill 0.333 @ 45000", "fill 0.333 @ 45000", "fill 0.334 @ 45000"]
    assert [trade.status for trade in trades(decisions)] == [
        OrderState.PARTIALLY_FILLED,
        OrderState.PARTIALLY_FILLED,
        OrderState.FILLED,
    ]
    assert [trade.leaves for trade in trades(decisions)] == [Decimal("0.667"), Decimal("0.334"), 0]


def test_order_smaller_than_its_slices_is_filled_increment_by_increment() -> None:
    venue = market_model(slices=3)
    venue.mark("45000")
    assert said(venue.market(BUY, "0.002")) == ["fill 0.001 @ 45000", "fill 0.001 @ 45000"]


@pytest.fixture
def slow() -> Venue:
    venue = market_model(slices=2, delay_ns=DELAY_NS)
    venue.mark("45000")
    return venue


def test_with_a_delay_the_order_is_accepted_first_and_its_slices_follow_in_time(slow: Venue) -> None:
    assert said(slow.market(BUY, "1")) == ["accepted"]
    assert slow.pass_time(0.099) == []
    assert said(slow.pass_time(0.001)) == ["fill 0.500 @ 45000"]
    slow.mark("45100")
    assert said(slow.pass_time(0.1)) == ["fill 0.500 @ 45100"]
    assert slow.working == []


def test_limit_whose_mark_went_away_during_the_delay_waits_for_it(slow: Venue) -> None:
    slow.limit(BUY, "1", "45000")
    slow.mark("45001")
    assert slow.pass_time(0.1) == []
    slow.mark("44000")
    assert said(slow.pass_time(0.1)) == ["fill 0.500 @ 45000"]


def test_ioc_with_delay_gets_the_first_slice_and_the_rest_is_canceled(slow: Venue) -> None:
    decisions = slow.market(BUY, "1", tif=TimeInForce.IOC)
    assert said(decisions) == ["fill 0.500 @ 45000", "canceled immediate_or_cancel"]
    canceled = decisions[1]
    assert isinstance(canceled, Report)
    assert (canceled.status, canceled.cumulative, canceled.leaves) == ("canceled", Decimal("0.5"), 0)


def test_fok_with_delay_that_would_be_filled_in_parts_is_canceled_untouched(slow: Venue) -> None:
    assert said(slow.market(BUY, "1", tif=TimeInForce.FOK)) == ["canceled fill_or_kill"]


def test_fok_with_delay_in_one_slice_is_filled_at_once() -> None:
    venue = market_model(delay_ns=DELAY_NS)
    venue.mark("45000")
    assert said(venue.market(BUY, "1", tif=TimeInForce.FOK)) == ["fill 1 @ 45000"]


def test_rest_of_a_market_order_beyond_its_protection_price_is_canceled(slow: Venue) -> None:
    slow.market(BUY, "1", protection="45050")
    assert said(slow.pass_time(0.1)) == ["fill 0.500 @ 45000"]
    slow.mark("45050.01")
    assert said(slow.pass_time(0.1)) == ["canceled protection_price"]


def test_partly_filled_order_expires_with_what_it_executed(slow: Venue) -> None:
    slow.market(BUY, "1", expire_sec=0.15)
    slow.pass_time(0.1)
    (expired,) = slow.pass_time(0.05)
    assert isinstance(expired, Report)
    assert (expired.kind, expired.status, expired.cumulative) == ("expired", "expired", Decimal("0.5"))


def test_amended_order_that_waited_for_time_is_executed_by_its_new_terms_alone(slow: Venue) -> None:
    slow.limit(BUY, "1", "45000", id=order_id(5))
    assert said(slow.amend(order_id(5), "1", "44000")) == ["replaced"]
    assert slow.pass_time(1) == []
    slow.mark("44000")
    assert said(slow.pass_time(0.1)) == ["fill 0.500 @ 44000"]
