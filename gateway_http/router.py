"""Finds what serves a method and a path. Standard library only; compiled when it is made."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from gateway_http.templates import Matcher, Template, normalised

T = TypeVar("T")

_NO_VARIABLES: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Route(Generic[T]):
    """What an HTTP method and a template lead to."""

    method: str
    template: Template
    endpoint: T


class Router(Generic[T]):
    """Looks up literal paths first, then templates, the most specific one first."""

    __slots__ = ("_static", "_templates")

    def __init__(self, routes: Iterable[Route[T]]) -> None:
        """Raises `ValueError` when two routes answer the same method and path."""
        self._static: dict[tuple[str, str], T] = {}
        self._templates: dict[str, list[tuple[Matcher, T]]] = {}
        seen: set[tuple[str, tuple[str, ...], str]] = set()
        for route in routes:
            key = (route.method, route.template.flat, route.template.verb)
            if key in seen:
                raise ValueError(f"{route.method} {route.template} is bound twice")
            seen.add(key)
            path = route.template.static_path
            if path is None:
                self._templates.setdefault(route.method, []).append((Matcher(route.template), route.endpoint))
            else:
                self._static[route.method, path] = route.endpoint
        for candidates in self._templates.values():
            candidates.sort(key=lambda candidate: candidate[0].specificity, reverse=True)

    def find(self, method: str, path: str) -> tuple[T, dict[str, str]] | None:
        """The endpoint and the decoded path variables; `path` is percent-encoded. Raises `BadPath`."""
        endpoint = self._static.get((method, path))
        if endpoint is not None:
            return endpoint, _NO_VARIABLES
        path = normalised(path)
        endpoint = self._static.get((method, path))
        if endpoint is not None:
            return endpoint, _NO_VARIABLES
        for matcher, endpoint in self._templates.get(method, ()):
            variables = matcher.match(path)
            if variables is not None:
                return endpoint, variables
        return None

    def allowed(self, path: str) -> list[str]:
        """The methods that the path answers, sorted; none: an unknown path. Raises `BadPath`."""
        path = normalised(path)
        methods = {method for method, static in self._static if static == path}
        for method, candidates in self._templates.items():
            if any(matcher.match(path) is not None for matcher, _ in candidates):
                methods.add(method)
        return sorted(methods)
