"""Fill model `instant`: what can be executed is executed at once."""

from decimal import Decimal

import pytest

from services.ledger.order import OrderState, OrderType, Side, TimeInForce
from services.live_gateway.orders import Liquidity
from tests.unit.live_gateway.venue import SECOND_NS, Venue, only_report, only_trade, order_id, said

BUY, SELL = Side.BUY, Side.SELL


@pytest.fixture
def venue() -> Venue:
    venue = Venue()
    venue.mark("45000")
    return venue


def test_market_order_is_filled_at_the_mark_and_reported_by_its_fill_alone(venue: Venue) -> None:
    trade = only_trade(venue.market(BUY, "0.1"))
    assert (trade.price, trade.quantity, trade.status) == (
        Decimal(45000),
        Decimal("0.1"),
        OrderState.FILLED,
    )
    assert (trade.cumulative, trade.leaves, trade.liquidity) == (Decimal("0.1"), 0, Liquidity.TAKER)
    assert venue.working == []


def test_limit_order_is_filled_at_its_own_price_on_either_side_of_the_mark(venue: Venue) -> None:
    assert said(venue.limit(BUY, "1", "44000")) == ["fill 1 @ 44000"]
    assert said(venue.limit(BUY, "1", "46000")) == ["fill 1 @ 46000"]
    assert said(venue.limit(SELL, "1", "46000")) == ["fill 1 @ 46000"]


@pytest.mark.parametrize("price", ["54000", "36000"])
def test_limit_exactly_20_percent_from_the_mark_is_filled(venue: Venue, price: str) -> None:
    assert said(venue.limit(BUY, "1", price)) == [f"fill 1 @ {price}"]


@pytest.mark.parametrize("price", ["54000.01", "35999.99"])
def test_limit_beyond_20_percent_from_the_mark_is_rejected(venue: Venue, price: str) -> None:
    assert said(venue.limit(BUY, "1", price)) == ["rejected price_out_of_range"]


def test_market_order_without_a_mark_is_rejected() -> None:
    assert said(Venue().market(BUY, "1")) == ["rejected no_mark"]


def test_market_order_with_a_stale_mark_is_rejected(venue: Venue) -> None:
    venue.now_ns += 60 * SECOND_NS
    assert said(venue.market(BUY, "1")) == ["fill 1 @ 45000"]
    venue.now_ns += 1
    assert said(venue.market(BUY, "1")) == ["rejected no_mark"]


def test_limit_without_a_mark_rests_until_one_comes_and_is_then_the_maker() -> None:
    venue = Venue()
    accepted = only_report(venue.limit(BUY, "1", "44000"))
    assert (accepted.kind, accepted.status, accepted.leaves) == ("accepted", "new", 1)
    trade = only_trade(venue.mark("45000"))
    assert (trade.price, trade.liquidity) == (Decimal(44000), Liquidity.MAKER)


def test_resting_limit_that_is_out_of_range_of_the_first_mark_is_canceled() -> None:
    venue = Venue()
    venue.limit(BUY, "1", "10000")
    assert said(venue.mark("45000")) == ["canceled price_out_of_range"]


def test_limits_that_waited_for_the_mark_are_filled_in_order_of_arrival() -> None:
    venue = Venue()
    for price in ("45001", "44999", "45002"):
        venue.limit(BUY, "1", price)
    assert said(venue.mark("45000")) == ["fill 1 @ 45001", "fill 1 @ 44999", "fill 1 @ 45002"]


@pytest.mark.parametrize(
    ("side", "protection", "outcome"),
    [
        (BUY, "45000", "fill 1 @ 45000"),
        (BUY, "44999.99", "canceled protection_price"),
        (SELL, "45000", "fill 1 @ 45000"),
        (SELL, "45000.01", "canceled protection_price"),
    ],
)
def test_market_order_is_never_filled_beyond_its_protection_price(
    venue: Venue, side: Side, protection: str, outcome: str
) -> None:
    assert said(venue.market(side, "1", protection=protection)) == [outcome]


@pytest.mark.parametrize(("side", "at", "before"), [(BUY, "46000", "45999.99"), (SELL, "44000", "44000.01")])
def test_stop_order_rests_until_the_mark_reaches_its_price(
    venue: Venue, side: Side, at: str, before: str
) -> None:
    assert said(venue.stop(side, "1", at)) == ["accepted"]
    assert venue.mark(before) == []
    trade = only_trade(venue.mark(at))
    assert (trade.price, trade.liquidity) == (Decimal(at), Liquidity.TAKER)


def test_stop_order_whose_price_is_reached_already_is_filled_at_once(venue: Venue) -> None:
    assert said(venue.stop(BUY, "1", "45000")) == ["fill 1 @ 45000"]


def test_stop_order_is_filled_at_a_mark_that_jumped_over_its_price(venue: Venue) -> None:
    venue.stop(BUY, "1", "46000", protection="47000")
    assert said(venue.mark("46900")) == ["fill 1 @ 46900"]


