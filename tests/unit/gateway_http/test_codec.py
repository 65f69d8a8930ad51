"""The published JSON: what is printed, what is read, and that nothing is lost on the way."""

import contextlib
import json
from typing import Any

import pytest
from google.protobuf import any_pb2, field_mask_pb2, struct_pb2, wrappers_pb2
from google.protobuf.descriptor import Descriptor
from google.rpc import error_details_pb2, status_pb2
from google.type import decimal_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_http.codec import Codec, FieldError, MalformedJson, Unprintable, UnsupportedType, parse
from gateway_http.codec.names import prefix_of, short_names
from tests.unit.gateway_http.messages import CONTRACT_MESSAGES, messages, new, packed
from trade2026.oms.v1 import order_pb2
from trade2026.risk.v1 import risk_pb2
from trade2026.type.v1 import order_pb2 as types

CODEC = Codec()
ORDER = '"account":"a","symbol":"BTCUSDT","side":"buy","quantity":0.1'


def written(message: Any) -> str:
    return CODEC.writer(message.DESCRIPTOR)(message)


def read(kind: Any, text: str) -> Any:
    message = kind()
    CODEC.reader(kind.DESCRIPTOR)(message, parse(text.encode()))
    return message


def decimal(text: str) -> Any:
    return decimal_pb2.Decimal(value=text)


@pytest.mark.parametrize("descriptor", CONTRACT_MESSAGES, ids=lambda one: one.full_name)
@given(data=st.data())
@settings(max_examples=settings().max_examples // 8)  # of each of some fifty types
def test_a_message_survives_its_json(descriptor: Descriptor, data: st.DataObject) -> None:
    message = data.draw(messages(descriptor))
    text = written(message)
    json.loads(text)
    copy = new(descriptor)
    CODEC.reader(descriptor)(copy, parse(text.encode()))
    assert copy == message
    assert written(copy) == text


def test_an_approval_is_what_was_published() -> None:
    assert written(risk_pb2.CheckResponse(approved=True)) == '{"approved":true}'


def test_a_denial_is_what_was_published() -> None:
    denial = risk_pb2.CheckResponse(approved=False, reason=types.DENIAL_REASON_ORDER_SIZE_LIMIT)
    assert written(denial) == '{"approved":false,"reason":"order_size_limit"}'


def test_a_submission_is_what_was_published() -> None:
    submitted = order_pb2.SubmitOrderResponse(status=order_pb2.SUBMIT_STATUS_SUBMITTED, order_id="a-1")
    assert written(submitted) == '{"status":"submitted","order_id":"a-1"}'


def test_plain_members_are_always_printed_and_the_rest_when_set() -> None:
    assert written(risk_pb2.GetAccountRiskResponse()) == (
        '{"account":"","open_orders":0,"utilisation":[],"symbols":[]}'
    )
    assert written(order_pb2.SubmitOrderResult()) == "{}"
    assert written(order_pb2.Order(client_order_id="", quantity=decimal("1"))) == (
        '{"order_id":"","client_order_id":"","account":"","symbol":"","quantity":1,"revision":0}'
    )
    assert written(risk_pb2.GetLimitsResponse()) == '{"account":"","limits":{},"version":0}'


def test_every_kind_of_value_has_its_published_form() -> None:
    request = risk_pb2.UpdateLimitsRequest(
        account='a"\\\nä',
        limits={"b": decimal("1e2"), "a": decimal("0.10")},
        update_mask=field_mask_pb2.FieldMask(paths=["a", "b.c_d"]),
        version=2**64 - 1,
        reason="",
    )
    request.expire_time.FromJsonString("2024-01-10T12:00:00.5Z")
    assert written(request) == (
        '{"account":"a\\"\\\\\\nä","limits":{"a":0.10,"b":1e2},"update_mask":"a,b.c_d",'
        '"version":18446744073709551615,"expire_time":"2024-01-10T12:00:00.500Z","reason":""}'
    )
    stream = order_pb2.StreamExecutionsRequest(account="a", live_only=True)
    stream.heartbeat_interval.FromJsonString("5s")
    assert '"live_only":true,"heartbeat_interval":"5s"' in written(stream)


def test_an_error_names_the_type_of_each_detail() -> None:
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromJsonString("1.5s")
    unknown = any_pb2.Any(type_url="type.googleapis.com/other.Thing", value=b"\x00\x01")
    broken = any_pb2.Any(type_url="type.googleapis.com/google.rpc.RetryInfo", value=b"\xff")
    info = error_details_pb2.ErrorInfo(reason="R", domain="d", metadata={"order_id": "a-1"})
    status = status_pb2.Status(
        code=14,
        message="later",
        details=[packed(info), packed(retry), packed(retry.retry_delay), unknown, broken],
    )
    assert json.loads(written(status)) == {
        "code": 14,
        "message": "later",
        "details": [
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "R",
                "domain": "d",
                "metadata": {"order_id": "a-1"},
            },
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retry_delay": "1.500s"},
            {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1.500s"},
            {"@type": "type.googleapis.com/other.Thing", "value": "AAE="},
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "value": "/w=="},
        ],
    }
    del status.details[-1]
    assert read(status_pb2.Status, written(status)) == status


