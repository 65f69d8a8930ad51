"""Plain clients: one kept connection, JSON in and out, retries as a careful client does them."""

from __future__ import annotations

import asyncio
import http.client
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Self

import httpx

JSON = {"content-type": "application/json"}


@dataclass(slots=True)
class Latencies:
    """Milliseconds of one kind of request; they are printed, never asserted."""

    name: str
    values: list[float] = field(default_factory=list)

    def report(self) -> None:
        ordered = sorted(self.values)
        centiles = {p: ordered[min(len(ordered) - 1, int(len(ordered) * p / 100))] for p in (50, 90, 99)}
        shown = "  ".join(f"P{p} {value:.2f} ms" for p, value in centiles.items())
        print(f"{self.name}: {len(ordered)} requests, {shown}, mean {statistics.fmean(ordered):.2f} ms")


class RestConnection:
    """One HTTP connection, one request at a time. Numbers of answers are exact (`Decimal`, `int`)."""

    def __init__(self, root: str) -> None:
        host, port = root.removeprefix("http://").split(":")
        self._connection = http.client.HTTPConnection(host, int(port), timeout=10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        text = None if body is None else json.dumps(body)
        self._connection.request(method, path, text, JSON)
        response = self._connection.getresponse()
        return response.status, json.loads(response.read(), parse_float=Decimal)

    def timed(self, latencies: Latencies, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """`call`, with its duration noted."""
        begin = time.perf_counter()
        answer = self.call(method, path, body)
        latencies.values.append((time.perf_counter() - begin) * 1000)
        return answer


async def until_answered(
    client: httpx.AsyncClient, method: str, path: str, body: object = None, *, within_sec: float = 60
) -> tuple[int, Any]:
    """Repeats a request until its outcome is known: no answer, 429, 503 and 504 are no outcomes.

    Safe for submissions because they carry a `client_order_id`.
    """
    deadline = time.monotonic() + within_sec
    while True:
        reason: object
        try:
            response = await client.request(method, path, json=body)
            if response.status_code not in (429, 503, 504):
                return response.status_code, json.loads(response.text, parse_float=Decimal)
            reason = response.text
        except httpx.TransportError as error:
            reason = repr(error)
        if time.monotonic() > deadline:
            raise AssertionError(
                f"{method} {path} {body} was not answered within {within_sec} s; last: {reason}"
            )
        await asyncio.sleep(0.1)


async def every_page(
    client: httpx.AsyncClient, path: str, key: str, **query: str
) -> Sequence[dict[str, Any]]:
    """All entries of a paged list."""
    entries: list[dict[str, Any]] = []
    token = ""
    while True:
        response = await client.get(path, params={**query, "page_size": "1000", "page_token": token})
        response.raise_for_status()
        page = json.loads(response.text, parse_float=Decimal)
        entries.extend(page[key])
        token = page["next_page_token"]
        if not token:
            return entries
