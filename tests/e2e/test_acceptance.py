"""The documented acceptance runs as tests of function. Latencies are printed; `make gate` judges them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal

import pytest
import redis

from tests.e2e.clients import Latencies, RestConnection
from tests.e2e.platform import RAISED_LIMITS, Platform
from tests.support import eventually, unique_account

TENTH = 0.1


@pytest.fixture(
    scope="module", params=[(1, "grpcio"), (2, "native")], ids=["one-worker-grpcio", "two-workers-native"]
)
def platform(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform with the documented limits."""
    workers, engine = request.param
    engines = {f"TRADE2026_{service}__SERVICE__GRPC_ENGINE": engine for service in ("RISK", "OMS")}
    with Platform(tmp_path_factory.mktemp("platform"), engines, workers) as running:
        yield running


@pytest.fixture(scope="module")
def raised(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform whose limits let every order of the runs pass."""
    with Platform(tmp_path_factory.mktemp("raised"), RAISED_LIMITS) as running:
        yield running


def limit_buy(account: str, price: float) -> dict[str, object]:
    return {"account": account, "symbol": "BTCUSDT", "side": "buy", "quantity": TENTH, "price": price}


def test_run_1_ten_thousand_sequential_checks_are_all_answered(platform: Platform) -> None:
    latencies = Latencies("run 1, POST /check")
    with RestConnection(platform.url("risk")) as risk:
        for _ in range(10_000):
            answer = risk.timed(latencies, "POST", "/check", limit_buy("test_account", 45000.0))
            assert answer == (200, {"approved": True})
    latencies.report()


def submit_run_3(platform: Platform, account: str) -> tuple[int, int]:
    latencies = Latencies("run 3, POST /orders")
    outcomes = {"submitted": 0, "rejected": 0}
    with RestConnection(platform.url("oms")) as oms:
        for i in range(1_000):
            order = {**limit_buy(account, 45000.0 + i), "type": "limit"}
            status, answer = oms.timed(latencies, "POST", "/orders", order)
            assert status == 200, answer
            outcomes[answer["status"]] += 1
    latencies.report()
    print(outcomes)
    return outcomes["submitted"], outcomes["rejected"]


def test_run_3_with_documented_limits_stops_at_the_concentration_limit(platform: Platform) -> None:
    account = unique_account("run3")
    submitted, rejected = submit_run_3(platform, account)
    assert submitted + rejected == 1_000
    # 25 % of an equity of 100,000 holds five lots of about 4,600 at most.
    assert 1 <= submitted <= 5
    with RestConnection(platform.url("risk")) as risk:
        _, denial = risk.call("POST", "/check", limit_buy(account, 45000.0))
    assert (denial["approved"], denial["reason"]) == (False, "concentration_limit")


async def test_run_3_with_raised_limits_fills_every_order(raised: Platform) -> None:
    account = unique_account("run3")
    submitted, _ = submit_run_3(raised, account)
    assert submitted >= 990

    def filled() -> bool:
        with RestConnection(raised.url("oms")) as oms:
            _, positions = oms.call("GET", f"/positions/{account}")
        quantity: Decimal = positions["BTCUSDT"]["quantity"]
        return quantity == Decimal("0.1") * submitted

    await eventually(filled, within_sec=30)


async def test_run_4_a_market_buy_is_filled_and_shows_as_position(platform: Platform) -> None:
    account = unique_account("run4")
    client = await platform.connect_nats()
    try:
        fills = await client.subscribe(f"fills.{account}")
        await client.flush()
        order = {"account": account, "symbol": "BTCUSDT", "side": "buy", "quantity": TENTH, "type": "market"}
        with RestConnection(platform.url("oms")) as oms:
            status, answer = oms.call("POST", "/orders", order)
            assert (status, answer["status"]) == (200, "submitted")
            fill = json.loads((await fills.next_msg(timeout=5)).data, parse_float=Decimal)
            assert (fill["order_id"], fill["quantity"]) == (answer["order_id"], Decimal("0.1"))
            assert {"account", "symbol", "side", "price", "fill_id", "fee", "liquidity", "timestamp"} <= set(
                fill
            )

            def shown() -> bool:
                _, positions = oms.call("GET", f"/positions/{account}")
                return bool(positions) and positions["BTCUSDT"]["quantity"] == Decimal("0.1")

            await eventually(shown)
    finally:
        await client.close()


async def test_run_5_one_order_is_seen_on_its_whole_way(platform: Platform) -> None:
    account = unique_account("run5")
    with RestConnection(platform.url("oms")) as oms:
        status, answer = oms.call("POST", "/orders", limit_buy(account, 45000.0))
        assert (status, answer["status"]) == (200, "submitted")
        order_id = answer["order_id"]

        def shown() -> bool:
            _, positions = oms.call("GET", f"/positions/{account}")
            return bool(positions) and positions["BTCUSDT"]["quantity"] == Decimal("0.1")

        await eventually(shown)

    wanted = {
        "risk": {"check request"},
        "oms": {"risk check", "fill"},
        "live-gateway": {"order received", "fill"},
    }
    for service, messages in wanted.items():

        def logged(service: str = service, messages: set[str] = messages) -> bool:
            lines = [line for line in platform.logs(service) if line.get("order_id") == order_id]
            for line in lines:
                if "latency_ms" in line:
                    print(service, line["message"], line["latency_ms"], "ms")
            return messages <= {line["message"] for line in lines}

        await eventually(logged, within_sec=10, every_sec=0.3)

    def stored() -> bool:
        rows = platform.query("SELECT quantity, price FROM fills WHERE order_id = %s", order_id)
        return [(row["quantity"], row["price"]) for row in rows] == [(Decimal("0.1"), Decimal(45000))]

    await eventually(stored, within_sec=30, every_sec=0.3)


async def test_run_7_every_service_is_healthy_and_data_is_where_it_is_documented(platform: Platform) -> None:
    account = unique_account("run7")
    with RestConnection(platform.url("oms")) as oms:
        assert oms.call("POST", "/orders", limit_buy(account, 45000.0))[1]["status"] == "submitted"
    for service in ("risk", "oms", "live-gateway", "market-data"):
        with RestConnection(platform.url(service)) as rest:
            status, answer = rest.call("GET", "/health")
            assert (status, answer["status"]) == (200, "healthy"), service

    def counted() -> bool:
        rows = platform.query(
            "SELECT COUNT(*) AS fills FROM fills WHERE timestamp > dateadd('m', -10, now())"
        )
        return int(rows[0]["fills"]) > 0

    await eventually(counted, within_sec=30, every_sec=0.3)

    host, port = platform.address("valkey", "redis").split(":")
    with redis.Redis(host=host, port=int(port), db=5, decode_responses=True) as valkey:

        def projected() -> bool:
            position = valkey.hgetall(f"position:{account}:BTCUSDT")
            return bool(position) and Decimal(position["quantity"]) == Decimal("0.1")

        await eventually(projected)
        assert list(valkey.scan_iter("position:*"))
