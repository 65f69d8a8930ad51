"""What a gateway refuses at its start."""

import pytest

from gateway_http import create_app, local
from gateway_http.codec import UnsupportedType
from gateway_http.endpoints import reads_only
from gateway_http.http_rules import rules_of
from tests.unit.gateway_http.example_contract import method, only_method, service


def test_contradicting_annotations_are_refused_at_the_start() -> None:
    twice = service(method("One", {"get": "/a/{parent}"}), method("Two", {"get": "/a/{parent=*}"}))
    with pytest.raises(ValueError, match="bound twice"):
        create_app([local(twice, _Anything())], title="test", health=lambda: (200, {}))


@pytest.mark.parametrize("http", [{"get": "/{other}"}, {"get": "/a", "response_body": "other"}])
def test_an_annotation_that_names_no_field_is_refused_at_the_start(http: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="no"):
        create_app([local(service(method("Get", http)), _Anything())], title="test", health=lambda: (200, {}))


def test_a_binary_float_is_refused_at_the_start() -> None:
    floating = service(method("Get", {"get": "/a"}, response="Floating"))
    with pytest.raises(UnsupportedType, match=r"Floating\.value is a binary float"):
        create_app([local(floating, _Anything())], title="test", health=lambda: (200, {}))


class _Anything:
    """A servicer of whatever is asked of it."""

    def __getattr__(self, name: str) -> object:
        return lambda request, context: None


@pytest.mark.parametrize(
    ("http", "level", "expected"),
    [
        ({"get": "/a"}, 0, True),
        ({"post": "/a", "body": "*"}, 0, False),
        ({"post": "/a", "body": "*"}, 1, True),
        ({"post": "/a", "body": "*"}, 2, False),
        ({"delete": "/a"}, 0, False),
    ],
)
def test_what_reads_only_is_told_by_the_method_or_the_contract(
    http: dict[str, str], level: int, expected: bool
) -> None:
    rpc = only_method("Get", http, idempotency_level=level)
    assert reads_only(rpc, rules_of(rpc)[0]) is expected
