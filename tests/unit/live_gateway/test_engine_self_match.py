"""Limits of one account that could trade with each other."""

import gc

import pytest

from services.ledger.order import OrderType, Side, TimeInForce
from services.live_gateway.orders import WorkingOrder
from services.live_gateway.rules import SelfMatch
from tests.unit.live_gateway.venue import Venue, market_model, order_id, said

BUY, SELL = Side.BUY, Side.SELL
OLD, NEW = order_id(201), order_id(202)


def _venue(rule: SelfMatch = SelfMatch.CANCEL_NEWEST, **rules: object) -> Venue:
    venue = market_model(self_match=rule, **rules)
    venue.mark("45000")
    return venue


def test_incoming_limit_that_crosses_an_own_resting_one_is_canceled() -> None:
    venue = _venue()
    venue.limit(SELL, "1", "46000", id=OLD)
    assert said(venue.limit(BUY, "1", "46000", id=NEW)) == ["canceled self_match"]
    assert venue.working == [OLD]


def test_resting_limits_are_canceled_when_the_oldest_have_to_go() -> None:
    venue = _venue(SelfMatch.CANCEL_OLDEST)
    for number, price in enumerate(("46000", "46500", "47000")):
        venue.limit(SELL, "1", price, id=order_id(210 + number))
    decisions = venue.limit(BUY, "1", "46500", id=NEW)
    assert said(decisions) == ["canceled self_match", "canceled self_match", "fill 1 @ 45000"]
    assert [one.order_id for one in decisions] == [order_id(210), order_id(211), NEW]
    assert venue.working == [order_id(212)]


def test_nothing_is_canceled_where_it_is_allowed() -> None:
    venue = _venue(SelfMatch.ALLOW)
    venue.limit(SELL, "1", "46000", id=OLD)
    assert said(venue.limit(BUY, "1", "46000", id=NEW)) == ["fill 1 @ 45000"]
    assert venue.working == [OLD]


@pytest.mark.parametrize(
    ("price", "other"),
    [("45999.99", {}), ("46000", {"account": "bob"}), ("46000", {"symbol": "ETHUSDT"})],
)
def test_prices_that_do_not_cross_and_other_accounts_and_symbols_are_no_match(
    price: str, other: dict[str, str]
) -> None:
    venue = _venue()
    venue.mark("45000", "ETHUSDT")
    venue.limit(SELL, "1", "46000", id=OLD)
    assert said(venue.limit(BUY, "1", price, **other)) == ["fill 1 @ 45000"]


def test_orders_of_one_side_are_no_match() -> None:
    venue = _venue()
    venue.limit(SELL, "1", "46000", id=OLD)
    assert said(venue.limit(SELL, "1", "45500", id=NEW)) == ["accepted"]


def test_resting_limit_that_has_ended_is_no_match() -> None:
    venue = _venue()
    venue.limit(SELL, "1", "46000", id=OLD)
    venue.cancel(OLD)
    assert said(venue.limit(BUY, "1", "46000", id=NEW)) == ["fill 1 @ 45000"]


def test_amendment_that_would_cross_is_refused() -> None:
    venue = _venue()
    venue.limit(SELL, "1", "46000", id=OLD)
    venue.limit(BUY, "1", "44000", id=NEW)
    assert said(venue.amend(NEW, "1", "46000")) == ["replace_rejected self_match"]
    assert said(venue.amend(OLD, "1", "45100")) == ["replaced"]
    assert said(venue.amend(NEW, "1", "44500", revision=2)) == ["replaced"]


def test_amended_price_is_the_one_that_counts() -> None:
    venue = _venue()
    venue.limit(SELL, "1", "46000", id=OLD)
    venue.amend(OLD, "1", "47000")
    assert said(venue.limit(BUY, "1", "46500", id=NEW)) == ["fill 1 @ 45000"]


def test_amendment_cancels_what_it_crosses_when_the_oldest_have_to_go() -> None:
    venue = _venue(SelfMatch.CANCEL_OLDEST)
    venue.limit(SELL, "1", "46000", id=OLD)
    venue.limit(BUY, "1", "44000", id=NEW)
    assert said(venue.amend(NEW, "1", "46000")) == ["replaced", "canceled self_match", "fill 1 @ 45000"]
    assert venue.working == []


def test_stop_limit_is_compared_when_its_stop_is_reached() -> None:
    venue = _venue()
    venue.limit(SELL, "1", "47000", id=OLD)
    venue.submit(OrderType.STOP_LIMIT, BUY, "1", "47500", stop="45500", id=NEW)
    assert venue.working == [OLD, NEW]
    assert said(venue.mark("45600")) == ["canceled self_match"]
    assert venue.working == [OLD]


def test_order_that_would_end_at_once_anyway_cancels_nothing() -> None:
    venue = _venue(SelfMatch.CANCEL_OLDEST)
    venue.limit(BUY, "1", "44000", id=OLD)
    venue.mark("43999", "ETHUSDT")
    venue.limit(SELL, "1", "46000", tif=TimeInForce.IOC, id=NEW)
    assert venue.working == [OLD]


def test_default_model_fills_both_sides_of_one_account() -> None:
    venue = Venue()
    venue.mark("45000")
    assert said(venue.limit(BUY, "1", "45010")) == ["fill 1 @ 45010"]
    assert said(venue.limit(SELL, "1", "45000")) == ["fill 1 @ 45000"]


def _orders_in_memory() -> int:
    gc.collect()
    return sum(isinstance(thing, WorkingOrder) for thing in gc.get_objects())


@pytest.mark.parametrize("resting", [False, True])
def test_ended_limits_of_many_accounts_leave_no_order_behind(resting: bool) -> None:
    venue, before = _venue(), _orders_in_memory()
    for account in (f"account{number}" for number in range(100)):
        if resting:
            venue.limit(BUY, "1", "40000", account=account)
        for number in range(10):
            venue.limit(BUY, "1", f"4400{number}", account=account)
            if number == 5:
                venue.amend(venue.working[-1], "2", "43000")
            venue.cancel(venue.working[-1])
    held = _orders_in_memory() - before
    assert held <= (100 * (1 + 8) if resting else 0) + 20
    assert len(venue.working) == (100 if resting else 0)
