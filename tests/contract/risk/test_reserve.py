"""`Reserve` and `BatchReserve`: what is approved is held, once, whatever is repeated."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from services.runtime.errors import Code
from services.runtime.ids import new_order_id
from tests.contract.risk.clients import OverGrpc, OverRest, Raw, Refusal, RiskClient
from tests.contract.risk.test_check import check
from tests.integration.risk.platform import RiskPlatform
from tests.support import eventually


def reserve(account: str, /, **fields: Any) -> dict[str, Any]:
    """A reservation of the published example."""
    order_id = fields.pop("order_id", new_order_id(account))
    return check(account, **{"order_id": order_id, "quantity": 0.01, **fields})


async def open_orders(risk: RiskClient, account: str) -> int:
    answer: dict[str, int] = await risk.call("GetAccountRisk", {"account": account})
    return answer["open_orders"]


async def test_first_reservation_opens_the_account_and_is_held(reserving: RiskClient, account: str) -> None:
    request = reserve(account)
    answer = await reserving.call("Reserve", request)

    assert answer == {
        "approved": True,
        "order_id": request["order_id"],
        "state": "pending_new",
        "repeated": False,
        "group": [],
    }
    state = await reserving.call("GetAccountRisk", {"account": account})
    assert state["open_orders"] == 1
    assert state["cash"] == 100_000
    assert state["symbols"] == [
        {
            "symbol": "BTCUSDT",
            "quantity": 0,
            "mark": 45000,
            "open_buy": Decimal("0.01"),
            "open_sell": 0,
            "worst_exposure": 450,
        }
    ]


async def test_repeated_order_id_returns_the_same_outcome_and_holds_once(
    reserving: RiskClient, account: str
) -> None:
    request = reserve(account)
    first = await reserving.call("Reserve", request)
    second = await reserving.call("Reserve", request)

    assert second == {**first, "repeated": True}
    assert await open_orders(reserving, account) == 1


async def test_repeated_client_order_id_returns_the_order_that_holds_it(
    reserving: RiskClient, account: str
) -> None:
    first = await reserving.call("Reserve", reserve(account, client_order_id="mine"))
    again = await reserving.call("Reserve", reserve(account, client_order_id="mine"))

    assert (again["order_id"], again["repeated"]) == (first["order_id"], True)
    assert await open_orders(reserving, account) == 1


async def test_client_order_id_with_another_payload_is_already_exists(
    reserving: RiskClient, account: str
) -> None:
    first = await reserving.call("Reserve", reserve(account, client_order_id="mine"))
    with pytest.raises(Refusal) as caught:
        await reserving.call("Reserve", reserve(account, client_order_id="mine", quantity=0.02))

    assert caught.value.code is Code.ALREADY_EXISTS
    assert caught.value.metadata == {"order_id": first["order_id"]}
    assert await open_orders(reserving, account) == 1


async def test_denial_holds_nothing_and_is_the_outcome_of_a_repetition_too(
    reserving: RiskClient, account: str
) -> None:
    request = reserve(account, quantity=10)
    first = await reserving.call("Reserve", request)
    second = await reserving.call("Reserve", request)

    assert (first["approved"], first["reason"], first["state"]) == (False, "order_size_limit", "denied")
    assert first["message"] == "order value 450000 USD is above max_order_size_usd 100000"
    assert second == {**first, "repeated": True}
    assert await open_orders(reserving, account) == 0


async def test_reservations_add_up_until_a_limit_is_reached(reserving: RiskClient, account: str) -> None:
    verdicts = [
        (await reserving.call("Reserve", reserve(account, quantity=0.3)))["approved"] for _ in range(3)
    ]
    # 25 % of 100,000 is 24,998.875 after fees: one order of 13,500, not two
    assert verdicts == [True, False, False]


async def test_dry_check_sees_a_reservation_as_soon_as_it_is_answered(
    reserving: RiskClient, account: str
) -> None:
    assert (await reserving.call("Check", check(account, quantity=0.3)))["approved"]
    await reserving.call("Reserve", reserve(account, quantity=0.3))
    answer = await reserving.call("Check", check(account, quantity=0.3))
    assert answer.get("reason") == "concentration_limit"


async def test_number_of_open_orders_travels_with_the_reservation(
    reserving: RiskClient, account: str
) -> None:
    requests = [reserve(account, max_open_orders=2) for _ in range(3)]
    answers = [await reserving.call("Reserve", request) for request in requests]
    assert [answer.get("reason") for answer in answers] == [None, None, "max_open_orders"]


@pytest.mark.parametrize(
    ("fields", "protection"),
    [
        ({"price": None}, Decimal(45450)),
        ({"price": None, "type": "stop", "stop_price": 46000}, Decimal(46460)),
        ({}, None),
    ],
)
async def test_market_and_stop_orders_get_a_protection_price(
    reserving: RiskClient, account: str, fields: dict[str, Any], protection: Decimal | None
) -> None:
    answer = await reserving.call("Reserve", reserve(account, **fields))
    assert answer["approved"]
    assert answer.get("protection_price") == protection


async def test_batch_is_answered_in_order_each_on_its_own(reserving: RiskClient, account: str) -> None:
    good, large, wrong = reserve(account), reserve(account, quantity=10), reserve(account, quantity=-1)
    foreign = reserve(account, order_id=new_order_id("another"))
    answer = await reserving.call("BatchReserve", {"requests": [good, large, wrong, foreign, good]})

    results = answer["results"]
    assert results[0]["response"]["approved"]
    assert results[1]["response"]["reason"] == "order_size_limit"
    assert results[2]["error"]["message"].startswith("quantity:")
    assert results[3]["error"]["message"].startswith("order_id:")
    assert (results[4]["response"]["order_id"], results[4]["response"]["repeated"]) == (
        good["order_id"],
        True,
    )


async def test_batch_on_one_account_never_exceeds_its_limits(reserving: RiskClient, account: str) -> None:
    requests = [reserve(account, quantity=0.1) for _ in range(64)]
    answer = await reserving.call("BatchReserve", {"requests": requests})

    approved = [result["response"]["approved"] for result in answer["results"]]
    assert approved == [True] * 5 + [False] * 59  # 5 × 4,500 ≤ 25,000
    assert await open_orders(reserving, account) == 5


async def test_time_for_the_answer_that_is_negative_is_refused(reserving: RiskClient, account: str) -> None:
    with pytest.raises(Refusal) as caught:
        await reserving.call("BatchReserve", {"requests": [reserve(account)], "answer_margin": "-0.001s"})
    assert (caught.value.code, caught.value.fields) == (Code.INVALID_ARGUMENT, ["answer_margin"])
    assert await open_orders(reserving, account) == 0


async def test_more_than_64_reservations_or_none_are_refused(reserving: RiskClient, account: str) -> None:
    for count in (0, 65):
        with pytest.raises(Refusal) as caught:
            await reserving.call("BatchReserve", {"requests": [reserve(account)] * count})
        assert (caught.value.code, caught.value.fields) == (Code.INVALID_ARGUMENT, ["requests"])


@pytest.mark.parametrize(("timeout", "rest"), [(0.000_01, {}), (30, {"answer_margin": "29.99999s"})])
async def test_deadline_that_cannot_be_met_is_answered_with_no_approval(
    in_process: RiskClient, account: str, timeout: float, rest: dict[str, Any]
) -> None:
    """In the process, because a deadline this short ends in a client before it is sent."""
    answer = await in_process.call("BatchReserve", {"requests": [reserve(account)], **rest}, timeout=timeout)
    (result,) = answer["results"]
    if "error" in result:
        assert result["error"]["details"][0]["reason"] == "RESERVATION_UNKNOWN"
    else:
        assert result["response"]["reason"] == "ledger_unavailable"
        assert await open_orders(in_process, account) == 0


async def test_amendment_before_the_venue_answered_is_refused(reserving: RiskClient, account: str) -> None:
    request = reserve(account)
    await reserving.call("Reserve", request)
    amendment = {**request, "quantity": 0.02, "replaces": {"order_id": request["order_id"], "revision": 1}}
    with pytest.raises(Refusal) as caught:
        await reserving.call("Reserve", amendment)
    assert (caught.value.code, caught.value.reason) == (Code.FAILED_PRECONDITION, "ORDER_NOT_OPEN")


async def test_amendment_of_an_unknown_order_is_not_found(reserving: RiskClient, account: str) -> None:
    other = new_order_id(account)
    with pytest.raises(Refusal) as caught:
        await reserving.call("Reserve", reserve(account, replaces={"order_id": other, "revision": 1}))
    assert caught.value.code is Code.NOT_FOUND


BAD: list[tuple[dict[str, Any], str]] = [
    ({"order_id": ""}, "order_id"),
    ({"order_id": "no-ulid"}, "order_id"),
    ({"order_id": "another-01ARZ3NDEKTSV4RRFFQ69G5FAV"}, "order_id"),
    ({"client_order_id": "a b"}, "client_order_id"),
    ({"client_order_id": "a" * 65}, "client_order_id"),
    ({"client_order_id": "{p1}"}, "client_order_id"),
    ({"digest": "a b"}, "digest"),
    ({"time_in_force": "gtd"}, "expire_time"),
    ({"expire_time": "1969-01-01T00:00:00Z"}, "expire_time"),
    ({"replaces": {"order_id": "x", "revision": 1}}, "replaces.order_id"),
    ({"replaces": {"order_id": "x"}}, "replaces.revision"),
    ({"account": "a.b"}, "account"),
    ({"quantity": Raw("NaN")}, "quantity"),
    ({"side": None}, "side"),
]


@pytest.mark.parametrize(("fields", "wrong"), BAD, ids=lambda value: str(value)[:40])
async def test_bad_field_is_invalid_argument_and_named_and_nothing_is_reserved(
    reserving: RiskClient, account: str, platform: RiskPlatform, fields: dict[str, Any], wrong: str
) -> None:
    with pytest.raises(Refusal) as caught:
        await reserving.call("Reserve", reserve(account, **fields))
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.fields == [wrong]
    assert platform.keys(account) == []


async def test_reservations_cannot_be_made_over_rest(rest: OverRest, account: str) -> None:
    for path in ("/reserve", "/check:reserve", "/trade2026.risk.v1.RiskService/Reserve"):
        response = await rest._client.post(path, json={})
        assert response.status_code == 404


async def test_one_info_line_a_reservation_and_none_a_dry_check(
    rest: OverRest, platform: RiskPlatform, account: str
) -> None:
    start = platform.risk.log_path.stat().st_size
    client = OverGrpc(platform.addresses["risk"]["grpc"])
    request = reserve(account)
    await rest.call("Check", check(account))
    await client.call("Reserve", request)
    await client.call("Reserve", reserve(account, quantity=10))
    await client.close()

    def lines() -> list[dict[str, Any]]:
        return [
            line
            for line in platform.log(start)
            if line["message"] == "check request" and line.get("account") == account
        ]

    await eventually(lambda: len(lines()) == 2)
    approved, denied = lines()
    assert (approved["level"], approved["order_id"]) == ("INFO", request["order_id"])
    assert (approved["verdict"], approved["symbol"]) == ("approved", "BTCUSDT")
    assert (denied["verdict"], denied["reason"]) == ("denied", "order_size_limit")
    assert 0 < float(approved["latency_ms"]) < 60_000


async def test_verdicts_and_latency_are_counted(rest: OverRest, platform: RiskPlatform, account: str) -> None:
    approved = 'risk_checks_total{kind="check",reason="",verdict="approved"}'
    denied = 'risk_checks_total{kind="check",reason="order_size_limit",verdict="denied"}'
    observed = 'risk_check_latency_ms_count{kind="check"}'
    before = {name: platform.metric(name) for name in (approved, denied, observed)}
    await rest.call("Check", check(account))
    await rest.call("Check", check(account, quantity=10))

    # Earlier checks may still have been on their way into the metrics when they were first read.
    expected = {observed: before[observed] + 2, approved: before[approved] + 1, denied: before[denied] + 1}
    await eventually(lambda: all(platform.metric(name) >= count for name, count in expected.items()))
