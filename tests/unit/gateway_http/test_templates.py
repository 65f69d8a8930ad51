"""Path templates: what the grammar allows, and what a compiled template matches."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_http.templates import BadPath, BadTemplate, Matcher, Variable, normalised, parse


def match(template: str, path: str) -> dict[str, str] | None:
    return Matcher(parse(template)).match(normalised(path))


@pytest.mark.parametrize(
    ("text", "canonical", "verb", "variables"),
    [
        ("/check", "/check", "", {}),
        ("/check:batch", "/check:batch", "batch", {}),
        ("/v1/orders", "/v1/orders", "", {}),
        ("/orders/{order_id}", "/orders/{order_id=*}", "", {"order_id": ("*",)}),
        ("/orders/{order_id}:cancel", "/orders/{order_id=*}:cancel", "cancel", {"order_id": ("*",)}),
        (
            "/accounts/{account}/limits",
            "/accounts/{account=*}/limits",
            "",
            {"account": ("*",)},
        ),
        (
            "/{order.account=accounts/*}",
            "/{order.account=accounts/*}",
            "",
            {"order.account": ("accounts", "*")},
        ),
        ("/{name=**}", "/{name=**}", "", {"name": ("**",)}),
        ("/a/{name=b/**}:go", "/a/{name=b/**}:go", "go", {"name": ("b", "**")}),
        ("/a/*/b", "/a/*/b", "", {}),
        ("/a/**", "/a/**", "", {}),
        ("/{a}/{b=x/*}/{c}", "/{a=*}/{b=x/*}/{c=*}", "", {"a": ("*",), "b": ("x", "*"), "c": ("*",)}),
        ("/a.b-c_d~e", "/a.b-c_d~e", "", {}),
    ],
)
def test_a_template_of_the_grammar_parses(
    text: str, canonical: str, verb: str, variables: dict[str, tuple[str, ...]]
) -> None:
    template = parse(text)
    assert str(template) == canonical
    assert template.verb == verb
    assert {one.name: one.segments for one in template.variables} == variables
    assert parse(canonical) == template


@pytest.mark.parametrize(
    "text",
    [
        "",
        "check",
        "/",
        "//",
        "/a//b",
        "/a/",
        "/a:",
        "/a:b:c",
        "/a:b/c",
        "/{",
        "/{}",
        "/{a",
        "/{a=}",
        "/{a=b/}",
        "/{a={b}}",
        "/{a.}",
        "/{.a}",
        "/{1a}",
        "/{a}}",
        "/{a}b",
        "/a b",
        "/a?b",
        "/a#b",
        "/***",
        "/**/a",
        "/{a=**}/b",
        "/{a=**/b}",
        "/{a}/{a}",
        "/a%20b",
    ],
)
def test_a_template_outside_the_grammar_is_refused(text: str) -> None:
    with pytest.raises(BadTemplate):
        parse(text)


def test_the_error_tells_the_position() -> None:
    with pytest.raises(BadTemplate, match="expected a segment at position 3"):
        parse("/a/")


@pytest.mark.parametrize(
    ("template", "path", "variables"),
    [
        ("/check:batch", "/check:batch", {}),
        ("/check:batch", "/check%3Abatch", {}),
        ("/check:batch", "/check", None),
        ("/orders/{order_id}", "/orders/a-1", {"order_id": "a-1"}),
        ("/orders/{order_id}", "/orders/", None),
        ("/orders/{order_id}", "/orders", None),
        ("/orders/{order_id}", "/orders/a/", None),
        ("/orders/{order_id}", "/orders/a/b", None),
        ("/orders/{order_id}", "/Orders/a", None),
        ("/orders/{order_id}", "/%6Frders/a", {"order_id": "a"}),
        ("/orders/{order_id}", "/orders/a%2Fb", {"order_id": "a/b"}),
        ("/orders/{order_id}", "/orders/a%20b", {"order_id": "a b"}),
        ("/orders/{order_id}", "/orders/a+b", {"order_id": "a+b"}),
        ("/orders/{order_id}", "/orders/%C3%A4", {"order_id": "ä"}),
        ("/orders/{order_id}", "/orders/%2525", {"order_id": "%25"}),
        ("/orders/{order_id}", "/orders/a:b", {"order_id": "a:b"}),
        ("/orders/{order_id}:cancel", "/orders/a:cancel", {"order_id": "a"}),
        ("/orders/{order_id}:cancel", "/orders/a:b:cancel", {"order_id": "a:b"}),
        ("/orders/{order_id}:cancel", "/orders/a", None),
        ("/accounts/{account}/risk", "/accounts/x/risk", {"account": "x"}),
        ("/accounts/{account}/risk", "/accounts/x/limits", None),
        ("/{name=accounts/*}", "/accounts/x", {"name": "accounts/x"}),
        ("/{name=accounts/*}", "/accounts/x%2Fy", {"name": "accounts/x%2Fy"}),
        ("/{name=accounts/*}", "/accounts/x%20y", {"name": "accounts/x y"}),
        ("/{name=accounts/*}", "/other/x", None),
        ("/a/{rest=**}", "/a/b/c", {"rest": "b/c"}),
        ("/a/{rest=**}", "/a/", {"rest": ""}),
        ("/a/*/c", "/a/b/c", {}),
        ("/a/*/c", "/a/b/d", None),
        ("/a.b", "/aXb", None),
    ],
)
def test_a_template_matches_its_paths_alone(
    template: str, path: str, variables: dict[str, str] | None
) -> None:
    assert match(template, path) == variables


@pytest.mark.parametrize("segment", ["%", "%2", "%zz", "%ff", "%C3", "a%", "%ED%A0%80"])
def test_a_variable_that_is_no_encoded_text_is_refused_by_name(segment: str) -> None:
    with pytest.raises(BadPath) as caught:
        match("/orders/{order_id}", f"/orders/{segment}")
    assert caught.value.variable == "order_id"


@given(st.text(min_size=1))
def test_a_variable_returns_what_was_encoded(text: str) -> None:
    assert match("/orders/{order_id}", "/orders/" + quote(text, safe="")) == {"order_id": text}


@given(st.text(alphabet="/{}*=:.ab%", max_size=12))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        template = parse(text)
    except BadTemplate:
        return
    assert parse(str(template)) == template
    assert all(isinstance(part, str | Variable) for part in template.segments)
