"""The second gRPC engine: HTTP/2 in Rust, outside the GIL. The one module that uses `pygrpc-native`.

Only the low-level front of that package is used: it hands out calls as events and takes answers by call id.
Its ready-made server loses calls, so dispatch is here. What stands guard against which fault of the package
(version 0.5.0, pinned; a test each):

1. a handler whose result cannot be sent left its caller without an answer: whatever a call's task ends with,
   `_ended` answers what is not answered yet, with INTERNAL;
2. a call that was cancelled before its task began kept its record for ever: `_ended` removes it;
3. a client that does not read a stream held a thread, blocked other streams, outlived its deadline and hung
   the stop: sending waits on the loop (`_Call.write`), and a timer ends the call at its deadline;
4. answers that were given while the server stopped were lost, and new calls were still begun: `stop` refuses
   new calls first, waits for the running ones, then leaves the last answers time to be written;
5. nothing bounded the calls that wait for the loop: beyond the admission's limit they are refused unread;
6. a frame's announced length is believed, so that any client can make the process claim gigabytes: that
   happens in Rust before anything is seen here, hence `service.native_trusted_clients`.

Streams of requests (server reflection) and unknown methods go through a grpcio server on a Unix socket
behind the same port. There is no TLS, and no compression but gzip; a request in another one is refused with
UNIMPLEMENTED by the front.
"""

import asyncio
import contextvars
import inspect
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, NoReturn

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health
from pygrpc_native import EVENT_CANCEL, STREAM_CLOSED, STREAM_FULL, NativeGrpcFront

from services.runtime.admission import Admission
from services.runtime.errors import InvalidArgument, ResourceExhausted, Unavailable
from services.runtime.rpc_status import DETAILS_KEY, grpc_code_of, status_of
from services.runtime.telemetry import get_logger

IO_THREADS: Final = 1
BATCH: Final = 64
"""Events that are taken from the front at once."""
FLUSH_SEC: Final = 0.25
"""Time that the front has to write the last answer that it was given, before it is closed. 0.1 s is enough
on a machine that is not overloaded."""
CANCEL_SEC: Final = 1.0
"""Time that cancelled calls have to end."""
SHORTEST_WAIT_SEC: Final = 0.001
LONGEST_WAIT_SEC: Final = 0.05
"""Between two attempts to send to a client that does not read."""
STREAMS_A_CONNECTION: Final = 1 << 16

Metadata = Sequence[tuple[str, str | bytes]]
Handler = Any
"""grpc.RpcMethodHandler, which is generic for the type checker alone."""

