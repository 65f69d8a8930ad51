"""A server-streaming rpc as server-sent events (text/event-stream)."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from starlette.types import Receive, Scope, Send

from gateway_http.calls import OpenCalls
from gateway_http.codec import Codec
from gateway_http.endpoints import ClientGone, RequestSource, response_writer, send_answer
from gateway_http.failures import Answer, status_answer, status_json, status_of_call
from gateway_http.http_rules import HttpRule
from gateway_http.request_binding import RequestBinding
from gateway_http.servicer_context import HttpServicerContext
from gateway_http.targets import StreamCall
from services.runtime.tasks import end
from services.runtime.telemetry import get_logger

HEADERS_WITHIN_SEC: Final = 1.0
"""A stream that is silent this long begins without its first event; an error before is a plain answer."""
STALL_SEC: Final = 30.0
"""A client that takes nothing for so long is given up."""
ERROR_EVENT: Final = "error"

_HEADERS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]

_log = get_logger("gateway")


class EventWriter:
    """Writes responses as events: `id` is the response's `sequence`, `event` the oneof member that is set."""

    __slots__ = ("_has_sequence", "_oneof", "_write")

    def __init__(self, codec: Codec, method: MethodDescriptor, rule: HttpRule) -> None:
        descriptor = method.output_type
        sequence = descriptor.fields_by_name.get("sequence")
        self._has_sequence = sequence is not None and sequence.cpp_type == FieldDescriptor.CPPTYPE_UINT64
        self._oneof = descriptor.oneofs[0].name if descriptor.oneofs else ""
        self._write: Callable[[Any], str] = response_writer(codec, method, rule)

    def __call__(self, response: Any) -> bytes:
        lines = []
        # Number 0 would resume from the first event; a stream that has sent none leaves the client's own.
        if self._has_sequence and response.sequence:
            lines.append(f"id: {response.sequence}\n")
        name = response.WhichOneof(self._oneof) if self._oneof else None
        if name:
            lines.append(f"event: {name}\n")
        lines.append(f"data: {self._write(response)}\n\n")
        return "".join(lines).encode("utf-8")


class _Response:
    """The HTTP side of a stream: begins once, whoever begins it."""

    def __init__(self, send: Send, gone: "asyncio.Task[None]", stall_sec: float) -> None:
        """`gone` returns when the client has closed the connection."""
        self._send = send
        self._gone = gone
        self._stall_sec = stall_sec
        self._lock = asyncio.Lock()
        self.started = False

    async def start(self) -> None:
        async with self._lock:
            if not self.started:
                self.started = True
                await self._send({"type": "http.response.start", "status": 200, "headers": _HEADERS})

    async def refuse(self, answer: Answer) -> None:
        """A plain answer in place of events; only before they have begun."""
        self.started = True
        await send_answer(answer, self._send)

    @property
    def client_left(self) -> bool:
        return self._gone.done() and not self._gone.cancelled()

    async def event(self, text: bytes) -> None:
        """Raises `TimeoutError` when the client takes nothing, and `ClientGone`: a server drops what is sent
        to nobody without a word, and the stream would take that for a client which keeps up."""
        if self.client_left:
            raise ClientGone
        await self.start()
        async with asyncio.timeout(self._stall_sec):
            await self._send({"type": "http.response.body", "body": text, "more_body": True})

    async def end(self) -> None:
        await self.start()
        await self._send({"type": "http.response.body", "body": b""})


class StreamEndpoint:
    """A server-streaming rpc; the call is cancelled when the client goes away or the service stops."""

    __slots__ = ("_call", "_calls", "_name", "_source", "_stall_sec", "_write")

    def __init__(
        self,
        codec: Codec,
        method: MethodDescriptor,
        rule: HttpRule,
        binding: RequestBinding,
        call: StreamCall,
        calls: OpenCalls,
        *,
        stall_sec: float = STALL_SEC,
    ) -> None:
        self._name = method.full_name
        self._source = RequestSource(binding, rule)
        self._call = call
        self._calls = calls
        self._stall_sec = stall_sec
        self._write = EventWriter(codec, method, rule)

    async def __call__(
        self, variables: Mapping[str, str], scope: Scope, receive: Receive, send: Send
    ) -> None:
        request = await self._source.accept(self._calls, variables, scope, receive, send)
        if request is None:
            return
        loop = asyncio.get_running_loop()
        gone = loop.create_task(_client_gone(receive), name=f"{self._name} client")
        response = _Response(send, gone, self._stall_sec)
        pump = loop.create_task(self._pump(request, scope, response), name=self._name)
        self._calls.own_stream(pump)
        try:
            ended, _ = await asyncio.wait(
                {pump, gone}, timeout=HEADERS_WITHIN_SEC, return_when=asyncio.FIRST_COMPLETED
            )
            if not ended:
                await response.start()
                await asyncio.wait({pump, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(pump)
            await end(gone)
        if pump.cancelled() and not response.client_left:
            await response.end()

    async def _pump(self, request: Message, scope: Scope, response: _Response) -> None:
        context = HttpServicerContext(scope["headers"], scope.get("client"))
        cancelled = True
        try:
            await self._send_all(request, context, response)
            cancelled = False
        except TimeoutError:
            _log.warning("a client takes no events", method=self._name, peer=context.peer())
        except ClientGone:
            pass
        finally:
            context.finish(cancelled=cancelled)

    async def _send_all(self, request: Message, context: HttpServicerContext, response: _Response) -> None:
        untold = False
        responses = None
        try:
            responses = self._call(request, context)
            async for message in responses:
                text = self._write(message)
                try:
                    await response.event(text)
                except (TimeoutError, ClientGone):
                    untold = True
                    raise
            status = context.failure()
        except Exception as error:
            if untold:
                raise
            status = status_of_call(error, context, self._name)
        finally:
            close = getattr(responses, "aclose", None)
            if close is not None:
                await close()
        if status is None:
            await response.end()
        elif response.started:
            await response.event(f"event: {ERROR_EVENT}\ndata: {status_json(status)}\n\n".encode())
            await response.end()
        else:
            await response.refuse(status_answer(status))


async def _client_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
