"""What is served beside the calls: health, the OpenAPI document and its rendering."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway_http.docs_page import render
from gateway_http.failures import MethodNotAllowed, UnknownPath, failed

HealthSource = Callable[[], tuple[int, Mapping[str, object]]]
"""HTTP status and JSON object."""

_JSON: Final = "application/json"
_PAGE_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}


def alive() -> tuple[int, Mapping[str, object]]:
    """Liveness looks at the event loop only: that it answers is the answer."""
    return 200, {"status": "alive"}


def pages(openapi: Mapping[str, Any], *, health: HealthSource, live: HealthSource) -> Starlette:
    """The application of the pages; everything else is 404 in the shape of the calls' errors."""
    content = json.dumps(openapi, ensure_ascii=False).encode("utf-8")
    page = render(openapi).encode("utf-8")

    async def serve_health(_: Request) -> Response:
        return _json_response(*health())

    async def serve_live(_: Request) -> Response:
        return _json_response(*live())

    async def serve_openapi(_: Request) -> Response:
        return Response(content, media_type=_JSON)

    async def serve_docs(_: Request) -> Response:
        return Response(page, media_type="text/html; charset=utf-8", headers=_PAGE_HEADERS)

    return Starlette(
        routes=[
            Route("/health", serve_health),
            Route("/live", serve_live),
            Route("/openapi.json", serve_openapi),
            Route("/docs", serve_docs),
        ],
        exception_handlers={404: _unknown_path, 405: _wrong_method},
    )


def _json_response(status: int, body: Mapping[str, object]) -> Response:
    return Response(json.dumps(body, separators=(",", ":")), status, media_type=_JSON)


async def _unknown_path(_: Request, __: Exception) -> Response:
    return _failure(UnknownPath("nothing is served at this path; see /openapi.json"))


async def _wrong_method(_: Request, error: Exception) -> Response:
    allowed = (error.headers or {}).get("Allow", "") if isinstance(error, HTTPException) else ""
    return _failure(MethodNotAllowed(sorted(allowed.split(", "))))


def _failure(error: Exception) -> Response:
    answer = failed(error)
    response = Response(answer.body, answer.status)
    response.raw_headers = answer.headers
    return response