def test_stop_order_is_canceled_when_the_mark_jumped_beyond_its_protection_price(venue: Venue) -> None:
    venue.stop(BUY, "1", "46000", protection="47000")
    assert said(venue.mark("47000.01")) == ["canceled protection_price"]
    assert venue.working == []


def test_stop_limit_order_is_filled_at_its_limit_once_the_mark_reaches_its_stop(venue: Venue) -> None:
    assert said(venue.submit(OrderType.STOP_LIMIT, BUY, "1", "46100", stop="46000")) == ["accepted"]
    assert said(venue.mark("46050")) == ["fill 1 @ 46100"]


def test_stop_limit_order_far_from_the_mark_waits_and_is_canceled_when_it_starts_out_of_range(
    venue: Venue,
) -> None:
    assert said(venue.submit(OrderType.STOP_LIMIT, SELL, "1", "20000", stop="44000")) == ["accepted"]
    assert said(venue.mark("44000")) == ["canceled price_out_of_range"]


def test_stop_order_without_a_mark_rests(venue: Venue) -> None:
    assert said(venue.stop(BUY, "1", "1", symbol="ETHUSDT")) == ["accepted"]
    assert said(venue.mark("2", "ETHUSDT")) == ["fill 1 @ 2"]


@pytest.mark.parametrize("tif", [TimeInForce.IOC, TimeInForce.FOK])
def test_order_at_once_that_can_be_executed_is_filled(venue: Venue, tif: TimeInForce) -> None:
    assert said(venue.limit(BUY, "1", "44000", tif=tif)) == ["fill 1 @ 44000"]


@pytest.mark.parametrize(
    ("tif", "reason"),
    [(TimeInForce.IOC, "immediate_or_cancel"), (TimeInForce.FOK, "fill_or_kill")],
)
def test_order_at_once_that_would_have_to_wait_is_canceled(
    venue: Venue, tif: TimeInForce, reason: str
) -> None:
    assert said(venue.limit(BUY, "1", "44000", tif=tif, symbol="ETHUSDT")) == [f"canceled {reason}"]
    assert said(venue.stop(BUY, "1", "46000", tif=tif)) == [f"canceled {reason}"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"symbol": "DOGEUSDT"}, "unknown_symbol"),
        ({"quantity": "0"}, "invalid_quantity"),
        ({"quantity": "-1"}, "invalid_quantity"),
        ({"quantity": "0.0001"}, "invalid_quantity"),
        ({"price": "45000.001"}, "invalid_price"),
        ({"price": "0"}, "invalid_price"),
        ({"price": None}, "invalid_price"),
    ],
)
def test_malformed_order_is_rejected_and_named_malformed(
    venue: Venue, options: dict[str, str | None], reason: str
) -> None:
    wanted: dict[str, str | None] = {"quantity": "1", "price": "45000", **options}
    quantity, price = str(wanted.pop("quantity")), wanted.pop("price")
    order = venue.order(OrderType.LIMIT, BUY, quantity, price, **wanted)  # type: ignore[arg-type]
    assert venue.engine.submit(order, venue.now_ns) == reason
    assert said(venue.told()) == [f"rejected {reason}"]


def test_stop_without_a_stop_price_is_rejected(venue: Venue) -> None:
    assert said(venue.submit(OrderType.STOP, BUY, "1")) == ["rejected invalid_price"]


def test_order_whose_value_has_more_than_20_digits_is_rejected(venue: Venue) -> None:
    assert said(venue.market(BUY, "99999999999999999999")) == ["rejected value_out_of_range"]


def test_repeated_order_id_changes_nothing_and_is_not_answered_again(venue: Venue) -> None:
    venue.limit(BUY, "1", "45000", id=order_id(77))
    assert venue.limit(BUY, "2", "45000", id=order_id(77)) == []
    venue.stop(BUY, "1", "46000", id=order_id(78))
    assert venue.stop(BUY, "2", "46000", id=order_id(78)) == []
    assert venue.engine.working[order_id(78)].terms.quantity == 1


def test_fee_is_one_basis_point_of_the_value_and_position_is_the_sum_of_fills(venue: Venue) -> None:
    assert only_trade(venue.limit(BUY, "0.1", "45000")).fee == Decimal("0.45")
    venue.limit(SELL, "0.04", "46000")
    position = venue.engine.positions["alice", "BTCUSDT"]
    assert (position.quantity, position.value, position.trades) == (Decimal("0.06"), Decimal(2660), 2)
    assert position.fees == Decimal("0.634")


def test_exec_ids_are_numbered_without_gaps(venue: Venue) -> None:
    first = only_trade(venue.market(BUY, "1"))
    second = only_report(venue.limit(BUY, "1", "1"))
    assert [first.exec_id, second.exec_id] == ["venue-1", "venue-2"]


def test_order_that_came_after_its_end_is_expired_and_never_executed(venue: Venue) -> None:
    order = venue.order(OrderType.MARKET, BUY, "1", expire_sec=5)
    venue.now_ns += 5 * SECOND_NS
    venue.engine.submit(order, venue.now_ns)
    assert said(venue.told()) == ["expired"]
