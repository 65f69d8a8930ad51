"""What is a request, and what is refused before the engine hears of it."""

import json
from decimal import Decimal

import pytest

from services.ledger.order import OrderType, Side
from services.live_gateway.intake import apply, order_ids, read
from services.messages import BadMessage, CancelOrder, NewOrder, ReplaceOrder
from tests.support import nested
from tests.unit.live_gateway.venue import Venue, order_id, said

NEW = {
    "order_id": order_id(1),
    "client_order_id": "c1",
    "account": "alice",
    "symbol": "BTCUSDT",
    "side": "buy",
    "type": "limit",
    "quantity": 0.1,
    "price": 45000,
    "timestamp": 1.5,
}
SIBLING = {**NEW, "order_id": order_id(2), "price": 44000}
CANCEL = {"order_id": order_id(1), "account": "alice", "revision": 1, "timestamp": 1.5}


def _read(subject: str, payload: object) -> NewOrder | CancelOrder | ReplaceOrder:
    return read(subject, json.dumps(payload).encode())


def test_each_kind_is_read_by_its_subject() -> None:
    new = _read("orders.alice.new", NEW)
    assert isinstance(new, NewOrder)
    assert (new.side, new.type, new.quantity) == (Side.BUY, OrderType.LIMIT, Decimal("0.1"))
    assert isinstance(_read("orders.alice.cancel", CANCEL), CancelOrder)
    assert isinstance(_read("orders.alice.replace", {**CANCEL, "quantity": 1}), ReplaceOrder)


@pytest.mark.parametrize(
    ("subject", "payload", "said"),
    [
        ("orders.alice.modify", NEW, "subject"),
        ("orders.alice", NEW, "subject"),
        ("orders.bob.new", NEW, "account"),
        ("orders.alice.new", [], "Expected"),
        ("orders.alice.new", {**NEW, "quantity": "0.1e"}, "quantity"),
        ("orders.alice.new", {**NEW, "quantity": 1e30}, "quantity"),
        ("orders.alice.new", {**NEW, "side": "hold"}, "side"),
        ("orders.alice.new", {key: one for key, one in NEW.items() if key != "symbol"}, "symbol"),
        ("orders.alice.new", {**NEW, "order_id": order_id(1, "bob")}, "another account"),
        ("orders.alice.new", {**NEW, "order_id": "alice-1"}, "is not {account}-{ULID}"),
        ("orders.alice.new", {**NEW, "sibling": NEW}, "sibling is not a second order"),
        (
            "orders.alice.new",
            {**NEW, "sibling": {**SIBLING, "symbol": "ETHUSDT"}},
            "another account or symbol",
        ),
        ("orders.alice.new", {**NEW, "sibling": {**SIBLING, "account": "bob"}}, "another account or symbol"),
        (
            "orders.alice.new",
            {**NEW, "sibling": {**SIBLING, "order_id": order_id(2, "bob")}},
            "another account",
        ),
        (
            "orders.alice.new",
            {**NEW, "sibling": {**SIBLING, "sibling": NEW}},
            "sibling is not a second order",
        ),
        ("orders.alice.new", {**NEW, "sibling": {**SIBLING, "quantity": 1e30}}, "quantity"),
        ("orders.alice.new", {**NEW, "symbol": "X" * 33}, "symbol"),
        ("orders.alice.new", {**NEW, "symbol": "BTC\u0001"}, "symbol"),
        ("orders.alice.cancel", {**CANCEL, "revision": 0}, "revision"),
        ("orders.alice.cancel", {**CANCEL, "revision": 1.5}, "revision"),
    ],
)
def test_message_that_is_no_request_is_refused_with_the_reason(
    subject: str, payload: object, said: str
) -> None:
    with pytest.raises(BadMessage, match=said.replace("{", r"\{")):
        _read(subject, payload)


@pytest.mark.parametrize("data", [b"", b"garbage", b"\xff\xfe", b'{"order_id":"alice-', b"null"])
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(BadMessage):
        read("orders.alice.new", data)


@pytest.mark.parametrize("subject", ["orders.alice.new", "orders.alice.cancel", "orders.alice.replace"])
def test_unknown_member_that_is_nested_too_deep_is_refused(subject: str) -> None:
    with pytest.raises(BadMessage, match="recursion"):
        read(subject, nested(json.dumps({**NEW, **CANCEL}).encode()))


def test_siblings_of_siblings_without_end_are_refused() -> None:
    head = json.dumps(NEW).encode()[:-1] + b',"sibling":'
    with pytest.raises(BadMessage):
        read("orders.alice.new", head * 3_000 + b"null" + b"}" * 3_000)


def test_request_reaches_the_engine_with_all_its_terms() -> None:
    venue = Venue()
    venue.mark("45000")
    payload = {**NEW, "type": "stop", "stop_price": 46000, "protection_price": 47000, "expire_at": 2e9}
    assert apply(venue.engine, _read("orders.alice.new", payload), venue.now_ns) is None
    assert said(venue.told()) == ["accepted"]
    order = venue.engine.working[order_id(1)]
    assert (order.terms.stop_price, order.terms.protection_price) == (Decimal(46000), Decimal(47000))
    assert order.expire_ns == 2 * 10**18
    amendment = {**CANCEL, "quantity": 2, "stop_price": 46500, "protection_price": 47500}
    apply(venue.engine, _read("orders.alice.replace", amendment), venue.now_ns)
    assert said(venue.told()) == ["replaced"]
    assert order.terms.protection_price == Decimal(47500)
    apply(venue.engine, _read("orders.alice.cancel", CANCEL), venue.now_ns)
    assert said(venue.told()) == ["canceled"]


def test_order_with_a_sibling_reaches_the_engine_as_a_pair() -> None:
    venue = Venue()
    request = _read("orders.alice.new", {**NEW, "sibling": SIBLING})
    assert order_ids(request) == (order_id(1), order_id(2))
    assert apply(venue.engine, request, venue.now_ns) is None
    assert said(venue.told()) == ["accepted", "accepted"]
    assert [order.sibling for order in venue.engine.working.values()] == [order_id(2), order_id(1)]


@pytest.mark.parametrize(("expire_at", "outcome"), [(0, "expired"), (-5, "expired"), (1e20, "accepted")])
def test_any_expiry_in_range_is_taken_literally(expire_at: float, outcome: str) -> None:
    venue = Venue()
    payload = {**NEW, "expire_at": int(expire_at) if expire_at <= 0 else 99999999999999999999}
    apply(venue.engine, _read("orders.alice.new", payload), venue.now_ns)
    assert said(venue.told()) == [outcome]