_log = get_logger("runtime.grpc_native")


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes that are taken and sent, and how the connection of a silent client is ended."""

    receive_bytes: int
    send_bytes: int
    keepalive_ms: int
    ping_timeout_ms: int


@dataclass(frozen=True, slots=True)
class _Method:
    path: str
    behaviour: Callable[[Any, Any], Any]
    read: Callable[[bytes], Any]
    write: Callable[[Any], bytes]
    streams: bool
    refusable: bool
    """False: health, which is asked by those who decide whether to restart us."""


class _Call:
    """One call: its record, and the context that its handler sees (as grpc.aio.ServicerContext)."""

    # Defaults of what few calls set, so that making one costs little.
    answered = False
    gone = False
    """The client left, or its deadline passed: nobody waits for the answer."""
    timer: asyncio.TimerHandle | None = None
    task: "asyncio.Task[None]"
    _code: grpc.StatusCode = grpc.StatusCode.OK
    _details = ""
    _initial: Metadata | None = None
    _trailing: Metadata | None = None

    def __init__(
        self, engine: "NativeEngine", number: int, method: _Method, details: Any, received: float
    ) -> None:
        self.engine = engine
        self.number = number
        self.method = method
        self._metadata, self._peer, remaining = details
        self.deadline: float | None = None if remaining is None else received + remaining

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""
        self.gone = True
        self.task.cancel()

    def overdue(self) -> None:
        """Ends a stream whose client may not be reading; the front tells of unary calls only."""
        self.fail(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        self.cancel()

    def respond(self, data: bytes) -> None:
        """Answers a unary call."""
        self.engine.front.respond(self.number, data, self._initial, self._trailing)
        self.answered = True

    def end_stream(self) -> None:
        """Says that a stream is complete."""
        self.engine.front.stream_end(self.number, self._trailing)
        self.answered = True

    def fail(self, code: grpc.StatusCode, details: str, trailing: Metadata | None = None) -> None:
        """Answers with an error."""
        if not self.answered:
            self.engine.front.fail(self.number, code.value[0], details, trailing)
            self.answered = True

    def refuse(self, error: BaseException) -> None:
        """Answers with the status of `error`."""
        status = status_of(error)
        details = [(DETAILS_KEY, status.SerializeToString())]
        self.fail(grpc_code_of(status.code), status.message, details)

    def ended(self, task: "asyncio.Task[None]") -> None:
        """Whatever the call's task ended with, even before it began: its record goes, its client has an
        answer."""
        self.engine.calls.pop(self.number, None)
        self.engine.last_end = monotonic()
        if self.timer is not None:
            self.timer.cancel()
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("call failed", method=self.method.path, error=type(error).__name__, exc_info=error)
        if self.answered or self.gone:
            return
        if error is not None:
            self.refuse(error)
        elif self.engine.stopping:
            self.refuse(Unavailable("the server stopped before the call was done", reason="STOPPING"))
        else:
            self.fail(grpc.StatusCode.CANCELLED, "the call was cancelled by its handler")

    def fail_as_set(self) -> bool:
        """Answers with the code that the handler set, if that is not OK."""
        if self._code is grpc.StatusCode.OK:
            return False
        self.fail(self._code, self._details, self._trailing)
        return True

    # The context's side.

    async def write(self, message: Any) -> None:
        """Sends one message of a stream, and waits while the client does not read."""
        data = self.engine.encode(self.method, message)
        wait = SHORTEST_WAIT_SEC
        while (sent := self.engine.front.stream_try_send(self.number, data)) == STREAM_FULL:
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT_SEC)
        if sent == STREAM_CLOSED:
            self.gone = True
            raise asyncio.CancelledError

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()
    ) -> NoReturn:
        if code is grpc.StatusCode.OK:
            raise ValueError("abort needs another code than OK")
        self._code, self._details = code, details
        if trailing_metadata:
            self._trailing = list(trailing_metadata)
        raise grpc.aio.AbortError("Locally aborted.")

    async def send_initial_metadata(self, initial_metadata: Metadata) -> None:
        if self.method.streams:
            self.engine.front.stream_send_initial_metadata(self.number, list(initial_metadata))
        else:
            self._initial = list(initial_metadata)

    def set_trailing_metadata(self, trailing_metadata: Metadata) -> None:
        self._trailing = list(trailing_metadata)

    def trailing_metadata(self) -> Metadata:
        return self._trailing or ()

    def invocation_metadata(self) -> Metadata:
        metadata: Metadata = self._metadata
        return metadata

    def set_code(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def set_details(self, details: str) -> None:
        self._details = details

    def details(self) -> str:
        return self._details

    def peer(self) -> str:
        return str(self._peer)

    def auth_context(self) -> dict[str, list[bytes]]:
        return {}

    def time_remaining(self) -> float | None:
        """Seconds, or None without a deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - monotonic())

    def cancelled(self) -> bool:
        return self.gone

    def done(self) -> bool:
        return self.task.done()


