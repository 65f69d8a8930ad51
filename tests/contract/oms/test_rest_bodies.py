"""What only REST can get wrong: bodies that are no request at all."""

from __future__ import annotations

import pytest

from services.runtime.errors import Code
from tests.contract.oms.clients import OverRest, Refusal

ORDER = '"account":"{account}","symbol":"BTCUSDT","side":"buy","quantity":0.1,"price":45000.0'


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("{{" + ORDER + ',"leverage":2}}', "leverage"),
        ("{{" + ORDER.replace('"quantity"', '"quantty"') + "}}", "quantty"),
        ("{{" + ORDER.replace("0.1", '"0.1"') + "}}", "quantity"),
        ("{{" + ORDER.replace("0.1", "true") + "}}", "quantity"),
        ("{{" + ORDER.replace("0.1", "[]") + "}}", "quantity"),
        ("{{" + ORDER.replace("0.1", "null") + "}}", "quantity"),
        ("{{" + ORDER.replace("0.1", "0.1234567890123456789") + "}}", "quantity"),
        ("{{" + ORDER.replace("45000.0", '"NaN"') + "}}", "price"),
        ("{{" + ORDER.replace('"buy"', '"BUY"') + "}}", "side"),
        ("{{" + ORDER.replace('"buy"', '"hold"') + "}}", "side"),
        ("{{" + ORDER.replace('"buy"', '"unspecified"') + "}}", "side"),
        ("{{" + ORDER.replace('"buy"', "1") + "}}", "side"),
        ("{{" + ORDER.replace('"BTCUSDT"', "7") + "}}", "symbol"),
        ("{{" + ORDER + ',"type":"iceberg"}}', "type"),
        ("{{" + ORDER + ',"time_in_force":"forever"}}', "time_in_force"),
        ("{{" + ORDER + ',"expire_time":"tomorrow"}}', "expire_time"),
    ],
)
async def test_a_wrong_member_is_named(rest: OverRest, account: str, body: str, field: str) -> None:
    with pytest.raises(Refusal) as refused:
        await rest.raw("POST", "/orders", body.format(account=account).encode())
    assert refused.value.code is Code.INVALID_ARGUMENT
    assert refused.value.fields == [field]
    assert await rest.call("GetPositions", {"account": account}) == {}
    assert (await rest.call("ListOrders", {"account": account}))["orders"] == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"order"',
        b"null",
        b"42",
        b"\xff\xfe",
        b'{"account":"a","quantity":NaN}',
        b'{"account":"a","price":Infinity}',
        b'{"account":"a","account":"b"}',
    ],
)
async def test_a_body_that_is_no_object_is_refused(rest: OverRest, body: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        await rest.raw("POST", "/orders", body)
    assert refused.value.code is Code.INVALID_ARGUMENT


async def test_the_idempotency_key_header_is_the_client_order_id(rest: OverRest, account: str) -> None:
    body = ("{" + ORDER.replace("{account}", account) + "}").encode()
    headers = {"content-type": "application/json", "idempotency-key": "header-1"}
    first = await rest.raw("POST", "/orders", body, headers)
    assert first["client_order_id"] == "header-1"
    assert await rest.raw("POST", "/orders", body, headers) == first


async def test_health_is_told_over_rest(rest: OverRest) -> None:
    assert await rest.raw("GET", "/health", b"") == {"status": "healthy"}