def test_a_value_without_a_name_is_printed_as_its_number() -> None:
    fill = order_pb2.Fill.FromString(b"\x28\x63")  # side = 99
    assert '"side":99,' in written(fill)


def test_a_decimal_that_is_no_number_is_a_fault_of_the_server() -> None:
    with pytest.raises(Unprintable):
        written(risk_pb2.Limit(value=decimal("many")))


def test_a_time_out_of_range_is_a_fault_of_the_server() -> None:
    message = order_pb2.Heartbeat()
    message.time.seconds = 1 << 60
    with pytest.raises(Unprintable):
        written(message)


@pytest.mark.parametrize(
    "text",
    [
        "0.1",
        "45000.0",
        "1e2",
        "-0",
        "-1.50E-7",
        "0.1234567890123456789",
        "123456789012345678901234567890",
        "0.30000000000000004",
        "1" + "0" * 5_000,
    ],
)
def test_a_decimal_takes_the_numbers_text_as_it_stands(text: str) -> None:
    assert read(risk_pb2.CheckRequest, f'{{"quantity":{text}}}').quantity.value == text


def test_a_whole_request_is_read() -> None:
    request = read(
        order_pb2.SubmitOrderRequest,
        f'{{{ORDER},"price":45000.0,"type":"stop_limit","stop_price":1e2,"client_order_id":"c",'
        '"time_in_force":"gtd","expire_time":"2024-01-10T14:00:00+02:00"}',
    )
    assert request.side == types.SIDE_BUY
    assert request.type == types.ORDER_TYPE_STOP_LIMIT
    assert request.time_in_force == types.TIME_IN_FORCE_GTD
    assert (request.quantity.value, request.price.value, request.stop_price.value) == (
        "0.1",
        "45000.0",
        "1e2",
    )
    assert request.expire_time.ToJsonString() == "2024-01-10T12:00:00Z"


def test_what_is_left_out_is_not_set() -> None:
    request = read(risk_pb2.CheckRequest, "{}")
    assert request == risk_pb2.CheckRequest()
    assert not request.HasField("price")


