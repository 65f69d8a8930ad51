"""Requests out of body, path, query and headers."""

from typing import Any

import pytest

from gateway_http.codec import Codec, FieldError, MalformedJson
from gateway_http.http_rules import HttpRule, rules_of
from gateway_http.request_binding import RequestBinding
from gateway_http.templates import BadTemplate
from tests.unit.gateway_http.example_contract import only_method
from trade2026.oms.v1 import order_service_pb2
from trade2026.risk.v1 import risk_service_pb2
from trade2026.type.v1 import order_pb2 as types

ORDERS = order_service_pb2.DESCRIPTOR.services_by_name["OrderService"]
RISK = risk_service_pb2.DESCRIPTOR.services_by_name["RiskService"]


def binding(method: Any) -> RequestBinding:
    return RequestBinding(Codec(), method, rules_of(method)[0])


def build(
    method: Any,
    query: str = "",
    body: str = "",
    headers: dict[bytes, bytes] | None = None,
    **variables: str,
) -> Any:
    dotted = {name.replace("__", "."): value for name, value in variables.items()}
    return binding(method).build(dotted, query.encode("latin-1"), body.encode(), headers or {})


def test_a_query_sets_the_fields_of_the_request() -> None:
    request = build(
        ORDERS.methods_by_name["ListOrders"],
        "account=a&state=partially_filled&page_size=10&client_order_id=x%20y+z%C3%A4&page_token=",
    )
    assert request.account == "a"
    assert request.state == types.ORDER_STATE_PARTIALLY_FILLED
    assert request.page_size == 10
    assert request.client_order_id == "x y zä"
    assert request.page_token == ""


def test_a_query_sets_fields_of_inner_messages() -> None:
    request = build(RISK.methods_by_name["GetTradingState"], "scope.account=a&scope.symbol=BTCUSDT")
    assert (request.scope.account, request.scope.symbol) == ("a", "BTCUSDT")
    assert not build(RISK.methods_by_name["GetTradingState"]).HasField("scope")


def test_a_query_sets_every_kind_of_value() -> None:
    request = build(
        only_method("Get", {"get": "/things"}),
        "tags=a&tags=b&numbers=1&numbers=2&amount=0.10&since=2024-01-10T00:00:00Z&thing.size=-5&dry=true&secret=AAE=",
    )
    assert list(request.tags) == ["a", "b"]
    assert list(request.numbers) == [1, 2]
    assert request.amount.value == "0.10"
    assert request.since.seconds == 1704844800
    assert request.thing.size == -5
    assert request.dry
    assert request.secret == b"\x00\x01"


def test_a_stream_takes_a_duration_and_booleans() -> None:
    request = build(
        ORDERS.methods_by_name["StreamExecutions"], "account=a&heartbeat_interval=1.5s&live_only=true"
    )
    assert request.heartbeat_interval.nanos == 500_000_000
    assert request.live_only


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("accont=a", "accont"),
        ("Account=a", "Account"),
        ("account=a&account=a", "account"),
        ("state=open", "state"),
        ("state=", "state"),
        ("page_size=x", "page_size"),
        ("page_size=", "page_size"),
        ("page_size=1.5", "page_size"),
        ("page_size=-1", "page_size"),
        ("page_size=+1", "page_size"),
        ("account", ""),
        ("account=a&", ""),
        ("account=%ff", ""),
        ("account=\xe4", ""),
        ("=a", ""),
    ],
)
def test_a_bad_query_is_refused_by_the_name_of_the_parameter(query: str, path: str) -> None:
    with pytest.raises(FieldError) as caught:
        build(ORDERS.methods_by_name["ListOrders"], query)
    assert caught.value.path == path


@pytest.mark.parametrize(
    "query",
    [
        "amount=x",
        "amount=NaN",
        "amount=",
        "dry=1",
        "dry=True",
        "since=today",
        "things=1",
        "thing=x",
        "thing.other=1",
        "numbers=1&numbers=x",
        "secret=%3F",
    ],
)
def test_a_bad_value_in_a_query_is_refused(query: str) -> None:
    with pytest.raises(FieldError) as caught:
        build(only_method("Get", {"get": "/things"}), query)
    assert caught.value.path == query.partition("=")[0]


def test_a_call_with_a_body_takes_no_query() -> None:
    with pytest.raises(FieldError) as caught:
        build(RISK.methods_by_name["Check"], "account=a", "{}")
    assert caught.value.path == "account"


def test_a_variable_of_the_path_is_no_parameter_of_the_query() -> None:
    with pytest.raises(FieldError):
        build(RISK.methods_by_name["GetLimits"], "account=b", account="a")


def test_the_path_and_the_body_build_one_request() -> None:
    replace = ORDERS.methods_by_name["ReplaceOrder"]
    request = build(replace, body='{"quantity":2.50}', order_id="a-1")
    assert (request.order_id, request.quantity.value) == ("a-1", "2.50")
    assert build(replace, body='{"order_id":"a-1"}', order_id="a-1").order_id == "a-1"
    with pytest.raises(FieldError, match="order_id: differs"):
        build(replace, body='{"order_id":"b-1"}', order_id="a-1")


def test_an_empty_body_is_an_empty_object() -> None:
    assert build(RISK.methods_by_name["Check"]).account == ""


def test_a_body_that_is_no_json_is_refused() -> None:
    with pytest.raises(MalformedJson):
        build(RISK.methods_by_name["Check"], body="account=a")


