"""The OpenAPI document: whole, consistent, and about what the gateway really serves."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest

from gateway_http.codec import Codec
from gateway_http.comments import COMMENTS
from gateway_http.docs_page import render
from gateway_http.http_rules import rules_of
from gateway_http.openapi import Operation, document
from gateway_http.request_binding import RequestBinding
from tests.unit.gateway_http.example_contract import method, service
from tests.unit.gateway_http.messages import CONTRACT_MESSAGES
from trade2026.oms.v1 import order_service_pb2, reconciliation_service_pb2
from trade2026.risk.v1 import risk_service_pb2

SERVICES = (
    risk_service_pb2.DESCRIPTOR.services_by_name["RiskService"],
    order_service_pb2.DESCRIPTOR.services_by_name["OrderService"],
    reconciliation_service_pb2.DESCRIPTOR.services_by_name["ReconciliationService"],
)
METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
SCHEMA_KEYS = {
    "$ref",
    "additionalProperties",
    "contentEncoding",
    "description",
    "enum",
    "format",
    "items",
    "minimum",
    "pattern",
    "properties",
    "required",
    "type",
}


def described(*services: Any) -> dict[str, Any]:
    codec = Codec()
    operations = []
    for one in services:
        for rpc in one.methods:
            for rule in rules_of(rpc):
                binding = RequestBinding(codec, rpc, rule)
                operations.append(Operation(one, rpc, rule, binding.parameters, binding.headers))
    return document("test", operations)


DOCUMENT = described(*SERVICES)


def operations(openapi: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in openapi["paths"].items():
        for verb, operation in item.items():
            yield path, verb, operation


def schemas(value: Any) -> Iterator[dict[str, Any]]:
    """Every schema below a value of the document."""
    if isinstance(value, list):
        for item in value:
            yield from schemas(item)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key == "schema":
                yield from whole_schema(inner)
            else:
                yield from schemas(inner)


def whole_schema(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield schema
    for inner in schema.get("properties", {}).values():
        yield from whole_schema(inner)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from whole_schema(schema[key])


def all_schemas(openapi: dict[str, Any]) -> list[dict[str, Any]]:
    found = list(schemas(openapi["paths"]))
    for component in openapi["components"]["schemas"].values():
        found += whole_schema(component)
    return found


def test_the_document_is_json_and_has_what_openapi_demands() -> None:
    assert json.loads(json.dumps(DOCUMENT)) == DOCUMENT
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert DOCUMENT["info"]["title"] == "test"
    assert DOCUMENT["info"]["version"]
    assert set(DOCUMENT) <= {"openapi", "info", "tags", "paths", "components"}


def test_every_annotated_rpc_is_described_once() -> None:
    expected = {f"{one.name}_{rpc.name}" for one in SERVICES for rpc in one.methods if rules_of(rpc)} | {
        "Health",
        "Liveness",
    }
    ids = [operation["operationId"] for _, _, operation in operations(DOCUMENT)]
    assert len(ids) == len(set(ids))
    assert set(ids) == expected


def test_the_published_calls_are_described() -> None:
    found = {f"{verb.upper()} {path}" for path, verb, _ in operations(DOCUMENT)}
    assert found >= {
        "POST /check",
        "POST /check:batch",
        "GET /accounts/{account}/risk",
        "PATCH /accounts/{account}/limits",
        "POST /tradingState",
        "GET /info",
        "POST /orders",
        "POST /orders:batch",
        "POST /orders:cancelAll",
        "DELETE /orders/{order_id}",
        "GET /positions/{account}",
        "GET /executions",
        "POST /reconcile",
        "GET /health",
    }


def test_every_operation_is_well_formed() -> None:
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    for path, verb, operation in operations(DOCUMENT):
        assert verb in METHODS
        assert operation["summary"]
        assert operation["description"]
        assert operation["tags"][0] in tags | {"Probes"}
        assert operation["responses"]
        for answer in operation["responses"].values():
            assert answer["description"]
        in_path = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"}
        assert in_path == set(re.findall(r"{([^}]+)}", path))
        names = [(one["in"], one["name"]) for one in operation.get("parameters", ())]
        assert len(names) == len(set(names))
        assert all(one["required"] for one in operation.get("parameters", ()) if one["in"] == "path")
        assert verb not in ("get", "delete") or "requestBody" not in operation


def test_every_reference_leads_somewhere_and_every_component_is_referred_to() -> None:
    references = {schema["$ref"] for schema in all_schemas(DOCUMENT) if "$ref" in schema}
    assert references == {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}


def test_every_schema_is_well_formed() -> None:
    for schema in all_schemas(DOCUMENT):
        assert set(schema) <= SCHEMA_KEYS
        assert "$ref" in schema or schema["type"] in {
            "object",
            "array",
            "string",
            "number",
            "integer",
            "boolean",
        }
        assert set(schema.get("required", ())) <= set(schema.get("properties", schema.get("required", ())))
        assert schema.get("type") != "array" or "items" in schema


def test_every_field_of_a_component_carries_its_comment() -> None:
    for name, component in DOCUMENT["components"]["schemas"].items():
        assert component["description"], name
        for key, field in component.get("properties", {}).items():
            assert field.get("description"), (name, key)


def test_a_request_tells_what_it_must_have_and_takes_nothing_else() -> None:
    order = DOCUMENT["components"]["schemas"]["SubmitOrderRequest"]
    assert order["required"] == ["account", "symbol", "side", "quantity"]
    assert order["additionalProperties"] is False
    assert order["properties"]["quantity"]["type"] == "number"
    assert order["properties"]["side"]["$ref"] == "#/components/schemas/Side"
    assert order["properties"]["expire_time"]["format"] == "date-time"


def test_an_answer_tells_what_is_always_printed() -> None:
    assert DOCUMENT["components"]["schemas"]["CheckResponse"]["required"] == ["approved"]
    assert "required" not in DOCUMENT["components"]["schemas"]["SubmitOrderResponse"]


def test_enums_have_their_short_names_with_comments() -> None:
    side = DOCUMENT["components"]["schemas"]["Side"]
    assert side["enum"] == ["buy", "sell"]
    assert "- `buy`: Buys the symbol" in side["description"]


def test_positions_are_described_as_the_map_that_is_answered() -> None:
    answer = DOCUMENT["paths"]["/positions/{account}"]["get"]["responses"]["200"]
    schema = answer["content"]["application/json"]["schema"]
    assert schema["additionalProperties"] == {"$ref": "#/components/schemas/Position"}


def test_headers_that_set_a_field_are_parameters() -> None:
    submit = DOCUMENT["paths"]["/orders"]["post"]["parameters"]
    assert [(one["in"], one["name"]) for one in submit] == [("header", "Idempotency-Key")]
    stream = DOCUMENT["paths"]["/executions"]["get"]
    assert ("header", "Last-Event-ID") in [(one["in"], one["name"]) for one in stream["parameters"]]
    assert list(stream["responses"]["200"]["content"]) == ["text/event-stream"]


def test_a_query_parameter_is_required_when_its_comment_says_so() -> None:
    parameters = {one["name"]: one["required"] for one in DOCUMENT["paths"]["/orders"]["get"]["parameters"]}
    assert parameters == {
        "account": True,
        "state": False,
        "client_order_id": False,
        "page_size": False,
        "page_token": False,
    }
    scope = {one["name"] for one in DOCUMENT["paths"]["/tradingState"]["get"]["parameters"]}
    assert scope == {"scope.account", "scope.symbol"}


def test_rules_of_every_form_are_described() -> None:
    example = described(
        service(
            method(
                "Create", {"post": "/{parent=shelves/*}/things", "body": "thing", "response_body": "name"}
            ),
            method("Get", {"get": "/t/{parent}", "additional_bindings": [{"get": "/u/{parent}"}]}),
        )
    )
    ids = [operation["operationId"] for _, _, operation in operations(example)]
    assert ids[:3] == ["ExampleService_Create", "ExampleService_Get", "ExampleService_Get_2"]
    create = example["paths"]["/{parent}/things"]["post"]
    assert create["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/Thing")
    assert create["responses"]["200"]["content"]["application/json"]["schema"] == {"type": "string"}


def test_the_comments_are_those_of_the_contracts() -> None:
    for descriptor in CONTRACT_MESSAGES:
        assert COMMENTS[descriptor.full_name]
        for field in descriptor.fields:
            assert COMMENTS[field.full_name]
            if field.enum_type is not None:
                for value in field.enum_type.values:
                    assert COMMENTS[f"{field.enum_type.full_name}.{value.name}"]
    for one in SERVICES:
        assert COMMENTS[one.full_name]
        for rpc in one.methods:
            assert COMMENTS[rpc.full_name]


class Page(HTMLParser):
    """Anchors, links and unclosed elements of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.tags: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.add(value or "")
            elif name in ("href", "src"):
                self.links.add(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def page() -> Page:
    parsed = Page()
    parsed.feed(render(DOCUMENT))
    return parsed


def test_the_page_is_well_formed_and_takes_nothing_from_elsewhere(page: Page) -> None:
    assert page.open == []
    assert not page.tags & {"script", "img", "link", "iframe"}
    assert {link for link in page.links if not link.startswith("#")} == {"openapi.json"}


def test_the_page_shows_every_operation_and_object_and_its_links_lead_there(page: Page) -> None:
    assert page.ids >= {operation["operationId"] for _, _, operation in operations(DOCUMENT)}
    assert page.ids >= set(DOCUMENT["components"]["schemas"])
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.ids


def test_the_page_escapes_what_it_shows() -> None:
    hostile = described(*SERVICES)
    hostile["info"]["title"] = "<script>alert(1)</script>"
    hostile["info"]["description"] = "`<b>` & **<i>**"
    text = render(hostile)
    assert "<script>" not in text
    assert "<code>&lt;b&gt;</code> &amp; <strong>&lt;i&gt;</strong>" in text
