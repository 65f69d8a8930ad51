"""The gateway: an ASGI application made of services, compiled once at the start.

Calls are dispatched here, without a framework in between, because they are what must be fast; the pages
beside them (health, the OpenAPI document, its rendering) are a Starlette application.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final
from urllib.parse import quote

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from starlette.types import Receive, Scope, Send

from gateway_http.calls import Admission, OpenCalls
from gateway_http.codec import Codec
from gateway_http.endpoints import Endpoint, UnaryEndpoint, send_answer
from gateway_http.event_stream import StreamEndpoint
from gateway_http.failures import MethodNotAllowed, failed
from gateway_http.http_rules import HttpRule, rules_of
from gateway_http.openapi import Operation, document
from gateway_http.pages import HealthSource, alive, pages
from gateway_http.request_binding import RequestBinding
from gateway_http.router import Route, Router
from gateway_http.targets import Binding, Target
from gateway_http.templates import BadPath
from services.runtime.errors import InvalidArgument
from services.runtime.http_direct import Respond

_PATH_CHARACTERS: Final = "/-._~!$&'()*+,;=:@"


class Gateway:
    """REST for a set of services. An ASGI application."""

    def __init__(
        self,
        bindings: Sequence[Binding],
        *,
        title: str,
        health: HealthSource,
        live: HealthSource = alive,
        admission: Admission | None = None,
    ) -> None:
        """Raises `ValueError` for annotations that contradict the contract or each other, and
        `UnsupportedType` for a type that the JSON dialect does not have."""
        self._calls = OpenCalls(admission)
        codec = Codec()
        operations: list[Operation] = []
        routes: list[Route[Endpoint]] = []
        for service, target, method, rule in _rules(bindings):
            binding = RequestBinding(codec, method, rule)
            endpoint = self._endpoint(codec, target, method, rule, binding)
            routes.append(Route(rule.method, rule.template, endpoint))
            operations.append(Operation(service, method, rule, binding.parameters, binding.headers))
        self._router: Router[Endpoint] = Router(routes)
        self._pages = pages(document(title, operations), health=health, live=live)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._pages(scope, receive, send)
            return
        raw = scope.get("raw_path")
        path = quote(scope["path"], safe=_PATH_CHARACTERS) if raw is None else raw.decode("latin-1")
        try:
            found = self._router.find(scope["method"], path)
            if found is not None:
                endpoint, variables = found
                await endpoint(variables, scope, receive, send)
                return
            allowed = self._router.allowed(path)
        except BadPath as error:
            refused = InvalidArgument(error.variable, "must be percent-encoded UTF-8 in the path")
            await send_answer(failed(refused), send)
            return
        if allowed:
            await send_answer(failed(MethodNotAllowed(allowed)), send)
        else:
            await self._pages(scope, receive, send)

    def direct(self, method: str, path: str) -> Respond | None:
        """What answers a request that has come whole; None: only the application itself does. For
        `http_server.serve`."""
        try:
            found = self._router.find(method, path)
        except BadPath:
            return None
        if found is None:
            return None
        endpoint, variables = found
        return partial(endpoint.respond, variables) if isinstance(endpoint, UnaryEndpoint) else None

    async def stop(self, grace_sec: float) -> None:
        """First step of a stop: new calls are answered 503, event streams end, running unary calls are waited
        for, at most `grace_sec` seconds. The HTTP server is stopped after it."""
        await self._calls.stop(grace_sec)

    def _endpoint(
        self,
        codec: Codec,
        target: Target,
        method: MethodDescriptor,
        rule: HttpRule,
        binding: RequestBinding,
    ) -> Endpoint:
        if method.client_streaming:
            raise ValueError(f"{method.full_name}: a stream of requests has no form in HTTP")
        if method.server_streaming:
            return StreamEndpoint(codec, method, rule, binding, target.stream(method), self._calls)
        return UnaryEndpoint(codec, method, rule, binding, target.unary(method), self._calls)


def create_app(
    bindings: Sequence[Binding],
    *,
    title: str,
    health: HealthSource,
    live: HealthSource = alive,
    admission: Admission | None = None,
) -> Gateway:
    """The gateway of `bindings`; see `Gateway`.

    `health` and `live` give the HTTP status and the JSON object of `/health` and `/live`. `admission` bounds
    the open calls together with the gRPC server's.
    """
    return Gateway(bindings, title=title, health=health, live=live, admission=admission)


def _rules(
    bindings: Iterable[Binding],
) -> Iterable[tuple[ServiceDescriptor, Target, MethodDescriptor, HttpRule]]:
    for binding in bindings:
        for method in binding.service.methods:
            for rule in rules_of(method):
                yield binding.service, binding.target, method, rule
