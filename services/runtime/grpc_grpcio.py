"""The first gRPC engine: grpcio's asyncio server, which here requests many calls of a method at a time.

gRPC's core hands a server only calls that it has requested. The library's server requests one of each method,
and the next one some turns of the loop and a change of threads after that one came. So under load calls wait
in the core, where nothing of ours refuses them, while the loop goes round for one at a time. `GrpcioEngine`
requests `CALLS_AHEAD` of the methods that are taken ahead and lets the library's own functions handle what
arrives. These functions are no public interface: they are used only with versions of the library that the
tests have seen, and with others the library's own way is all there is.

A loop that always has calls to begin has little time for those that are under way. So while urgent calls
come, the other methods are left to the library's one request.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined] # the types leave the library's core out

from services.runtime.errors import ServiceError
from services.runtime.rpc_status import DETAILS_KEY, status_of
from services.runtime.telemetry import get_logger
from services.runtime.urgency import Urgency

CALLS_AHEAD: Final = 64
"""Calls of one unary method that are requested at a time. With fewer a call costs more, and beyond what the
machine carries calls wait unrefused; with many more the refusals leave no time for what was taken."""
KNOWN_VERSIONS: Final = ("1.85.",)
"""Beginnings of the library's versions whose inner functions are those used here."""

Door = Callable[[], ServiceError | None]
"""Says why a call would be refused now whatever it asks for; None: it is taken."""
Handler = Any
"""grpc.RpcMethodHandler, which is generic for the type checker alone."""

_log = get_logger("runtime.grpc")


def always_open() -> None:
    """The door of a method that takes what comes."""


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A method whose calls are requested many at a time."""

    path: str
    door: Door
    makes_way: bool


class GrpcioEngine:
    """A gRPC server of this engine (`grpc_engine.Engine`). Handlers run on the loop that called `start`."""

    def __init__(self, urgency: Urgency, options: Sequence[tuple[str, Any]]) -> None:
        logging.getLogger("grpc._cython.cygrpc").addFilter(_of_the_service)
        self._server = grpc.aio.server(options=options)
        self._urgency = urgency
        self._handlers: dict[str, Handler] = {}
        self._ahead: list[_Ahead] = []
        self._requesting: list[asyncio.Task[None]] = []
        self._calls: set[asyncio.Task[None]] = set()

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Takes methods that are found by name at the call."""
        self._server.add_generic_rpc_handlers(generic_rpc_handlers)

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, Handler]
    ) -> None:
        """Takes the methods of a service."""
        self._server.add_registered_method_handlers(service_name, dict(method_handlers))
        self._handlers.update(
            {f"/{service_name}/{name}": handler for name, handler in method_handlers.items()}
        )

    def add_insecure_port(self, address: str) -> int:
        """Binds a port. Raises `RuntimeError` when it is taken."""
        return self._server.add_insecure_port(address)

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        """Binds a port with TLS. Raises `RuntimeError` when it is taken."""
        return self._server.add_secure_port(address, server_credentials)

    def take_ahead(self, path: str, door: Door, makes_way: bool) -> None:
        """Has calls of the unary method `path` requested many at a time, and those that `door` refuses
        answered unread. `makes_way`: not while urgent calls come."""
        self._ahead.append(_Ahead(path, door, makes_way))

    async def start(self) -> None:
        """Begins to take calls."""
        await self._server.start()
        if not grpc.__version__.startswith(KNOWN_VERSIONS):
            _log.warning("gRPC takes one call of a method at a time", unknown_version=grpc.__version__)
            return
        loop = asyncio.get_running_loop()
        resolver = cygrpc._MethodResolver([], self._handlers)
        self._requesting = [
            loop.create_task(self._request(loop, method, resolver), name=f"grpc requests {method.path}")
            for method in self._ahead
            for _ in range(CALLS_AHEAD - 1)
        ]
        for requesting in self._requesting:
            requesting.add_done_callback(_report)

    async def _request(self, loop: asyncio.AbstractEventLoop, method: _Ahead, resolver: Any) -> None:
        """Takes calls of one method, one after the other, until the server stops."""
        server = self._server._server  # type: ignore[attr-defined] # the library's own
        path, door, urgency = method.path, method.door, self._urgency
        encoded = path.encode()
        while server.is_running():
            if method.makes_way and not urgency.is_quiet():
                await urgency.until_quiet()
                continue
            try:
                state = await server._request_registered_call(encoded)
            except cygrpc._RequestCallError:
                # The server stops, or the call ended before it was taken.
                continue
            handling = (
                cygrpc._handle_rpc(path, resolver, (), state, loop, False)
                if door is always_open
                else _at_the_door(door, path, resolver, state, loop)
            )
            call = loop.create_task(cygrpc._schedule_rpc_coro(handling, state, loop, path))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def stop(self, grace: float | None) -> None:
        """Takes no new call, waits up to `grace` seconds for open ones, then cancels them."""
        await self._server.stop(grace)
        self._urgency.end()
        if self._requesting:
            await asyncio.wait(self._requesting)


def _report(requesting: "asyncio.Task[None]") -> None:
    """Says that calls are no longer requested; the library's own request for one is left."""
    if not requesting.cancelled() and (error := requesting.exception()) is not None:
        _log.error("calls are not requested any more", task=requesting.get_name(), exc_info=error)


async def _at_the_door(
    door: Door,
    method: str,
    resolver: Any,
    state: Any,
    loop: asyncio.AbstractEventLoop,
) -> None:
    """Handles a call, or answers it with the status of what `door` says, without reading its request."""
    refusal: Exception | None
    try:
        refusal = door()
    except Exception as error:
        _log.error("call failed", method=method, error=type(error).__name__, exc_info=error)
        refusal = error
    if refusal is None:
        await cygrpc._handle_rpc(method, resolver, (), state, loop, False)
        return
    status = status_of(refusal)
    trailing = ((DETAILS_KEY, status.SerializeToString()),)
    headers = cygrpc.SendInitialMetadataOperation(None, 0)
    await cygrpc._send_error_status_from_server(state, status.code, status.message, trailing, headers, loop)


def _of_the_service(record: logging.LogRecord) -> bool:
    """Whether a line of the library says that something is wrong here; an answer that comes after its caller
    has gone does not."""
    return record.exc_info is None or type(record.exc_info[1]).__name__ != "ExecuteBatchError"
