"""The venue as callers see it: orders in, reports out, requests, health, logs."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from services.runtime.local_stack import NatsServer
from services.runtime.local_stack.part import http_get
from services.runtime.streams import DEADLETTER
from tests.integration.live_gateway.venue_process import Exchange, VenueProcess
from tests.support import eventually, nested

StartVenue = Callable[..., VenueProcess]


@pytest.fixture
async def venue(start_venue: StartVenue, exchange: Exchange) -> VenueProcess:
    """A ready venue with marks at 45,000."""
    venue = start_venue()
    await venue.until_healthy()
    await _marked(venue, exchange)
    return venue


async def _marked(venue: VenueProcess, exchange: Exchange, price: str = "45000") -> None:
    await exchange.mark(price)
    await eventually(lambda: venue.health() == (200, {"status": "healthy"}))


async def _reports(exchange: Exchange, count: int) -> list[dict[str, Any]]:
    async def arrived() -> list[dict[str, Any]]:
        reports = await exchange.reports()
        assert len(reports) >= count, reports
        return reports

    return await eventually(arrived, within_sec=10)


async def test_order_is_filled_and_told_on_its_accounts_subject_with_every_member(
    venue: VenueProcess, exchange: Exchange
) -> None:
    subscription = await exchange.client.subscribe("fills.alice")
    await exchange.client.flush()
    order_id = await exchange.new("alice", price=Decimal("45010.5"))
    message = await subscription.next_msg(timeout=5)
    fill = json.loads(message.data, parse_float=Decimal)
    assert message.headers == {"Nats-Msg-Id": fill["fill_id"]}
    assert fill.pop("timestamp") > 1.6e9
    assert fill.pop("fill_id").endswith("-1")
    assert fill == {
        "account": "alice",
        "symbol": "BTCUSDT",
        "side": "buy",
        "quantity": Decimal("0.1"),
        "price": Decimal("45010.5"),
        "order_id": order_id,
        "fee": Decimal("0.450105"),
        "liquidity": "taker",
        "status": "filled",
        "cumulative": Decimal("0.1"),
        "leaves": 0,
        "version": 1,
    }
    await _reports(exchange, 1)  # a message reaches its subscribers before its stream has stored it
    (stored,) = await exchange.stored()
    assert stored.data == message.data
    assert stored.subject.endswith(".fills.alice")


async def test_order_can_be_followed_through_the_log_by_its_id(
    venue: VenueProcess, exchange: Exchange
) -> None:
    order_id = await exchange.new("alice")
    await _reports(exchange, 1)
    lines = await eventually(
        lambda: [line for line in venue.lines() if line.get("order_id") == order_id][1:] and venue.lines()
    )
    messages = [line["message"] for line in lines if line.get("order_id") == order_id]
    assert messages == ["order received", "fill"]


async def test_delay_that_a_mark_began_ends_without_another_mark_or_order(
    start_venue: StartVenue, exchange: Exchange
) -> None:
    venue = start_venue(VENUE__FILL_MODEL="market", VENUE__FILL_DELAY_MS="100")
    await venue.until_healthy()
    await _marked(venue, exchange)
    await exchange.new("alice", price=44000)
    await _reports(exchange, 1)
    await exchange.mark("44000", "BTCUSDT")
    assert [report["kind"] for report in await _reports(exchange, 2)] == ["accepted", "fill"]


async def test_resting_order_is_accepted_amended_and_canceled(
    venue: VenueProcess, exchange: Exchange
) -> None:
    order_id = await exchange.new("alice", type="stop", stop_price=46000)
    payload = {"order_id": order_id, "account": "alice", "revision": 1, "quantity": 2, "timestamp": 1}
    await exchange.send("orders.alice.replace", {**payload, "stop_price": 47000}, "r1")
    await exchange.cancel(order_id, 4)
    await exchange.cancel(order_id, 5)
    reports = await _reports(exchange, 4)
    assert [(one["kind"], one.get("revision", 0), one["status"]) for one in reports] == [
        ("accepted", 0, "new"),
        ("replaced", 1, "new"),
        ("canceled", 4, "canceled"),
        ("cancel_rejected", 5, "canceled"),
    ]
    assert all(one["order_id"] == order_id and one["version"] == 1 for one in reports)


async def test_order_expires_at_the_venue(venue: VenueProcess, exchange: Exchange) -> None:
    now = (await exchange.ask("venue.orders"))["timestamp"]
    await exchange.new("alice", type="stop", stop_price=46000, expire_at=now + Decimal("0.3"))
    reports = await _reports(exchange, 2)
    assert [one["kind"] for one in reports] == ["accepted", "expired"]
    assert now + Decimal("0.3") <= reports[1]["timestamp"] < now + 3


async def test_mark_triggers_a_stop(venue: VenueProcess, exchange: Exchange) -> None:
    await exchange.new("alice", type="stop", stop_price=46000, protection_price=46500)
    await _reports(exchange, 1)
    await exchange.mark("46100", "BTCUSDT")
    reports = await _reports(exchange, 2)
    assert (reports[1]["kind"], reports[1]["price"]) == ("fill", 46100)


OTHER_ACCOUNT = (
    b'{"order_id":"bob-01HZZZZZZZZZZZZZZZZZZZZZZZ","client_order_id":"c","account":"bob",'
    b'"symbol":"BTCUSDT","side":"buy","type":"market","quantity":1,"timestamp":1}'
)
NO_ORDER_ID = b'{"order_id":"alice-1","account":"alice","revision":1,"timestamp":1}'
BAD = (
    ("orders.alice.new", b"\xff garbage"),
    ("orders.alice.new", OTHER_ACCOUNT),
    ("orders.alice.cancel", NO_ORDER_ID),
    ("orders.bob.new", nested(OTHER_ACCOUNT)),
    ("orders.bob.new", OTHER_ACCOUNT.replace(b"buy", b"b" * 1_900_000)),
    ("orders.bob.new", OTHER_ACCOUNT.replace(b"BTCUSDT", b"B" * 1_900_000)),
)


async def test_bad_messages_go_to_the_dead_letters_and_stop_nobody(
    venue: VenueProcess, exchange: Exchange
) -> None:
    for subject, data in BAD:
        await exchange.send(subject, data, f"{subject}{len(data)}")
    unknown = await exchange.new("alice", symbol="DOGEUSDT")
    nothing = await exchange.new("alice", quantity=0)
    good = await exchange.new("alice")
    reports = await _reports(exchange, 3)
    assert [(one["order_id"], one["kind"], one.get("reason")) for one in reports] == [
        (unknown, "rejected", "unknown_symbol"),
        (nothing, "rejected", "invalid_quantity"),
        (good, "fill", None),
    ]

    async def dead_letters() -> list[dict[str, Any]]:
        letters = [json.loads(message.data) for message in await exchange.stored(DEADLETTER)]
        assert len(letters) == len(BAD) + 2
        return letters

    letters = await eventually(dead_letters)
    assert [letter["sequence"] for letter in letters] == list(range(1, len(BAD) + 3))
    assert [letter["subject"] for letter in letters[: len(BAD)]] == [subject for subject, _ in BAD]
    assert letters[0]["base64"]
    assert letters[1]["text"] == OTHER_ACCOUNT.decode()
    assert [letter["reason"] for letter in letters[len(BAD) :]] == ["unknown_symbol", "invalid_quantity"]
    _, metrics = http_get(venue.addresses["metrics"], "/metrics")
    assert b'dead_letters_total{subject="deadletter.orders"} 8.0' in metrics


async def test_positions_on_request_are_the_sum_of_fills_at_a_sequence(
    venue: VenueProcess, exchange: Exchange
) -> None:
    for account, side in (("alice", "buy"), ("bob", "sell"), ("alice", "buy")):
        await exchange.new(account, side=side)
    await exchange.new("alice", symbol="ETHUSDT", price=44000)
    await _reports(exchange, 4)

    async def complete() -> Any:
        answer = await exchange.ask("venue.positions")
        assert (answer["orders_seq"], answer["executions_seq"]) == (4, 4)
        return answer

    answer = await eventually(complete)
    assert [
        (one["account"], one["symbol"], one["quantity"], one["fills"]) for one in answer["positions"]
    ] == [
        ("alice", "BTCUSDT", Decimal("0.2"), 2),
        ("alice", "ETHUSDT", Decimal("0.1"), 1),
        ("bob", "BTCUSDT", Decimal("-0.1"), 1),
    ]
    assert answer["positions"][0]["value"] == 9000
    first = await exchange.ask("venue.positions", page_size=2)
    assert len(first["positions"]) == 2
    second = await exchange.ask("venue.positions", page_size=2, page_token=first["next_page_token"])
    assert [one["account"] for one in second["positions"]] == ["bob"]
    assert second["next_page_token"] == ""
    alone = await exchange.ask("venue.positions", account="bob")
    assert [one["account"] for one in alone["positions"]] == ["bob"]


async def test_orders_on_request_are_the_working_ones_or_one_in_any_state(
    venue: VenueProcess, exchange: Exchange
) -> None:
    working = [await exchange.new(account, type="stop", stop_price=46000) for account in ("a", "a", "b")]
    ended = await exchange.new("a")
    await _reports(exchange, 4)
    answer = await exchange.ask("venue.orders")
    assert [one["order_id"] for one in answer["orders"]] == sorted(working)
    assert answer["orders"][0]["stop_price"] == 46000
    answer = await exchange.ask("venue.orders", account="b")
    assert [one["order_id"] for one in answer["orders"]] == [working[2]]
    first = await exchange.ask("venue.orders", page_size=2)
    rest = await exchange.ask("venue.orders", page_size=2, page_token=first["next_page_token"])
    assert [one["order_id"] for one in first["orders"] + rest["orders"]] == sorted(working)
    (one,) = (await exchange.ask("venue.orders", order_id=ended))["orders"]
    assert (one["state"], one["cumulative"], one["account"]) == ("filled", Decimal("0.1"), "a")
    unknown = ended[:-1] + ("0" if ended[-1] != "0" else "1")
    assert (await exchange.ask("venue.orders", order_id=unknown))["orders"] == []


async def test_request_that_cannot_be_read_is_answered_with_the_error(
    venue: VenueProcess, exchange: Exchange
) -> None:
    assert "page_size" in (await exchange.ask("venue.positions", page_size=0))["error"]
    assert "acount" in (await exchange.ask("venue.orders", acount="x"))["error"]


async def test_health_names_missing_marks_as_degraded(start_venue: StartVenue, exchange: Exchange) -> None:
    venue = start_venue(MARKS__MAX_AGE_SEC="0.5")
    await venue.until_healthy()
    assert venue.health() == (200, {"status": "degraded", "degraded": ["marks"]})
    await exchange.mark("45000")
    await eventually(lambda: venue.health() == (200, {"status": "healthy"}))
    await eventually(lambda: venue.health() == (200, {"status": "degraded", "degraded": ["marks"]}))


async def test_health_is_unhealthy_without_nats_and_recovers(
    venue: VenueProcess, exchange: Exchange, empty_nats: NatsServer
) -> None:
    empty_nats.kill()
    await eventually(lambda: venue.health()[0] == 503)
    assert "nats" in venue.health()[1]["missing"]
    empty_nats.start()
    await empty_nats.until_healthy()
    await eventually(lambda: venue.health()[0] == 200, within_sec=10)
    await exchange.mark("45000")
    await exchange.new("alice")
    await _reports(exchange, 1)


async def test_venue_that_waits_for_nats_answers_health_and_stops_when_asked(
    start_venue: StartVenue, empty_nats: NatsServer
) -> None:
    empty_nats.kill()
    venue = start_venue()
    await eventually(lambda: venue.probe().detail.startswith("{"), within_sec=20)
    assert venue.health() == (503, {"status": "unhealthy", "missing": ["nats"]})
    venue.stop(10)
    assert venue.exit_reason() == "ended with status 0"


async def test_second_venue_on_the_same_nats_is_refused(venue: VenueProcess, start_venue: StartVenue) -> None:
    second = start_venue()

    def refused() -> bool:
        return any("another venue answers" in line.get("error", "") for line in second.lines())

    await eventually(refused, within_sec=20)
    assert not second.probe().ready


async def test_stop_tells_everything_first(venue: VenueProcess, exchange: Exchange) -> None:
    for number in range(200):
        await exchange.new(f"account_{number % 3}")
    venue.stop(20)
    assert venue.exit_reason() == "ended with status 0"
    taken = sum(line["message"] == "order received" for line in venue.lines())
    assert await exchange.report_count() == taken
    await exchange.mark("45000")
    venue.start()
    await venue.until_healthy()
    await _reports(exchange, 200)
    assert await exchange.report_count() == 200


async def test_mark_outlives_a_restart(venue: VenueProcess, exchange: Exchange) -> None:
    venue.stop(20)
    await exchange.new("alice", type="market")
    venue.start()
    (report,) = await _reports(exchange, 1)
    assert (report["kind"], report["price"]) == ("fill", 45000)