BAD_VALUES: list[tuple[Any, str, str]] = [
    # unknown and misspelt
    (risk_pb2.CheckRequest, '{"acount":"a"}', "acount"),
    (risk_pb2.CheckRequest, '{"stopPrice":1}', "stopPrice"),
    (risk_pb2.CheckRequest, '{"":1}', ""),
    (risk_pb2.BatchCheckRequest, '{"requests":[{},{"x":1}]}', "requests[1].x"),
    # wrong type
    (risk_pb2.CheckRequest, '{"account":1}', "account"),
    (risk_pb2.CheckRequest, '{"account":null}', "account"),
    (risk_pb2.CheckRequest, '{"account":["a"]}', "account"),
    (risk_pb2.CheckRequest, '{"account":{}}', "account"),
    (risk_pb2.CheckRequest, '{"account":true}', "account"),
    (risk_pb2.CheckRequest, '{"quantity":"0.1"}', "quantity"),
    (risk_pb2.CheckRequest, '{"quantity":true}', "quantity"),
    (risk_pb2.CheckRequest, '{"quantity":null}', "quantity"),
    (risk_pb2.CheckRequest, '{"quantity":{"value":"1"}}', "quantity"),
    (risk_pb2.CheckRequest, '{"quantity":[1]}', "quantity"),
    (risk_pb2.CheckRequest, '{"explain":1}', "explain"),
    (risk_pb2.CheckRequest, '{"explain":"true"}', "explain"),
    (risk_pb2.CheckRequest, '{"explain":null}', "explain"),
    (risk_pb2.CheckRequest, '{"side":1}', "side"),
    (risk_pb2.CheckRequest, '{"side":"BUY"}', "side"),
    (risk_pb2.CheckRequest, '{"side":"SIDE_BUY"}', "side"),
    (risk_pb2.CheckRequest, '{"side":"unspecified"}', "side"),
    (risk_pb2.CheckRequest, '{"side":""}', "side"),
    (risk_pb2.CheckRequest, '{"side":["buy"]}', "side"),
    (order_pb2.ListOrdersRequest, '{"page_size":"1"}', "page_size"),
    (order_pb2.ListOrdersRequest, '{"page_size":1.0}', "page_size"),
    (order_pb2.ListOrdersRequest, '{"page_size":1e2}', "page_size"),
    (order_pb2.ListOrdersRequest, '{"page_size":-1}', "page_size"),
    (order_pb2.ListOrdersRequest, '{"page_size":4294967296}', "page_size"),
    (order_pb2.ListOrdersRequest, f'{{"page_size":{"9" * 5000}}}', "page_size"),
    (risk_pb2.UpdateLimitsRequest, '{"version":18446744073709551616}', "version"),
    (risk_pb2.BatchCheckRequest, '{"requests":{}}', "requests"),
    (risk_pb2.BatchCheckRequest, '{"requests":null}', "requests"),
    (risk_pb2.BatchCheckRequest, '{"requests":[1]}', "requests[0]"),
    (risk_pb2.BatchCheckRequest, '{"requests":[{},{},{"quantity":"1"}]}', "requests[2].quantity"),
    (risk_pb2.SetTradingStateRequest, '{"scope":"firm"}', "scope"),
    (risk_pb2.SetTradingStateRequest, '{"scope":{"account":1}}', "scope.account"),
    (risk_pb2.UpdateLimitsRequest, '{"limits":[]}', "limits"),
    (risk_pb2.UpdateLimitsRequest, '{"limits":{"max":"1"}}', "limits.max"),
    (risk_pb2.UpdateLimitsRequest, '{"update_mask":["a"]}', "update_mask"),
    (risk_pb2.UpdateLimitsRequest, '{"update_mask":"a,,b"}', "update_mask"),
    (risk_pb2.UpdateLimitsRequest, '{"update_mask":"a, b"}', "update_mask"),
    # times
    (order_pb2.SubmitOrderRequest, '{"expire_time":1704888000}', "expire_time"),
    (order_pb2.SubmitOrderRequest, '{"expire_time":"2024-01-10"}', "expire_time"),
    (order_pb2.SubmitOrderRequest, '{"expire_time":"2024-01-10T12:00:00"}', "expire_time"),
    (order_pb2.SubmitOrderRequest, '{"expire_time":"2024-1-1T1:0:0Z"}', "expire_time"),
    (order_pb2.SubmitOrderRequest, '{"expire_time":"2024-02-30T00:00:00Z"}', "expire_time"),
    (order_pb2.SubmitOrderRequest, '{"expire_time":"2024-01-10T12:00:00.1234567890Z"}', "expire_time"),
    (order_pb2.SubmitOrderRequest, '{"expire_time":"2024-01-10T12:00:00+25:00"}', "expire_time"),
    (order_pb2.SubmitOrderRequest, '{"expire_time":"0000-01-01T00:00:00Z"}', "expire_time"),
    (order_pb2.StreamExecutionsRequest, '{"heartbeat_interval":5}', "heartbeat_interval"),
    (order_pb2.StreamExecutionsRequest, '{"heartbeat_interval":"5"}', "heartbeat_interval"),
    (order_pb2.StreamExecutionsRequest, '{"heartbeat_interval":"5m"}', "heartbeat_interval"),
    (order_pb2.StreamExecutionsRequest, '{"heartbeat_interval":"999999999999s"}', "heartbeat_interval"),
    # twice
    (risk_pb2.CheckRequest, '{"account":"a","account":"a"}', "account"),
    (risk_pb2.BatchCheckRequest, '{"requests":[{"side":"buy","side":"sell"}]}', "requests[0].side"),
    (risk_pb2.UpdateLimitsRequest, '{"limits":{"max":1,"max":2}}', "limits.max"),
    # not text
    (risk_pb2.CheckRequest, '{"account":"\\ud800"}', "account"),
    (risk_pb2.CheckRequest, '{"\\ud800":1}', "?"),
    (risk_pb2.UpdateLimitsRequest, '{"limits":{"\\ud800":1}}', "limits"),
    (risk_pb2.GetLimitsResponse, '{"limits":{"\\ud800":{}}}', "limits"),
    # no object
    (risk_pb2.CheckRequest, "[]", ""),
    (risk_pb2.CheckRequest, '"a"', ""),
    (risk_pb2.CheckRequest, "1", ""),
    (risk_pb2.CheckRequest, "null", ""),
    (risk_pb2.CheckRequest, "true", ""),
    # oneofs and details
    (order_pb2.SubmitOrderResult, '{"response":{},"error":{}}', "error"),
    (status_pb2.Status, '{"details":[1]}', "details[0]"),
    (status_pb2.Status, '{"details":[{}]}', "details[0].@type"),
    (status_pb2.Status, '{"details":[{"@type":"x/google.rpc.ErrorInfo","reason":1}]}', "details[0].reason"),
    (status_pb2.Status, '{"details":[{"@type":"x/google.protobuf.Duration","value":1}]}', "details[0].value"),
    (status_pb2.Status, '{"details":[{"@type":"x/google.protobuf.Duration"}]}', "details[0].value"),
    (status_pb2.Status, '{"details":[{"@type":"x/no.Such","value":"?"}]}', "details[0].value"),
    (status_pb2.Status, '{"details":[{"@type":"x/no.Such"}]}', "details[0]"),
    (status_pb2.Status, '{"details":[{"@type":"\\ud800"}]}', "details[0].@type"),
]


