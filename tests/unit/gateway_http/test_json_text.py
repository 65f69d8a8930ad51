"""Strict JSON: exact texts of numbers, and everything that is refused."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_http.codec.json_text import (
    NUMBER,
    AmbiguousObject,
    MalformedJson,
    Number,
    number_text,
    parse,
)

NUMBERS = st.from_regex(NUMBER, fullmatch=True)


@given(NUMBERS)
def test_a_number_keeps_its_text(text: str) -> None:
    value = parse(text.encode())
    assert type(value) is Number
    assert value == text


@pytest.mark.parametrize(
    "text", ["0.1", "-0", "1e2", "1E+400", "123456789012345678901234567890.10", "9" * 10_000]
)
def test_no_number_is_rounded_or_refused_for_its_size(text: str) -> None:
    assert parse(text.encode()) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "{",
        "}",
        "{}{}",
        "{} x",
        '{"a"}',
        '{"a":}',
        '{"a":1,}',
        "{a:1}",
        "{'a':1}",
        '{"a":01}',
        '{"a":+1}',
        '{"a":.5}',
        '{"a":5.}',
        '{"a":1e}',
        '{"a":0x1}',
        '{"a":1_000}',
        '{"a":NAN}',
        '{"a":+Infinity}',
        '{"a":nan}',
        '{"a":True}',
        '{"a":undefined}',
        '{"a":"\t"}',
        '{"a":"\\x41"}',
        '{"a":"\\ud8"}',
        '{"a":"b}',
        "// comment\n{}",
        "\ufeff{}",
        "\u00a0{}",
        "[" * 100_000,
        '{"a":' * 10_000 + "1" + "}" * 10_000,
    ],
)
def test_malformed_json_is_refused(text: str) -> None:
    with pytest.raises(MalformedJson):
        parse(text.encode())


@pytest.mark.parametrize(
    "body", [b"\xff", b'{"a":"\xff"}', '{"a":1}'.encode("utf-16"), b'{"a":"\xed\xa0\x80"}']
)
def test_a_body_that_is_not_utf8_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedJson):
        parse(body)


def test_an_error_does_not_repeat_the_body() -> None:
    with pytest.raises(MalformedJson) as caught:
        parse(b'{"password": secret}')
    assert "secret" not in str(caught.value)


def test_a_repeated_key_is_seen_at_every_level() -> None:
    top = parse(b'{"a":1,"b":2,"a":1}')
    assert isinstance(top, AmbiguousObject)
    assert top.key == "a"
    inner = parse(b'{"a":[{"b":1,"b":2}]}')["a"][0]
    assert isinstance(inner, AmbiguousObject)
    assert inner.key == "b"


@given(
    st.recursive(
        st.none() | st.booleans() | st.text() | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_other_values_are_those_of_the_standard_library(value: object) -> None:
    def plain(one: object) -> object:
        if type(one) is Number:
            return int(one)
        if isinstance(one, list):
            return [plain(item) for item in one]
        if isinstance(one, dict):
            return {key: plain(item) for key, item in one.items()}
        return one

    assert plain(parse(json.dumps(value).encode())) == value


@given(NUMBERS)
def test_a_json_number_is_written_as_it_is(text: str) -> None:
    assert number_text(text) == text


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("", "0"),
        ("+2.5", "2.5"),
        (".5", "0.5"),
        ("-.5", "-0.5"),
        ("5.", "5"),
        ("007", "7"),
        ("00.10", "0.10"),
        ("2.50E+8", "2.50E+8"),
        ("000", "0"),
        ("+.5e-3", "0.5e-3"),
    ],
)
def test_a_decimal_that_is_no_json_number_is_written_as_one(text: str, written: str) -> None:
    assert number_text(text) == written
    assert NUMBER.fullmatch(written)
    assert Decimal(written) == Decimal(text or 0)


@pytest.mark.parametrize(
    "text", ["NaN", "Infinity", "-", "+", ".", "e5", "1e", " 1", "1 ", "1,5", "0x1", "١", "1\n"]
)
def test_what_is_no_decimal_is_not_written(text: str) -> None:
    assert number_text(text) is None
