"""One way to ask oms, and three ways to be answered: by the servicer in this process, over gRPC, over REST.

Requests and answers are JSON of the published dialect in all three, so that a test is written once.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, Protocol
from urllib.parse import urlencode

import grpc
import httpx
from google.rpc import status_pb2

from gateway_http.codec.codec import Codec
from gateway_http.codec.json_text import parse
from services.runtime.errors import HTTP_STATUS, Code, ServiceError
from services.runtime.rpc_status import DETAILS_KEY, status_of
from trade2026.oms.v1 import order_pb2, order_service_pb2_grpc

JSON: Final = {"content-type": "application/json"}
_codec: Final = Codec()

METHODS: Final[Mapping[str, tuple[str, str]]] = {
    "SubmitOrder": ("POST", "/orders"),
    "BatchSubmitOrders": ("POST", "/orders:batch"),
    "CancelOrder": ("DELETE", "/orders/{order_id}"),
    "GetOrder": ("GET", "/orders/{order_id}"),
    "ListOrders": ("GET", "/orders"),
    "GetPositions": ("GET", "/positions/{account}"),
    "ListFills": ("GET", "/fills"),
    "ReplaceOrder": ("PATCH", "/orders/{order_id}"),
    "CancelAllOrders": ("POST", "/orders:cancelAll"),
    "SubmitOrderGroup": ("POST", "/orders:group"),
}


@dataclass(eq=False)
class Refusal(Exception):
    """What an error said."""

    code: Code
    message: str
    reason: str
    fields: list[str] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    retry_sec: float = 0.0


class OmsClient(Protocol):
    """A way to ask."""

    async def call(self, method: str, request: Mapping[str, Any]) -> Any:
        """The answer as JSON. Raises `Refusal`."""

    def stream(self, request: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
        """The messages of StreamExecutions. Raises `Refusal`."""

    async def close(self) -> None: ...


def _message(method: str, request: Mapping[str, Any]) -> Any:
    kind = getattr(order_pb2, f"{method}Request")
    message = kind()
    _codec.reader(kind.DESCRIPTOR)(message, parse(json.dumps(request, default=_number).encode()))
    return message


def _number(value: object) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(type(value))


def _json(message: Any) -> Any:
    return json.loads(_codec.writer(message.DESCRIPTOR)(message), parse_float=Decimal)


def refusal_of(status: Mapping[str, Any]) -> Refusal:
    """Reads the JSON of a google.rpc.Status."""
    details = {item["@type"].rpartition(".")[2]: item for item in status.get("details", [])}
    info = details.get("ErrorInfo", {})
    violations = details.get("BadRequest", {}).get("field_violations", [])
    delay = details.get("RetryInfo", {}).get("retry_delay", "0s")
    return Refusal(
        Code(status["code"]),
        status["message"],
        info.get("reason", ""),
        [item["field"] for item in violations],
        dict(info.get("metadata", {})),
        float(delay.rstrip("s")),
    )


class InProcess:
    """Calls the servicer's methods."""

    def __init__(self, servicer: Any) -> None:
        self._servicer = servicer

    async def call(self, method: str, request: Mapping[str, Any]) -> Any:
        message = _message(method, request)
        try:
            answer = await getattr(self._servicer, method)(message, None)
        except ServiceError as error:
            raise refusal_of(_json(status_of(error))) from None
        return _shown(method, _json(answer))

    async def stream(self, request: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
        message = _message("StreamExecutions", request)
        try:
            async for answer in self._servicer.StreamExecutions(message, None):
                yield _json(answer)
        except ServiceError as error:
            raise refusal_of(_json(status_of(error))) from None

    async def close(self) -> None:
        """Nothing is open."""


class OverGrpc:
    """Calls a process by gRPC."""

    def __init__(self, target: str) -> None:
        self._channel = grpc.aio.insecure_channel(target)
        self._stub = order_service_pb2_grpc.OrderServiceStub(self._channel)

    async def call(self, method: str, request: Mapping[str, Any]) -> Any:
        message = _message(method, request)
        try:
            answer = await getattr(self._stub, method)(message, timeout=30)
        except grpc.aio.AioRpcError as error:
            raise _grpc_refusal(error) from None
        return _shown(method, _json(answer))

    async def stream(self, request: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
        call = self._stub.StreamExecutions(_message("StreamExecutions", request))
        try:
            async for answer in call:
                yield _json(answer)
        except grpc.aio.AioRpcError as error:
            raise _grpc_refusal(error) from None
        finally:
            call.cancel()

    async def close(self) -> None:
        await self._channel.close()


def _grpc_refusal(error: grpc.aio.AioRpcError) -> Refusal:
    trailing = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailing[DETAILS_KEY])
    assert status.code == error.code().value[0]
    return refusal_of(_json(status))


class OverRest:
    """Calls a process by REST."""

    def __init__(self, root: str) -> None:
        self._client = httpx.AsyncClient(base_url=root, timeout=30)

    async def call(self, method: str, request: Mapping[str, Any]) -> Any:
        verb, path = METHODS[method]
        rest = dict(request)
        for name in ("order_id", "account"):
            if "{" + name + "}" in path:
                path = path.replace("{" + name + "}", str(rest.pop(name)))
        if verb in ("GET", "DELETE"):
            response = await self._client.request(verb, f"{path}?{urlencode(rest)}" if rest else path)
        else:
            response = await self._client.request(
                verb, path, content=json.dumps(rest, default=_number), headers=JSON
            )
        return self.answer(response)

    async def raw(self, verb: str, path: str, body: bytes, headers: Mapping[str, str] = JSON) -> Any:
        """Sends a body as it is."""
        return self.answer(await self._client.request(verb, path, content=body, headers=dict(headers)))

    @staticmethod
    def answer(response: httpx.Response) -> Any:
        body = json.loads(response.text, parse_float=Decimal)
        if response.status_code == 200:
            return body
        refusal = refusal_of(body)
        assert response.status_code == HTTP_STATUS[refusal.code]
        raise refusal

    async def stream(self, request: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
        async with self._client.stream("GET", f"/executions?{urlencode(request)}") as response:
            if response.status_code != 200:
                await response.aread()
                self.answer(response)
            async for line in response.aiter_lines():
                if line.startswith("data:"):
                    yield json.loads(line[5:], parse_float=Decimal)

    async def close(self) -> None:
        await self._client.aclose()


def _shown(method: str, answer: Any) -> Any:
    """What REST shows of an answer: positions without the message around them."""
    return answer["positions"] if method == "GetPositions" else answer
