"""What becomes of a request before anything is asked of anybody."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from services.instruments import DEFAULT_INSTRUMENTS, instruments_of
from services.ledger.order import OrderType, TimeInForce
from services.oms.order_entry import OrderEntry, end_of_day
from services.runtime.errors import InvalidArgument
from trade2026.oms.v1 import order_pb2
from trade2026.type.v1 import order_pb2 as type_pb2

NOW = 1_700_000_000_123_456_789
ALL_TYPES = ("market", "limit", "stop", "stop_limit")
ENTRY = OrderEntry(instruments_of(DEFAULT_INSTRUMENTS), ALL_TYPES, order_timeout_sec=300, max_open_orders=7)


def request(**fields: Any) -> order_pb2.SubmitOrderRequest:
    numbers = {"quantity": "0.1", "price": "45000"}
    numbers.update({name: fields.pop(name) for name in ("quantity", "price", "stop_price") if name in fields})
    asked = order_pb2.SubmitOrderRequest(
        **{"account": "a", "symbol": "BTCUSDT", "side": type_pb2.SIDE_BUY, **fields}
    )
    for name, text in numbers.items():
        if text is not None:
            getattr(asked, name).value = text
    return asked


@pytest.mark.parametrize(
    ("time_in_force", "expected", "expire_ns"),
    [
        (type_pb2.TIME_IN_FORCE_UNSPECIFIED, TimeInForce.TIMEOUT, NOW + 300 * 10**9),
        (type_pb2.TIME_IN_FORCE_DAY, TimeInForce.DAY, 1_700_006_400 * 10**9),
        (type_pb2.TIME_IN_FORCE_GTC, TimeInForce.GTC, 0),
        (type_pb2.TIME_IN_FORCE_IOC, TimeInForce.IOC, 0),
        (type_pb2.TIME_IN_FORCE_FOK, TimeInForce.FOK, 0),
    ],
)
def test_a_time_in_force_decides_when_the_order_ends(
    time_in_force: Any, expected: TimeInForce, expire_ns: int
) -> None:
    order = ENTRY.read(request(time_in_force=time_in_force), NOW)
    assert (order.time_in_force, order.expire_ns) == (expected, expire_ns)


def test_a_gtd_order_ends_at_the_given_time() -> None:
    asked = request(time_in_force=type_pb2.TIME_IN_FORCE_GTD)
    asked.expire_time.FromNanoseconds(NOW + 1)
    assert ENTRY.read(asked, NOW).expire_ns == NOW + 1


@pytest.mark.parametrize("ahead_ns", [0, -1])
def test_a_gtd_order_whose_time_has_come_is_refused(ahead_ns: int) -> None:
    asked = request(time_in_force=type_pb2.TIME_IN_FORCE_GTD)
    asked.expire_time.FromNanoseconds(NOW + ahead_ns)
    with pytest.raises(InvalidArgument) as refused:
        ENTRY.read(asked, NOW)
    assert refused.value.violations[0][0] == "expire_time"


@pytest.mark.parametrize(
    ("seconds", "nanos"), [(-1, 0), (2**40, 0), (1_800_000_000, -1), (1_800_000_000, 2**30)]
)
def test_an_expiry_outside_the_calendar_is_refused(seconds: int, nanos: int) -> None:
    asked = request(time_in_force=type_pb2.TIME_IN_FORCE_GTD)
    asked.expire_time.seconds, asked.expire_time.nanos = seconds, nanos
    with pytest.raises(InvalidArgument):
        ENTRY.read(asked, NOW)


def test_the_day_ends_at_midnight_utc() -> None:
    last = datetime(2024, 2, 28, 23, 59, 59, 999_999, tzinfo=UTC)
    leap_day = datetime(2024, 2, 29, tzinfo=UTC)
    assert end_of_day(int(last.timestamp()) * 10**9 + 999_999_999) == int(leap_day.timestamp()) * 10**9
    assert end_of_day(int(leap_day.timestamp()) * 10**9) == int(leap_day.timestamp() + 86_400) * 10**9


def test_each_order_has_an_id_of_its_own_that_begins_with_the_account() -> None:
    one, two = ENTRY.read(request(), NOW), ENTRY.read(request(), NOW)
    assert one.order_id != two.order_id
    assert one.order_id.startswith("a-")


def test_the_digest_tells_requests_apart_and_not_their_spelling() -> None:
    base = ENTRY.read(request(client_order_id="c"), NOW).digest
    assert ENTRY.read(request(client_order_id="c", quantity="0.100", price="4.5e4"), NOW + 1).digest == base
    assert ENTRY.read(request(client_order_id="d"), NOW).digest == base
    others: list[dict[str, Any]] = [
        {"quantity": "0.2"},
        {"price": "45001"},
        {"side": type_pb2.SIDE_SELL},
        {"symbol": "ETHUSDT"},
        {"time_in_force": type_pb2.TIME_IN_FORCE_GTC},
        {"price": None},
    ]
    for other in others:
        assert ENTRY.read(request(client_order_id="c", **other), NOW).digest != base


def test_the_type_follows_from_the_price_where_it_is_not_given() -> None:
    assert ENTRY.read(request(), NOW).order_type is OrderType.LIMIT
    assert ENTRY.read(request(price=None), NOW).order_type is OrderType.MARKET


def test_a_type_that_is_not_supported_is_refused() -> None:
    narrow = OrderEntry(instruments_of(DEFAULT_INSTRUMENTS), ("limit",), 300, 7)
    with pytest.raises(InvalidArgument) as refused:
        narrow.read(request(price=None), NOW)
    assert refused.value.violations[0][0] == "type"


def test_a_reservation_carries_the_order_as_it_was_asked_for() -> None:
    asked = request(
        client_order_id="c",
        type=type_pb2.ORDER_TYPE_STOP_LIMIT,
        stop_price="44000",
        time_in_force=type_pb2.TIME_IN_FORCE_DAY,
    )
    order = ENTRY.read(asked, NOW)
    reserve = ENTRY.reservation(order, asked)
    assert (reserve.account, reserve.symbol, reserve.client_order_id) == ("a", "BTCUSDT", "c")
    assert (reserve.quantity.value, reserve.price.value, reserve.stop_price.value) == (
        "0.1",
        "45000",
        "44000",
    )
    assert (reserve.order_id, reserve.digest, reserve.max_open_orders) == (order.order_id, order.digest, 7)
    assert reserve.expire_time.ToNanoseconds() == order.expire_ns
    assert reserve.type == type_pb2.ORDER_TYPE_STOP_LIMIT
    plain = ENTRY.reservation(ENTRY.read(request(price=None), NOW), request(price=None))
    assert not plain.HasField("price")
    assert plain.type == type_pb2.ORDER_TYPE_MARKET


def test_numbers_are_exact() -> None:
    order = ENTRY.read(request(quantity="0.30000", price="45000.10"), NOW)
    assert (order.terms.quantity, order.terms.price) == (Decimal("0.3"), Decimal("45000.1"))
