"""One way to ask risk, and three ways to be answered: by the servicer in this process, over gRPC, over REST.

Requests and answers are JSON of the published dialect in all three, so that a test is written once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, Protocol

import grpc
import httpx
from google.rpc import status_pb2

from gateway_http.codec.codec import Codec
from gateway_http.codec.json_text import parse
from services.runtime.errors import HTTP_STATUS, Code, ServiceError
from services.runtime.rpc_status import DETAILS_KEY, status_of
from trade2026.risk.v1 import risk_pb2, risk_service_pb2_grpc

JSON: Final = {"content-type": "application/json"}
METHODS: Final[Mapping[str, tuple[str, str]]] = {
    "Check": ("POST", "/check"),
    "BatchCheck": ("POST", "/check:batch"),
    "GetAccountRisk": ("GET", "/accounts/{account}/risk"),
    "GetLimits": ("GET", "/accounts/{account}/limits"),
    "UpdateLimits": ("PATCH", "/accounts/{account}/limits"),
    "GetTradingState": ("GET", "/tradingState"),
    "SetTradingState": ("POST", "/tradingState"),
    "GetServiceInfo": ("GET", "/info"),
}
_codec: Final = Codec()


class Raw(str):
    """A number by its text, whatever that is."""

    __slots__ = ()


@dataclass
class Refusal(Exception):
    """What an error said."""

    code: Code
    message: str
    reason: str
    fields: list[str] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)


class RiskClient(Protocol):
    """A way to ask."""

    async def call(self, method: str, request: Mapping[str, Any], timeout: float = 30) -> Any:
        """The answer as JSON. Raises `Refusal`."""

    async def close(self) -> None: ...


class InProcess:
    """Calls the servicer's methods."""

    def __init__(self, servicer: Any) -> None:
        self._servicer = servicer

    async def call(self, method: str, request: Mapping[str, Any], timeout: float = 30) -> Any:
        try:
            answer = await getattr(self._servicer, method)(_message(method, request), Deadline(timeout))
        except ServiceError as error:
            raise refusal_of(_json(status_of(error))) from None
        return _json(answer)

    async def close(self) -> None:
        """Nothing is open."""


class Deadline:
    """The part of a call's context that the servicer looks at."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout

    def time_remaining(self) -> float:
        return self._timeout


class OverGrpc:
    """Calls a process by gRPC."""

    def __init__(self, target: str) -> None:
        self._channel = grpc.aio.insecure_channel(target)
        self._stub = risk_service_pb2_grpc.RiskServiceStub(self._channel)

    async def call(self, method: str, request: Mapping[str, Any], timeout: float = 30) -> Any:
        try:
            answer = await getattr(self._stub, method)(_message(method, request), timeout=timeout)
        except grpc.aio.AioRpcError as error:
            trailing = dict(error.trailing_metadata() or ())
            if DETAILS_KEY not in trailing:  # the client itself gave up
                raise Refusal(Code(error.code().value[0]), str(error.details()), "") from None
            status = status_pb2.Status.FromString(trailing[DETAILS_KEY])
            raise refusal_of(_json(status)) from None
        return _json(answer)

    async def close(self) -> None:
        await self._channel.close()


class OverRest:
    """Calls a process by REST."""

    def __init__(self, root: str) -> None:
        self._client = httpx.AsyncClient(base_url=root, timeout=30)

    async def call(self, method: str, request: Mapping[str, Any], timeout: float = 30) -> Any:
        verb, path = METHODS[method]
        rest = dict(request)
        if "{account}" in path:
            path = path.replace("{account}", str(rest.pop("account")))
        if verb == "GET":
            return self.answer(await self._client.get(path, timeout=timeout))
        return await self.raw(to_json(rest), path, verb)

    async def raw(self, body: bytes, path: str = "/check", verb: str = "POST") -> Any:
        """Sends a body as it is."""
        return self.answer(await self._client.request(verb, path, content=body, headers=JSON))

    @staticmethod
    def answer(response: httpx.Response) -> Any:
        body = json.loads(response.text, parse_float=Decimal)
        if response.status_code == 200:
            return body
        refusal = refusal_of(body)
        assert response.status_code == HTTP_STATUS[refusal.code]
        raise refusal

    async def close(self) -> None:
        await self._client.aclose()


def refusal_of(status: Mapping[str, Any]) -> Refusal:
    """Reads the JSON of a google.rpc.Status."""
    details = {item["@type"].rpartition(".")[2]: item for item in status.get("details", [])}
    info = details.get("ErrorInfo", {})
    violations = details.get("BadRequest", {}).get("field_violations", [])
    return Refusal(
        Code(status["code"]),
        status["message"],
        info.get("reason", ""),
        [item["field"] for item in violations],
        dict(info.get("metadata", {})),
    )


def _message(method: str, request: Mapping[str, Any]) -> Any:
    kind = getattr(risk_pb2, f"{method}Request")
    message = kind()
    raw = {name: value for name, value in request.items() if isinstance(value, Raw)}
    readable = {name: 1 if name in raw else value for name, value in request.items()}
    _codec.reader(kind.DESCRIPTOR)(message, parse(to_json(readable)))
    for name, text in raw.items():
        getattr(message, name).value = text
    return message


def to_json(value: Any) -> bytes:
    """JSON in which `Raw` stands as it is."""
    if isinstance(value, Raw):
        return value.encode()
    if isinstance(value, Decimal):
        return str(value).encode()
    if isinstance(value, Mapping):
        members = (json.dumps(name).encode() + b":" + to_json(item) for name, item in value.items())
        return b"{" + b",".join(members) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(to_json, value)) + b"]"
    return json.dumps(value).encode()


def _json(message: Any) -> Any:
    return json.loads(_codec.writer(message.DESCRIPTOR)(message), parse_float=Decimal)