class NativeEngine:
    """A gRPC server of this engine (`grpc_engine.Engine`). Handlers run on the loop that called `start`."""

    front: NativeGrpcFront
    stopping = False
    last_end = 0.0
    """When the last call ended, by the monotonic clock."""

    def __init__(self, limits: Limits, admission: Admission, *, reuse_port: bool) -> None:
        self._limits = limits
        self._admission = admission
        self._reuse_port = reuse_port
        self._methods: list[_Method] = []
        self._inner_methods: dict[str, dict[str, Handler]] = {}
        self._inner: grpc.aio.Server | None = None
        self._inner_folder = ""
        self.calls: dict[int, _Call] = {}

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Generic handlers hold the same methods; the named ones are kept."""

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, Handler]
    ) -> None:
        """Takes the methods of a service."""
        for name, handler in method_handlers.items():
            if handler.request_streaming:
                self._inner_methods.setdefault(service_name, {})[name] = handler
                continue
            self._methods.append(
                _Method(
                    f"/{service_name}/{name}",
                    handler.unary_stream if handler.response_streaming else handler.unary_unary,
                    handler.request_deserializer,
                    handler.response_serializer,
                    handler.response_streaming,
                    service_name != health.SERVICE_NAME,
                )
            )

    def take_ahead(self, path: str, door: Callable[[], object], makes_way: bool) -> None:
        """The front hands out calls of every method as they come, already read; handlers ask the door."""

    def add_insecure_port(self, address: str) -> int:
        """Binds the one port. Raises `RuntimeError`, as grpcio does, when it is taken."""
        try:
            self.front = NativeGrpcFront(
                address,
                [],
                io_threads=IO_THREADS,
                call_details=True,
                delay_stream_headers=True,
                keepalive_time_ms=self._limits.keepalive_ms,
                keepalive_timeout_ms=self._limits.ping_timeout_ms,
                max_concurrent_streams=STREAMS_A_CONNECTION,
                reuse_port=self._reuse_port,
            )
        except OSError as error:
            raise RuntimeError(str(error)) from None
        return self.front.bound_port

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        """This engine has no TLS, which the settings know."""
        raise RuntimeError("the native engine has no TLS")

    async def start(self) -> None:
        """Begins to take calls."""
        await self._start_inner()
        self.front.add_methods([(method.path, method.streams) for method in self._methods])
        self.front.start()
        threading.Thread(
            target=self._receive,
            args=(asyncio.get_running_loop(), contextvars.copy_context()),
            name="grpc events",
            daemon=True,
        ).start()

    async def _start_inner(self) -> None:
        """The server that answers what the front does not: streams of requests, unknown methods."""
        self._inner_folder = tempfile.mkdtemp(prefix="trade2026-grpc-")
        path = f"{self._inner_folder}/inner.sock"
        self._inner = grpc.aio.server()
        for service, handlers in self._inner_methods.items():
            self._inner.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        self._inner.add_insecure_port(f"unix:{path}")
        await self._inner.start()
        self.front.set_fallback(path)

    async def stop(self, grace: float | None) -> None:
        """Refuses new calls, gives running ones `grace` seconds to finish and then cancels them, has their
        answers written, and closes the connections."""
        self.stopping = True
        if self._inner is not None:
            inner, self._inner = self._inner, None
            ending = asyncio.ensure_future(inner.stop(grace))
            if grace and (running := [call.task for call in self.calls.values()]):
                await asyncio.wait(running, timeout=grace)
            if cancelled := [call.task for call in self.calls.values()]:
                for task in cancelled:
                    task.cancel()
                await asyncio.wait(cancelled, timeout=CANCEL_SEC)
            await ending
            await asyncio.sleep(self.last_end + FLUSH_SEC - monotonic())
            await asyncio.get_running_loop().run_in_executor(None, self.front.close)
            shutil.rmtree(self._inner_folder, ignore_errors=True)

    # Events.

    def _receive(self, loop: asyncio.AbstractEventLoop, context: contextvars.Context) -> None:
        """Body of the thread that carries events to the loop, until the front is closed."""
        while (events := self.front.recv_batch_details(BATCH)) is not None:
            try:
                # Handlers run in the context of the server's start (decimal's precision), not in this
                # thread's.
                loop.call_soon_threadsafe(self._arrived, events, monotonic(), context=context)
            except RuntimeError:  # the loop was closed without `stop`
                self.front.close()
                return

    def _arrived(self, events: Sequence[tuple[Any, ...]], received: float) -> None:
        loop = asyncio.get_running_loop()
        for kind, number, place, payload, _, details in events:
            if kind == EVENT_CANCEL:
                gone = self.calls.get(number)
                if gone is not None:
                    gone.cancel()
                continue
            method = self._methods[place]
            call = _Call(self, number, method, details, received)
            if self._refused(call, payload):
                continue
            if method.streams:
                call.task = loop.create_task(self._stream(call, payload))
                if call.deadline is not None:
                    call.timer = loop.call_later(call.deadline - monotonic(), call.overdue)
            else:
                call.task = loop.create_task(self._unary(call, payload))
            self.calls[number] = call
            call.task.add_done_callback(call.ended)

    def _refused(self, call: _Call, payload: bytes) -> bool:
        """Whether a call is refused before anything is done for it."""
        if self.stopping:
            call.refuse(Unavailable("the server is stopping; nothing was done", reason="STOPPING"))
        elif len(self.calls) >= self._admission.limit and call.method.refusable:
            call.refuse(self._admission.refusal())
        elif len(payload) > self._limits.receive_bytes:
            most = self._limits.receive_bytes
            call.refuse(ResourceExhausted(f"a request of {len(payload)} bytes; at most {most} are read"))
        return call.answered

    async def _unary(self, call: _Call, payload: bytes) -> None:
        method = call.method
        try:
            request = method.read(payload)
        except DecodeError:
            call.refuse(InvalidArgument("", f"not a request of {method.path}"))
            return
        try:
            response = await method.behaviour(request, call)
        except grpc.aio.AbortError:
            call.fail_as_set()
            return
        if not call.fail_as_set():
            call.respond(self.encode(method, response))

    async def _stream(self, call: _Call, payload: bytes) -> None:
        method = call.method
        try:
            request = method.read(payload)
        except DecodeError:
            call.refuse(InvalidArgument("", f"not a request of {method.path}"))
            return
        try:
            if inspect.isasyncgenfunction(method.behaviour):
                async with aclosing(method.behaviour(request, call)) as responses:
                    async for response in responses:
                        await call.write(response)
            else:
                await method.behaviour(request, call)
        except grpc.aio.AbortError:
            call.fail_as_set()
            return
        if not call.fail_as_set():
            call.end_stream()

    def encode(self, method: _Method, response: Any) -> bytes:
        """Bytes of a response. Raises whatever an unfit response makes its serializer raise, and
        `ResourceExhausted` when it is too large."""
        data = method.write(response)
        if len(data) > self._limits.send_bytes:
            raise ResourceExhausted(
                f"an answer of {len(data)} bytes; at most {self._limits.send_bytes} are sent"
            )
        return data
