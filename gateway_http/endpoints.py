"""One rpc behind one HTTP rule: from an ASGI request to its answer."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, Protocol

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message
from starlette.types import Receive, Scope, Send

from gateway_http.body_clock import BodyClock
from gateway_http.calls import OpenCalls
from gateway_http.codec import Codec, FieldError, MalformedJson
from gateway_http.failures import (
    Answer,
    BodyTooLarge,
    UnsupportedMediaType,
    failed,
    ok,
    status_answer,
    status_of_call,
)
from gateway_http.http_rules import HttpRule
from gateway_http.request_binding import RequestBinding
from gateway_http.servicer_context import HttpServicerContext
from gateway_http.targets import UnaryCall
from services.runtime.errors import InvalidArgument, ServiceError
from services.runtime.http_direct import Headers

MAX_BODY_BYTES: Final = 64 << 10
MAX_BATCH_BYTES: Final = 1 << 20
MAX_DISCARDED_BYTES: Final = 2 << 20
DISCARD_SEC: Final = 1.0
BODY_WITHIN_SEC: Final = 10.0
"""Time for a body to come whole: a connection may not hold an unfinished one for ever."""
BATCH: Final = "batch"
"""The verb of paths that take many messages in one body."""


class ClientGone(Exception):
    """The client closed the connection before its request was whole."""


class Endpoint(Protocol):
    """Serves one HTTP method and path."""

    async def __call__(
        self, variables: Mapping[str, str], scope: Scope, receive: Receive, send: Send
    ) -> None: ...


async def send_answer(answer: Answer, send: Send) -> None:
    """Sends a whole response."""
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    await send({"type": "http.response.body", "body": answer.body})


class RequestSource:
    """Reads and builds the requests of one endpoint."""

    __slots__ = ("_binding", "_clock", "_limit")

    def __init__(self, binding: RequestBinding, rule: HttpRule) -> None:
        self._binding = binding
        self._clock = BodyClock(BODY_WITHIN_SEC)
        self._limit = MAX_BATCH_BYTES if rule.template.verb == BATCH else MAX_BODY_BYTES

    async def accept(
        self, calls: OpenCalls, variables: Mapping[str, str], scope: Scope, receive: Receive, send: Send
    ) -> Message | None:
        """The request; None when there is none to serve: then the client is answered or gone.

        There is room for the call when this returns; whoever counts it does so before anything is awaited.
        """
        try:
            _refuse_over_bound(calls)
            request = await self._request(variables, scope, receive)
            # Again: any number of others may have begun while the body came.
            _refuse_over_bound(calls)
            return request
        except BodyTooLarge as error:
            await _send_while_discarding(failed(error), receive, send)
        except (ServiceError, FieldError, MalformedJson) as error:
            await send_answer(failed(error), send)
        except ClientGone:
            pass
        return None

    async def _request(self, variables: Mapping[str, str], scope: Scope, receive: Receive) -> Message:
        headers = dict(scope["headers"])
        body = b""
        if self._binding.takes_body:
            _refuse_drive_by(headers)
            body = await self._clock.bound(_read_body(headers, receive, self._limit))
        return self._build(variables, headers, scope["query_string"], body)

    def whole(self, variables: Mapping[str, str], headers: Headers, query: bytes, body: bytes) -> Message:
        """The request that has come whole, with a body within any limit. Raises what `failed` tells."""
        named = dict(headers)
        if self._binding.takes_body:
            _refuse_drive_by(named)
        return self._build(variables, named, query, body)

    def _build(
        self, variables: Mapping[str, str], headers: Mapping[bytes, bytes], query: bytes, body: bytes
    ) -> Message:
        try:
            return self._binding.build(variables, query, body, headers)
        except RecursionError:
            raise InvalidArgument("", "the value is nested too deep") from None


def _refuse_over_bound(calls: OpenCalls) -> None:
    refusal = calls.refusal()
    if refusal is not None:
        raise refusal


async def _read_body(headers: Mapping[bytes, bytes], receive: Receive, limit: int) -> bytes:
    declared = headers.get(b"content-length")
    if declared is not None and int(declared) > limit:
        raise BodyTooLarge(limit)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if len(body) > limit:
            raise BodyTooLarge(limit)
        return body
    chunks, size = [body], len(body)
    while message.get("more_body", False):
        if size > limit:
            raise BodyTooLarge(limit)
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
    if size > limit:
        raise BodyTooLarge(limit)
    return b"".join(chunks)


async def _send_while_discarding(answer: Answer, receive: Receive, send: Send) -> None:
    """Answers at once, then takes a bounded rest of the body off the wire before the connection is closed:
    closing on unread bytes resets it, and the client may never see its answer."""
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": True})
    left = MAX_DISCARDED_BYTES
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_SEC):
            while left > 0:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    break
                left -= len(message.get("body", b""))
    await send({"type": "http.response.body", "body": b""})


def _refuse_drive_by(headers: Mapping[bytes, bytes]) -> None:
    """A foreign page may make a browser post text/plain or a form to a loopback address without asking;
    application/json it may not."""
    if b"origin" in headers and not headers.get(b"content-type", b"").lower().startswith(b"application/json"):
        raise UnsupportedMediaType


class UnaryEndpoint:
    """A unary rpc."""

    __slots__ = ("_call", "_calls", "_name", "_reads_only", "_source", "_write")

    def __init__(
        self,
        codec: Codec,
        method: MethodDescriptor,
        rule: HttpRule,
        binding: RequestBinding,
        call: UnaryCall,
        calls: OpenCalls,
    ) -> None:
        self._name = method.full_name
        self._source = RequestSource(binding, rule)
        self._call = call
        self._calls = calls
        self._write = response_writer(codec, method, rule)
        self._reads_only = reads_only(method, rule)

    async def __call__(
        self, variables: Mapping[str, str], scope: Scope, receive: Receive, send: Send
    ) -> None:
        request = await self._source.accept(self._calls, variables, scope, receive, send)
        if request is None:
            return
        self._calls.enter()
        headers, client = scope["headers"], scope.get("client")
        if self._reads_only:
            await send_answer(await self._answer(request, headers, client), send)
            return
        # Its own task: what the servicer has begun to persist it also publishes, whoever goes away.
        # A cancelled caller cancels the future alone; asyncio.shield does the same at more cost.
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Answer] = loop.create_future()
        self._calls.hold(loop.create_task(self._run(self._answer(request, headers, client), answered)))
        await send_answer(await answered, send)

    async def respond(
        self,
        variables: Mapping[str, str],
        headers: Headers,
        query: bytes,
        body: bytes,
        client: tuple[str, int] | None,
    ) -> Answer:
        """Answers a request that has come whole (`http_direct.Respond`). Nobody may cancel it."""
        try:
            _refuse_over_bound(self._calls)
            request = self._source.whole(variables, headers, query, body)
        except (ServiceError, FieldError, MalformedJson) as error:
            return failed(error)
        self._calls.enter()
        return await self._answer(request, headers, client)

    async def _run(self, answering: Coroutine[Any, Any, Answer], answered: "asyncio.Future[Answer]") -> None:
        try:
            answer = await answering
        except BaseException:
            answered.cancel()
            raise
        if not answered.done():
            answered.set_result(answer)

    async def _answer(self, request: Message, headers: Headers, client: tuple[str, int] | None) -> Answer:
        """Runs the call that was entered, and leaves it."""
        context = HttpServicerContext(headers, client)
        try:
            response = await self._call(request, context)
            status = context.failure()
            return ok(self._write(response)) if status is None else status_answer(status)
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and _is_being_cancelled():
                raise
            return status_answer(status_of_call(error, context, self._name))
        finally:
            self._calls.leave()
            context.finish()


def reads_only(method: MethodDescriptor, rule: HttpRule) -> bool:
    """Whether a call changes nothing, by its HTTP method or its `idempotency_level`: then there is nothing
    to protect from a cancelled request, and the call needs no task of its own."""
    level = method.GetOptions().idempotency_level
    return rule.method == "GET" or level == MethodOptions.NO_SIDE_EFFECTS


def response_writer(codec: Codec, method: MethodDescriptor, rule: HttpRule) -> Callable[[Any], str]:
    """Writes the answer of an rpc. Raises `ValueError` when the rule names a field that it does not have."""
    if not rule.response_body:
        return codec.writer(method.output_type)
    field = method.output_type.fields_by_name.get(rule.response_body)
    if field is None:
        raise ValueError(f"{method.full_name}: the response body is {rule.response_body}, which is no field")
    return codec.value_writer(field)


def _is_being_cancelled() -> bool:
    """Whether this task was asked to end; else a servicer let a CancelledError of its own escape."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
