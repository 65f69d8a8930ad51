"""The router: literal paths, then the most specific template; what a path allows."""

import pytest

from gateway_http.router import Route, Router
from gateway_http.templates import parse


def router(*routes: str) -> Router[str]:
    """Routes written as "METHOD template"; the endpoint is the text itself."""
    return Router(Route(text.split()[0], parse(text.split()[1]), text) for text in routes)


ROUTES = router(
    "POST /orders",
    "GET /orders",
    "POST /orders:batch",
    "GET /orders/{order_id}",
    "DELETE /orders/{order_id}",
    "GET /orders/open",
    "POST /orders/{order_id}:cancel",
    "POST /orders/{order_id}",
    "GET /{rest=**}",
    "GET /accounts/{account}/risk",
)


@pytest.mark.parametrize(
    ("method", "path", "endpoint", "variables"),
    [
        ("POST", "/orders", "POST /orders", {}),
        ("GET", "/orders", "GET /orders", {}),
        ("POST", "/orders:batch", "POST /orders:batch", {}),
        ("POST", "/orders%3Abatch", "POST /orders:batch", {}),
        ("GET", "/orders/a-1", "GET /orders/{order_id}", {"order_id": "a-1"}),
        ("GET", "/orders/open", "GET /orders/open", {}),
        ("POST", "/orders/a:cancel", "POST /orders/{order_id}:cancel", {"order_id": "a"}),
        ("POST", "/orders/a", "POST /orders/{order_id}", {"order_id": "a"}),
        ("GET", "/accounts/x/risk", "GET /accounts/{account}/risk", {"account": "x"}),
        ("GET", "/accounts/x/other", "GET /{rest=**}", {"rest": "accounts/x/other"}),
    ],
)
def test_the_most_specific_route_is_found(
    method: str, path: str, endpoint: str, variables: dict[str, str]
) -> None:
    assert ROUTES.find(method, path) == (endpoint, variables)


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/orders"), ("POST", "/other"), ("DELETE", "/orders/a/b")]
)
def test_another_path_or_method_is_not_found(method: str, path: str) -> None:
    assert ROUTES.find(method, path) is None


def test_a_path_tells_the_methods_that_it_allows() -> None:
    assert ROUTES.allowed("/orders") == ["GET", "POST"]
    assert ROUTES.allowed("/orders/a") == ["DELETE", "GET", "POST"]
    assert router("GET /a").allowed("/b") == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("GET /a", "GET /a"),
        ("GET /a/{b}", "GET /a/{c}"),
        ("GET /a/{b=*}", "GET /a/*"),
        ("GET /a:b", "GET /a:b"),
    ],
)
def test_two_routes_for_the_same_paths_are_refused(first: str, second: str) -> None:
    with pytest.raises(ValueError, match="bound twice"):
        router(first, second)
