"""Calls over REST reach the servicer exactly as they were written, and answers come back likewise."""

from __future__ import annotations

import json

import pytest
from google.protobuf import json_format

from services.runtime.http_direct import MAX_BYTES
from tests.contract.gateway_http.conftest import Served
from trade2026.risk.v1 import risk_pb2
from trade2026.type.v1 import order_pb2 as types

EXAMPLE = '{"account":"test_account","symbol":"BTCUSDT","side":"buy","quantity":0.1,"price":45000.0}'

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_the_published_check_is_answered_as_published(served: Served) -> None:
    answer = await served.client.post("/check", content=EXAMPLE)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.content == b'{"approved":true}'
    assert served.risk.requests == [
        risk_pb2.CheckRequest(
            account="test_account",
            symbol="BTCUSDT",
            side=types.SIDE_BUY,
            quantity={"value": "0.1"},
            price={"value": "45000.0"},
        )
    ]


@pytest.mark.parametrize(
    "number", ["0.1", "1e2", "-0", "0.30000000000000004", "1234567890123456789012345.1234567890123456789"]
)
async def test_a_number_reaches_the_servicer_digit_for_digit(served: Served, number: str) -> None:
    answer = await served.client.post("/check", content=f'{{"quantity":{number}}}')
    assert answer.status_code == 200
    assert served.risk.requests[0].quantity.value == number


async def test_positions_are_a_map_with_exact_numbers(served: Served) -> None:
    answer = await served.client.get("/positions/test_account")
    assert answer.content == b'{"BTCUSDT":{"quantity":0.10,"fees":0}}'
    assert (await served.client.get("/positions/nobody")).content == b"{}"


async def test_a_path_variable_is_decoded(served: Served) -> None:
    answer = await served.client.get("/orders/a%2Fb%20%C3%A4")
    assert answer.json()["order"]["order_id"] == "a/b ä"


async def test_a_verb_leads_to_another_rpc(served: Served) -> None:
    answer = await served.client.post("/check:batch", content=f'{{"requests":[{EXAMPLE},{EXAMPLE}]}}')
    assert answer.content == (b'{"results":[{"response":{"approved":true}},{"response":{"approved":true}}]}')
    assert len(served.risk.requests[0].requests) == 2


async def test_methods_of_one_path_lead_to_their_rpcs(served: Served) -> None:
    await served.client.get("/orders/a-1")
    await served.client.delete("/orders/a-1")
    await served.client.patch("/orders/a-1", content='{"quantity":2}')
    names = [type(request).__name__ for request in served.orders.requests]
    assert names == ["GetOrderRequest", "CancelOrderRequest", "ReplaceOrderRequest"]
    assert served.orders.requests[2].order_id == "a-1"
    assert served.orders.requests[2].quantity.value == "2"


async def test_a_query_sets_the_request(served: Served) -> None:
    answer = await served.client.get("/orders", params={"account": "a", "state": "filled", "page_size": 5})
    assert answer.json() == {"orders": [], "next_page_token": ""}
    request = served.orders.requests[0]
    assert (request.account, request.state, request.page_size) == ("a", types.ORDER_STATE_FILLED, 5)
    state = await served.client.get("/tradingState?scope.symbol=BTCUSDT")
    assert state.json() == {"state": "active", "reason": "", "epoch": 3}
    assert served.risk.requests[0].scope.symbol == "BTCUSDT"


async def test_limits_are_updated_by_mask(served: Served) -> None:
    answer = await served.client.patch(
        "/accounts/a/limits",
        content='{"limits":{"max_order_size_usd":100000.50},"update_mask":"max_order_size_usd","reason":"test"}',
    )
    assert answer.json() == {"account": "a", "limits": {}, "version": 0}
    request = served.risk.requests[0]
    assert request.limits["max_order_size_usd"].value == "100000.50"
    assert list(request.update_mask.paths) == ["max_order_size_usd"]


async def test_an_idempotency_key_is_the_client_order_id(served: Served) -> None:
    headers = {"Idempotency-Key": "k-1"}
    assert (await served.client.post("/orders", content="{}", headers=headers)).status_code == 200
    assert served.orders.requests[0].client_order_id == "k-1"
    clash = await served.client.post("/orders", content='{"client_order_id":"k-2"}', headers=headers)
    assert clash.status_code == 400
    assert clash.json()["details"][1]["field_violations"][0]["field"] == "client_order_id"
    assert len(served.orders.requests) == 1


async def test_headers_are_metadata_of_the_call(served: Served) -> None:
    await served.client.post(
        "/check",
        content="{}",
        headers={"Authorization": "Bearer x", "X-Request-Id": "r-1", "Grpc-Timeout": "1S", "Own-Bin": "x"},
    )
    metadata = served.risk.metadata[0]
    assert metadata["authorization"] == "Bearer x"
    assert metadata["x-request-id"] == "r-1"
    assert not {"host", "content-type", "content-length", "grpc-timeout", "own-bin"} & metadata.keys()


async def test_a_body_without_content_type_is_json(served: Served) -> None:
    answer = await served.client.post("/check", content=EXAMPLE, headers={"content-type": "text/plain"})
    assert answer.status_code == 200


async def test_a_page_in_a_browser_must_say_that_it_sends_json(in_process: Served) -> None:
    foreign = {"origin": "https://elsewhere.example", "content-type": "text/plain"}
    answer = await in_process.client.post("/check", content=EXAMPLE, headers=foreign)
    assert answer.status_code == 415
    assert not in_process.risk.requests
    own = {"origin": "http://127.0.0.1", "content-type": "application/json; charset=utf-8"}
    assert (await in_process.client.post("/check", content=EXAMPLE, headers=own)).status_code == 200


async def test_many_calls_on_one_connection_are_answered_in_order(in_process: Served) -> None:
    for number in range(50):
        answer = await in_process.client.get(f"/orders/{number}")
        assert answer.json()["order"]["order_id"] == str(number)


async def test_the_answer_is_what_protobuf_itself_would_read(served: Served) -> None:
    async def explained(_: object, __: object) -> object:
        response = risk_pb2.CheckResponse(approved=False, message='ä\n"')
        response.explanation.controls.add(name="order_size_limit", passed=False).value.value = "0.1"
        return response

    served.risk.behaviour = explained
    answer = await served.client.post("/check", content="{}")
    assert answer.json() == {
        "approved": False,
        "message": 'ä\n"',
        "explanation": {
            "controls": [{"name": "order_size_limit", "passed": False, "value": 0.1, "message": ""}]
        },
    }
    plain = json.loads(answer.content)
    plain["explanation"]["controls"][0]["value"] = {"value": "0.1"}
    assert json_format.ParseDict(plain, risk_pb2.CheckResponse()).approved is False


async def test_what_is_answered_directly_is_unary_and_small(
    served: Served, request: pytest.FixtureRequest
) -> None:
    await served.client.post("/check", content=EXAMPLE)
    await served.client.get("/positions/test_account")
    await served.client.get("/orders/a%FF")  # no UTF-8
    await served.client.get("/health")
    await served.client.get("/nowhere")
    await served.client.post("/check", content=b" " * MAX_BYTES + EXAMPLE.encode())
    directly = [("POST", "/check"), ("GET", "/positions/test_account")]
    assert served.direct == (directly if "[direct]" in request.node.name else [])
