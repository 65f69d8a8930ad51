"""Requests that never reach a servicer: each is answered with the status and the field that is at fault."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from gateway_http.endpoints import MAX_BATCH_BYTES, MAX_BODY_BYTES, MAX_DISCARDED_BYTES
from tests.contract.gateway_http.conftest import Served

pytestmark = pytest.mark.asyncio(loop_scope="module")


def violation(answer: httpx.Response) -> str:
    """The field that a 400 names; checks the whole shape on the way."""
    assert answer.status_code == 400, answer.text
    return violation_of(answer.json())


def violation_of(status: dict[str, Any]) -> str:
    assert list(status) == ["code", "message", "details"]
    assert status["code"] == 3
    info, bad = status["details"]
    assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert info["domain"] == "trade2026"
    assert bad["@type"] == "type.googleapis.com/google.rpc.BadRequest"
    (one,) = bad["field_violations"]
    assert one["description"]
    return str(one["field"])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("", None),
        ("{}", None),
        (" \n{}\t", None),
        ("{", ""),
        ("null", ""),
        ("[]", ""),
        ("[{}]", ""),
        ('"x"', ""),
        ("1", ""),
        ("{}{}", ""),
        ("account=a", ""),
        ("NaN", ""),
        ('{"quantity":NaN}', "quantity"),
        ('{"quantity":Infinity}', "quantity"),
        ('{"price":-Infinity}', "price"),
        ('{"account":NaN}', "account"),
        ('{"side":NaN}', "side"),
        ('{"explain":Infinity}', "explain"),
        ('{"expire_time":NaN}', "expire_time"),
        ('{"x":NaN}', "x"),
        ('{"quantity":01}', ""),
        ('{"quantity":.5}', ""),
        ('{"acount":"a"}', "acount"),
        ('{"quantity":"0.1"}', "quantity"),
        ('{"quantity":true}', "quantity"),
        ('{"quantity":null}', "quantity"),
        ('{"quantity":{}}', "quantity"),
        ('{"price":[]}', "price"),
        ('{"account":1}', "account"),
        ('{"side":"BUY"}', "side"),
        ('{"side":1}', "side"),
        ('{"type":"unspecified"}', "type"),
        ('{"explain":"true"}', "explain"),
        ('{"explain":0}', "explain"),
        ('{"account":"a","account":"b"}', "account"),
        ('{"account":"\\ud800"}', "account"),
        ('{"x":' + "[" * 20_000 + "]" * 20_000 + "}", ""),
        ('{"a":' * 5_000 + "1" + "}" * 5_000, ""),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_bad_body_is_refused(in_process: Served, body: str, field: str | None) -> None:
    answer = await in_process.client.post("/check", content=body)
    if field is None:
        assert answer.status_code == 200
        return
    assert violation(answer) == field
    assert not in_process.risk.requests


@pytest.mark.parametrize("body", [b"\xff\xfe", b'{"account":"\xff"}', '{"account":"a"}'.encode("utf-16")])
async def test_a_body_that_is_not_utf8_is_refused(in_process: Served, body: bytes) -> None:
    assert violation(await in_process.client.post("/check", content=body)) == ""


async def test_a_bad_item_of_a_batch_is_named_by_its_index(in_process: Served) -> None:
    answer = await in_process.client.post("/check:batch", content='{"requests":[{},{"quantity":"1"}]}')
    assert violation(answer) == "requests[1].quantity"


async def test_malformed_json_has_a_reason_of_its_own(in_process: Served) -> None:
    answer = await in_process.client.post("/check", content="{")
    assert answer.json()["details"][0]["reason"] == "MALFORMED_JSON"


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/orders?accont=a", "accont"),
        ("/orders?account=a&account=b", "account"),
        ("/orders?state=open", "state"),
        ("/orders?page_size=many", "page_size"),
        ("/orders?account", ""),
        ("/orders?account=%ff", ""),
        ("/positions/a?symbol=x", "symbol"),
        ("/orders/%ff", "order_id"),
        ("/orders/%zz", "order_id"),
        ("/executions?after_sequence=x", "after_sequence"),
    ],
)
async def test_a_bad_query_or_path_is_refused(in_process: Served, path: str, field: str) -> None:
    status, _, body = await raw(
        in_process.port, f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    assert status == 400
    assert violation_of(json.loads(body)) == field


async def test_a_last_event_id_that_is_no_number_is_refused(in_process: Served) -> None:
    answer = await in_process.client.get("/executions?account=a", headers={"Last-Event-ID": "x"})
    assert violation(answer) == "after_sequence"


@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/check/", "/check:other", "/orders/a/b", "/positions/", "//check"]
)
async def test_an_unknown_path_is_not_found(in_process: Served, path: str) -> None:
    answer = await in_process.client.post(path, content="{}")
    assert answer.status_code == 404
    assert answer.json()["code"] == 5
    assert answer.json()["details"][0]["reason"] == "UNKNOWN_PATH"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/check", "POST"),
        ("PUT", "/orders", "GET, POST"),
        ("POST", "/orders/a-1", "DELETE, GET, PATCH"),
        ("OPTIONS", "/orders", "GET, POST"),
        ("HEAD", "/orders", "GET, POST"),
        ("POST", "/health", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(
    in_process: Served, method: str, path: str, allowed: str
) -> None:
    answer = await in_process.client.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == allowed
    if method != "HEAD":
        assert answer.json()["code"] == 12
        assert answer.json()["details"][0]["reason"] == "METHOD_NOT_ALLOWED"


@pytest.mark.parametrize(
    ("path", "limit"),
    [("/check", MAX_BODY_BYTES), ("/orders", MAX_BODY_BYTES), ("/orders:batch", MAX_BATCH_BYTES)],
)
async def test_a_body_over_the_limit_is_refused_and_one_at_the_limit_is_not(
    in_process: Served, path: str, limit: int
) -> None:
    at_limit = "{" + " " * (limit - 2) + "}"
    assert (await in_process.client.post(path, content=at_limit)).status_code == 200
    answer = await in_process.client.post(path, content=at_limit + " ")
    assert answer.status_code == 413
    assert answer.json()["code"] == 3
    assert answer.json()["details"][0]["reason"] == "BODY_TOO_LARGE"
    assert answer.headers["connection"] == "close"


async def test_a_declared_body_over_the_limit_is_refused_before_it_comes(in_process: Served) -> None:
    head = f"POST /check HTTP/1.1\r\nhost: x\r\ncontent-length: {10 * MAX_BODY_BYTES}\r\n\r\n"
    status, headers, _ = await raw(in_process.port, head)
    assert status == 413
    assert headers["connection"] == "close"


async def test_an_endless_chunked_body_is_refused_and_no_longer_read(in_process: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", in_process.port)
    writer.write(b"POST /check HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    sent, chunk = 0, b"1000\r\n" + b" " * 0x1000 + b"\r\n"

    async def send_for_ever() -> None:
        nonlocal sent
        while True:
            writer.write(chunk)
            sent += len(chunk)
            await writer.drain()

    sending = asyncio.create_task(send_for_ever())
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 413")
        # The server hangs up: what is sent from now on fails.
        with pytest.raises(ConnectionError):
            await sending
    # What is discarded, and what the buffers of both sides hold.
    assert sent < MAX_DISCARDED_BYTES + (32 << 20)
    writer.close()


async def test_a_chunked_body_is_read_like_another(in_process: Served) -> None:
    async def chunks() -> Any:
        for piece in (b'{"account"', b':"a"', b"", b"}"):
            yield piece

    answer = await in_process.client.post("/check", content=chunks())
    assert answer.status_code == 200
    assert in_process.risk.requests[0].account == "a"


async def test_a_client_that_leaves_before_its_body_is_whole_calls_nothing(in_process: Served) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", in_process.port)
    writer.write(b'POST /check HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"account":')
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await in_process.client.post("/check", content="{}")).status_code == 200
    assert len(in_process.risk.requests) == 1


async def raw(port: int, request: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to a request as it is written."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request.encode("latin-1"))
    async with asyncio.timeout(10):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await reader.readexactly(int(headers["content-length"]))
    writer.close()
    return int(head[0].split()[1]), headers, body