@pytest.mark.parametrize(("kind", "text", "path"), BAD_VALUES, ids=[text[:60] for _, text, _ in BAD_VALUES])
def test_a_bad_value_is_refused_by_the_path_of_its_field(kind: Any, text: str, path: str) -> None:
    with pytest.raises(FieldError) as caught:
        read(kind, text)
    assert caught.value.path == path
    assert caught.value.description


def test_a_wrong_type_is_told_with_what_came() -> None:
    with pytest.raises(FieldError, match="quantity: must be a number, not a string"):
        read(risk_pb2.CheckRequest, '{"quantity":"0.1"}')
    with pytest.raises(FieldError, match="side: must be one of buy, sell"):
        read(risk_pb2.CheckRequest, '{"side":"hold"}')


def test_a_long_key_is_cut_in_the_error() -> None:
    with pytest.raises(FieldError) as caught:
        read(risk_pb2.CheckRequest, '{"%s":1}' % ("k" * 1000))
    assert len(caught.value.path) == 64


@given(
    st.binary(max_size=60) | st.text(alphabet='{}[]":,.0123456789-eEaccountside true false null', max_size=60)
)
def test_any_body_is_read_or_refused(body: bytes | str) -> None:
    message = risk_pb2.CheckRequest()
    with contextlib.suppress(FieldError, MalformedJson):
        CODEC.reader(message.DESCRIPTOR)(message, parse(body if isinstance(body, bytes) else body.encode()))


@pytest.mark.parametrize(
    "descriptor",
    [wrappers_pb2.DoubleValue.DESCRIPTOR, struct_pb2.Struct.DESCRIPTOR, struct_pb2.Value.DESCRIPTOR],
)
def test_a_type_without_a_form_is_refused_when_it_is_compiled(descriptor: Descriptor) -> None:
    with pytest.raises(UnsupportedType):
        Codec().reader(descriptor)
    with pytest.raises(UnsupportedType):
        Codec().writer(descriptor)


@pytest.mark.parametrize(
    ("enum", "prefix"),
    [
        ("Side", "SIDE_"),
        ("OrderType", "ORDER_TYPE_"),
        ("TimeInForce", "TIME_IN_FORCE_"),
        ("VaRKind", "VA_R_KIND_"),
    ],
)
def test_the_prefix_of_an_enum_follows_from_its_name(enum: str, prefix: str) -> None:
    assert prefix_of(enum) == prefix


def test_short_names_are_those_that_were_published() -> None:
    assert short_names(types.OrderType.DESCRIPTOR) == {"market": 1, "limit": 2, "stop": 3, "stop_limit": 4}
    assert "risk_check_failed" in short_names(types.DenialReason.DESCRIPTOR)


def test_an_enum_outside_the_rules_is_refused() -> None:
    with pytest.raises(ValueError):
        short_names(struct_pb2.NullValue.DESCRIPTOR)
