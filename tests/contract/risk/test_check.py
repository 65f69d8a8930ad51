"""`Check` and `BatchCheck`, the same in the process, over gRPC and over REST."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from nats.js.errors import KeyNotFoundError

from services.runtime.errors import Code
from tests.contract.risk.clients import OverRest, Raw, Refusal, RiskClient
from tests.integration.risk.platform import RiskPlatform


def check(account: str, /, **fields: Any) -> dict[str, Any]:
    """The published example, with other fields; a field that is None is left out."""
    order: dict[str, Any] = {
        "account": account,
        "symbol": "BTCUSDT",
        "side": "buy",
        "quantity": 0.1,
        "price": 45000.0,
    }
    return {name: value for name, value in {**order, **fields}.items() if value is not None}


async def test_order_within_all_limits_is_approved_and_nothing_else_is_said(
    risk: RiskClient, account: str
) -> None:
    assert await risk.call("Check", check(account)) == {"approved": True}


async def test_order_that_is_too_large_is_denied_with_reason_and_numbers(
    risk: RiskClient, account: str
) -> None:
    assert await risk.call("Check", check(account, quantity=10)) == {
        "approved": False,
        "reason": "order_size_limit",
        "message": "order value 450000 USD is above max_order_size_usd 100000",
    }


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"quantity": 2.3}, "order_size_limit"),
        ({"symbol": "SOLUSDT", "price": 0.01, "quantity": 10000.01}, "order_size_limit"),
        ({"price": 54000.01}, "price_collar"),
        ({"price": 35999.99}, "price_collar"),
        ({"side": "sell"}, "short_restriction"),
        ({"quantity": 0.6}, "concentration_limit"),
        ({"price": None}, None),
        ({"price": None, "type": "market"}, None),
        ({"price": None, "stop_price": 46000, "type": "stop"}, None),
        ({"stop_price": 44900, "type": "stop_limit"}, None),
        ({"type": "limit"}, None),
        ({"quantity": Raw("0.10000")}, None),
        ({"quantity": Raw("1e-1")}, None),
    ],
)
async def test_verdict_follows_the_default_limits(
    risk: RiskClient, account: str, fields: dict[str, Any], reason: str | None
) -> None:
    answer = await risk.call("Check", check(account, **fields))
    assert (answer["approved"], answer.get("reason")) == (reason is None, reason)


async def test_explanation_lists_every_control_with_value_and_limit(risk: RiskClient, account: str) -> None:
    answer = await risk.call("Check", check(account, explain=True))

    controls = {control.pop("name"): control for control in answer["explanation"]["controls"]}
    assert answer["approved"]
    assert len(controls) == 12
    assert all(control["passed"] for control in controls.values())
    size = controls["order_size_limit"]
    assert (size["value"], size["limit"]) == (4500, 100_000)
    assert controls["concentration_limit"]["value"] == 4500
    assert controls["concentration_limit"]["limit"] == Decimal("24998.875")  # 25 % of 100,000 - 4.5 of fees
    assert controls["buying_power"]["value"] == 2250
    # 1 % down on every other day
    assert float(controls["var_limit"]["value"]) == pytest.approx(4500 * (1 - 1 / 1.01))


async def test_check_changes_nothing_and_opens_no_account(
    risk: RiskClient, account: str, platform: RiskPlatform
) -> None:
    for _ in range(3):
        await risk.call("Check", check(account))
    assert platform.keys(account) == []
    async with platform.nats_client() as client:
        bucket = await client.jetstream().key_value("accounts")
        with pytest.raises(KeyNotFoundError):
            await bucket.get(account)


async def test_batch_is_answered_in_order_and_a_malformed_order_spoils_only_itself(
    risk: RiskClient, account: str
) -> None:
    orders = [check(account), check(account, quantity=10), check(account, symbol="NOPE"), check("a.b")]
    answer = await risk.call("BatchCheck", {"requests": orders})

    first, second, third, fourth = answer["results"]
    assert first == {"response": {"approved": True}}
    assert second["response"]["reason"] == "order_size_limit"
    assert third["error"]["code"] == Code.INVALID_ARGUMENT
    assert third["error"]["message"].startswith("symbol:")
    assert fourth["error"]["message"].startswith("account:")


async def test_thousand_checks_are_answered_and_one_more_is_refused(risk: RiskClient, account: str) -> None:
    order = check(account)
    answer = await risk.call("BatchCheck", {"requests": [order] * 1000})
    assert [result["response"]["approved"] for result in answer["results"]] == [True] * 1000

    for count in (0, 1001):
        with pytest.raises(Refusal) as caught:
            await risk.call("BatchCheck", {"requests": [order] * count})
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert caught.value.fields == ["requests"]


NINETEEN = Raw("0.1234567890123456789")
BAD: list[tuple[dict[str, Any], str]] = [
    *[({name: None}, name) for name in ("account", "symbol", "side", "quantity")],
    ({"symbol": "DOGEUSDT"}, "symbol"),
    ({"symbol": "btcusdt"}, "symbol"),
    ({"symbol": "X" * 33}, "symbol"),
    ({"symbol": "BTC USDT"}, "symbol"),
    *[({"quantity": value}, "quantity") for value in (0, -1, Raw("-0.0"), -0.1)],
    *[({"quantity": Raw(text)}, "quantity") for text in ("NaN", "Infinity", "-inf", "sNaN", "", "0x10")],
    *[({"quantity": value}, "quantity") for value in (NINETEEN, Raw("1" * 21), Raw("1e400"))],
    *[({"quantity": Raw(text)}, "quantity") for text in ("1_000", "１", "+-1", "1" * 1000, "1e99999")],
    ({"quantity": 0.000001}, "quantity"),
    *[({"price": value}, "price") for value in (0, -45000, NINETEEN, 45000.001, Raw("1e25"))],
    *[({"price": Raw(text)}, "price") for text in ("NaN", "Infinity")],
    ({"type": "limit", "price": None}, "price"),
    ({"type": "stop_limit", "price": None, "stop_price": 45000}, "price"),
    ({"type": "market"}, "price"),
    ({"type": "stop", "stop_price": 45000}, "price"),
    ({"type": "stop", "price": None}, "stop_price"),
    ({"type": "stop_limit"}, "stop_price"),
    ({"type": "limit", "stop_price": 45000}, "stop_price"),
    ({"stop_price": 0, "type": "stop", "price": None}, "stop_price"),
    ({"price": 99999999999999999999, "quantity": 9999}, "price"),
    *[
        ({"account": value}, "account")
        for value in ("a.b", "a*b", "a>b", "a b", "a\nb", "a:b", "a{b}", "", "a" * 300, "é", "a/b", "a\n")
    ],
]


@pytest.mark.parametrize(("fields", "wrong"), BAD, ids=lambda value: str(value)[:40])
async def test_bad_field_is_invalid_argument_and_named_and_nothing_is_written(
    risk: RiskClient, account: str, platform: RiskPlatform, fields: dict[str, Any], wrong: str
) -> None:
    with pytest.raises(Refusal) as caught:
        await risk.call("Check", check(account, **fields))

    assert caught.value.code is Code.INVALID_ARGUMENT
    assert platform.keys(account) == []
    if isinstance(risk, OverRest) and caught.value.fields == [""]:
        # JSON has no such number, so the body is none.
        assert isinstance(fields[wrong], Raw)
    else:
        assert caught.value.fields == [wrong]
        assert caught.value.message.startswith(f"{wrong}: ")


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        (b"", ""),
        (b"{", ""),
        (b"[]", ""),
        (b"1", ""),
        (b'"text"', ""),
        (b"null", ""),
        (b"\xff\xfe", ""),
        (b'{"account":"a"}{"account":"a"}', ""),
        (b'{"account":1,"symbol":"BTCUSDT","side":"buy","quantity":0.1,"price":45000}', "account"),
        (b'{"account":"a","symbol":"BTCUSDT","side":"buy","quantity":true,"price":45000}', "quantity"),
        (b'{"account":"a","symbol":"BTCUSDT","side":"buy","quantity":[0.1],"price":45000}', "quantity"),
        (b'{"account":"a","symbol":"BTCUSDT","side":"buy","quantity":NaN,"price":45000}', "quantity"),
        (b'{"account":"a","symbol":"BTCUSDT","side":"buy","quantity":Infinity,"price":45000}', "quantity"),
        (b'{"account":"a","symbol":"BTCUSDT","side":"hold","quantity":0.1,"price":45000}', "side"),
        (b'{"account":"a","symbol":"BTCUSDT","side":"unspecified","quantity":0.1,"price":45000}', "side"),
        (b'{"account":"a","symbol":"BTCUSDT","side":1,"quantity":0.1,"price":45000}', "side"),
        (b'{"account":"a","symbol":"BTCUSDT","side":"buy","quantity":0.1,"prise":45000}', "prise"),
        (b'{"account":"a","symbol":"BTCUSDT","side":"buy","quantity":0.1,"price":45000,"x":1}', "x"),
        (b'{"account":"a","symbol":"BTCUSDT","side":"buy","quantity":0.1,"price":null}', "price"),
        (
            b'{"account":"a","symbol":"BTCUSDT","side":"buy","quantity":0.1,"price":45000,"type":"lmt"}',
            "type",
        ),
    ],
    ids=lambda value: repr(value)[-40:],
)
async def test_body_that_is_no_request_is_400_and_names_the_field(
    rest: OverRest, platform: RiskPlatform, body: bytes, wrong: str
) -> None:
    with pytest.raises(Refusal) as caught:
        await rest.raw(body)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert wrong in "".join(caught.value.fields)