def test_a_body_may_be_one_field_and_the_query_the_rest() -> None:
    create = only_method("Create", {"post": "/{parent=shelves/*}/things", "body": "thing"})
    request = build(create, "dry=true", '{"name":"n","size":3}', parent="shelves/1")
    assert (request.parent, request.thing.name, request.thing.size, request.dry) == (
        "shelves/1",
        "n",
        3,
        True,
    )
    with pytest.raises(FieldError) as caught:
        build(create, "thing.name=x", "{}", parent="shelves/1")
    assert caught.value.path == "thing.name"
    with pytest.raises(FieldError) as caught:
        build(create, "", '{"nam":"x"}', parent="shelves/1")
    assert caught.value.path == "thing.nam"


def test_a_variable_may_name_a_field_of_an_inner_message() -> None:
    update = only_method("Update", {"patch": "/things/{thing.name}", "body": "*"})
    request = build(update, body='{"thing":{"size":1}}', thing__name="n")
    assert (request.thing.name, request.thing.size) == ("n", 1)
    with pytest.raises(FieldError, match=r"thing\.name: differs"):
        build(update, body='{"thing":{"name":"m"}}', thing__name="n")


def test_a_variable_may_be_a_number() -> None:
    get = only_method("Get", {"get": "/things/{thing.size}"})
    assert build(get, thing__size="7").thing.size == 7
    with pytest.raises(FieldError) as caught:
        build(get, thing__size="seven")
    assert caught.value.path == "thing.size"


def test_an_idempotency_key_is_the_client_order_id() -> None:
    submit = ORDERS.methods_by_name["SubmitOrder"]
    key = {b"idempotency-key": b"k-1"}
    assert build(submit, body="{}", headers=key).client_order_id == "k-1"
    assert build(submit, body='{"client_order_id":""}', headers=key).client_order_id == "k-1"
    assert build(submit, body='{"client_order_id":"k-1"}', headers=key).client_order_id == "k-1"
    assert build(submit, body='{"client_order_id":"c"}').client_order_id == "c"
    assert (
        build(submit, body='{"client_order_id":"c"}', headers={b"idempotency-key": b""}).client_order_id
        == "c"
    )
    with pytest.raises(FieldError) as caught:
        build(submit, body='{"client_order_id":"c"}', headers=key)
    assert caught.value.path == "client_order_id"


def test_an_idempotency_key_means_nothing_where_no_order_is_submitted() -> None:
    key = {b"idempotency-key": b"k-1"}
    assert build(ORDERS.methods_by_name["ListOrders"], "account=a", headers=key).client_order_id == ""
    assert build(RISK.methods_by_name["Check"], body="{}", headers=key).account == ""


def test_the_last_event_id_resumes_a_stream() -> None:
    stream = ORDERS.methods_by_name["StreamExecutions"]
    last = {b"last-event-id": b"41"}
    assert build(stream, "account=a", headers=last).after_sequence == 41
    assert build(stream, "account=a&after_sequence=7", headers=last).after_sequence == 41
    assert build(stream, "account=a&after_sequence=7").after_sequence == 7
    resumed = build(stream, "account=a&live_only=true", headers=last)
    assert (resumed.after_sequence, resumed.live_only) == (41, False)


@pytest.mark.parametrize("value", ["x", "-1", "1.5", "18446744073709551616", "9" * 5000, "\xb2"])
def test_a_last_event_id_that_is_no_sequence_number_is_refused(value: str) -> None:
    with pytest.raises(FieldError) as caught:
        build(
            ORDERS.methods_by_name["StreamExecutions"],
            "account=a",
            headers={b"last-event-id": value.encode("latin-1")},
        )
    assert caught.value.path == "after_sequence"


def test_the_rules_of_an_rpc_are_its_annotation_and_additional_bindings() -> None:
    rpc = only_method(
        "Get",
        {
            "get": "/things/{parent}",
            "response_body": "name",
            "additional_bindings": [{"post": "/things:find", "body": "*"}, {"put": "/t"}, {"delete": "/t"}],
        },
    )
    found = [(rule.method, str(rule.template), rule.body, rule.response_body) for rule in rules_of(rpc)]
    assert found == [
        ("GET", "/things/{parent=*}", "", "name"),
        ("POST", "/things:find", "*", ""),
        ("PUT", "/t", "", ""),
        ("DELETE", "/t", "", ""),
    ]


def test_a_rule_may_have_a_method_of_its_own() -> None:
    rules = rules_of(only_method("Find", {"custom": ("SEARCH", "/things"), "body": "*"}))
    assert [(rule.method, rule.body) for rule in rules] == [("SEARCH", "*")]


def test_an_rpc_without_annotation_has_no_rule() -> None:
    assert rules_of(only_method("Reserve", None)) == []
    assert rules_of(RISK.methods_by_name["Reserve"]) == []


@pytest.mark.parametrize("http", [{"body": "*"}, {"get": "things"}, {"get": "/{parent"}])
def test_a_rule_that_is_none_is_refused(http: dict[str, Any]) -> None:
    with pytest.raises((ValueError, BadTemplate)):
        rules_of(only_method("Get", http))


@pytest.mark.parametrize(
    "http",
    [
        {"get": "/{other}"},
        {"get": "/{thing}"},
        {"get": "/{tags}"},
        {"get": "/{things.name}"},
        {"post": "/a", "body": "other"},
    ],
)
def test_a_rule_that_names_what_the_request_does_not_have_is_refused(http: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no"):
        binding(only_method("Get", http))


def test_every_annotation_of_the_contracts_compiles() -> None:
    codec = Codec()
    for service in (ORDERS, RISK):
        for rpc in service.methods:
            for rule in rules_of(rpc):
                assert isinstance(rule, HttpRule)
                RequestBinding(codec, rpc, rule)
