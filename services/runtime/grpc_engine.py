"""The one module that opens gRPC servers.

`open_server` wires an engine with everything that each of our servers has: the services, with every call
counted against a bound and every exception mapped by the one table, `grpc.health.v1` fed by the health board,
and reflection that also resolves methods. The engine itself is behind `Engine`: grpcio's, or the one of
`grpc_native`.
"""

import asyncio
import importlib
import inspect
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol

import grpc
from google.protobuf import descriptor_pool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from services.runtime.admission import Admission
from services.runtime.errors import ServiceError, Unimplemented
from services.runtime.grpc_grpcio import Door, GrpcioEngine, always_open
from services.runtime.health import HealthBoard, Status
from services.runtime.liveness import progress
from services.runtime.rpc_status import abort_with
from services.runtime.settings import ServiceSettings, SettingsError
from services.runtime.telemetry import get_logger
from services.runtime.urgency import Urgency

MAX_RECEIVE_BYTES: Final = 4 << 20
MAX_SEND_BYTES: Final = 32 << 20
KEEPALIVE_MS: Final = 30_000
PING_TIMEOUT_MS: Final = 10_000

Handler = Any
"""grpc.RpcMethodHandler, which is generic for the type checker alone."""

_log = get_logger("runtime.grpc")


class Engine(Protocol):
    """What a gRPC server of any engine does."""

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]) -> None: ...

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: dict[str, Handler]
    ) -> None: ...

    def take_ahead(self, path: str, door: Door, makes_way: bool) -> None: ...

    def add_insecure_port(self, address: str) -> int: ...

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int: ...

    async def start(self) -> None: ...

    async def stop(self, grace: float | None) -> None: ...


@dataclass(frozen=True, slots=True)
class Taking:
    """How the calls of a unary method are taken."""

    door: Door = always_open
    """Is asked for each call; on grpcio before the request is read, which makes a refusal cheap."""
    urgent: bool = False
    """While its calls come, those of methods that are not urgent are taken one after the other."""


@dataclass(frozen=True, slots=True)
class GrpcService:
    """One service of a server."""

    full_name: str
    """`DESCRIPTOR.services_by_name[...].full_name`, such as "trade2026.risk.v1.RiskService"."""
    add: Callable[[Any, Any], None]
    """The generated `add_…Servicer_to_server`."""
    servicer: object
    ahead: Mapping[str, Taking] = field(default_factory=dict)
    """By name: unary methods whose calls are taken as they come, many at a time, not one after the other; for
    short calls, as all that was taken shares the loop."""


class GrpcServer:
    """A running server."""

    def __init__(self, engine: Engine, port: int) -> None:
        self._engine = engine
        self.port = port
        """The TCP port it listens on."""

    async def stop(self, grace_sec: float) -> None:
        """Stops accepting, waits up to `grace_sec` for open calls, then cancels them."""
        await self._engine.stop(grace_sec)


async def open_server(
    settings: ServiceSettings,
    services: Sequence[GrpcService],
    health_board: HealthBoard,
    *,
    workers: int = 1,
    admission: Admission | None = None,
) -> GrpcServer:
    """Opens the gRPC server of `settings` (host, grpc_port, grpc_engine, grpc_certificate) and starts it.

    Raises `SettingsError` when the engine is not available or the certificate cannot be used, and `OSError`
    when the port is taken.
    """
    credentials = _credentials(settings)
    admission = Admission(settings.grpc_max_in_flight) if admission is None else admission
    urgency = Urgency()
    engine = _OPENERS[settings.grpc_engine](settings, workers, admission, urgency)
    for service in services:
        _register(engine, service, admission, urgency)
    names = [service.full_name for service in services]
    _serve_health(engine, names, health_board)
    _serve_reflection(engine, names)
    address = f"[{settings.host}]" if ":" in settings.host else settings.host
    try:
        place = f"{address}:{settings.grpc_port or 0}"
        port = (
            engine.add_insecure_port(place)
            if credentials is None
            else engine.add_secure_port(place, credentials)
        )
    except RuntimeError as error:
        raise OSError(f"gRPC cannot listen on {address}:{settings.grpc_port}: {error}") from None
    await engine.start()
    return GrpcServer(engine, port)


def _credentials(settings: ServiceSettings) -> grpc.ServerCredentials | None:
    """What the server proves itself by; None: nothing."""
    if not settings.grpc_certificate:
        return None
    certificate, key = settings.grpc_certificate, settings.grpc_key
    try:
        # The library only says that it failed to bind; this says what is wrong with the files.
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
        return grpc.ssl_server_credentials([(Path(key).read_bytes(), Path(certificate).read_bytes())])
    except OSError as error:
        raise SettingsError(
            f"service.grpc_certificate {certificate}, service.grpc_key {key}: cannot be used ({error})"
        ) from None


def _grpcio(settings: ServiceSettings, workers: int, admission: Admission, urgency: Urgency) -> Engine:
    return GrpcioEngine(
        urgency,
        (
            ("grpc.so_reuseport", 1 if workers > 1 else 0),
            # Left to itself the library cancels calls that wait for the loop, at random, from 1,000 on. What
            # is too much is decided by the admission.
            ("grpc.server.max_pending_requests", settings.grpc_max_in_flight),
            ("grpc.server.max_pending_requests_hard_limit", 2 * settings.grpc_max_in_flight),
            ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
            ("grpc.max_send_message_length", MAX_SEND_BYTES),
            ("grpc.keepalive_time_ms", KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", PING_TIMEOUT_MS),
            ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_MS),
            ("grpc.keepalive_permit_without_calls", 1),
            # Our own clients find a frozen server by pings; they must not be disconnected for them.
            ("grpc.http2.max_ping_strikes", 0),
        ),
    )


def _native(settings: ServiceSettings, workers: int, admission: Admission, urgency: Urgency) -> Engine:
    try:
        from services.runtime.grpc_native import Limits, NativeEngine
    except ModuleNotFoundError as missing:
        raise SettingsError(
            f"service.grpc_engine: native needs {missing.name}; install the extra `native`"
        ) from None
    limits = Limits(MAX_RECEIVE_BYTES, MAX_SEND_BYTES, KEEPALIVE_MS, PING_TIMEOUT_MS)
    return NativeEngine(limits, admission, reuse_port=workers > 1)


_OPENERS: Final[Mapping[str, Callable[[ServiceSettings, int, Admission, Urgency], Engine]]] = {
    "grpcio": _grpcio,
    "native": _native,
}
"""By `service.grpc_engine`."""


def _add(engine: Engine, service: str, handlers: dict[str, Handler]) -> None:
    """Gives a server the methods of a service in both ways, as generated code does: grpcio takes the first,
    the native engine the second."""
    engine.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    engine.add_registered_method_handlers(service, handlers)


class _Recorder:
    """Takes the handlers that the generated registration function would give to a server."""

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {}

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Generic handlers hold the same methods; the named ones are kept."""

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, Handler]
    ) -> None:
        self.handlers.update(method_handlers)


def _register(engine: Engine, service: GrpcService, admission: Admission, urgency: Urgency) -> None:
    # Generated code for calls does not import the descriptors of its own service, which reflection answers
    # from.
    importlib.import_module(service.add.__module__.removesuffix("_grpc"))
    recorder = _Recorder()
    service.add(service.servicer, recorder)
    guarded = {
        name: _guarded(
            handler, f"{service.full_name}/{name}", admission, service.ahead.get(name, Taking()), urgency
        )
        for name, handler in recorder.handlers.items()
    }
    _add(engine, service.full_name, guarded)
    for name, taking in service.ahead.items():
        if name not in guarded or guarded[name].response_streaming:
            raise TypeError(f"{service.full_name}/{name} is no unary method that could be taken ahead")
        engine.take_ahead(f"/{service.full_name}/{name}", taking.door, not taking.urgent)


def _guarded(
    handler: Handler, method: str, admission: Admission, taking: Taking, urgency: Urgency
) -> Handler:
    if handler.request_streaming:
        raise TypeError(f"{method}: only unary and server-streaming methods are served")
    codec = {
        "request_deserializer": handler.request_deserializer,
        "response_serializer": handler.response_serializer,
    }
    behaviour = handler.unary_stream if handler.response_streaming else handler.unary_unary
    if getattr(behaviour, "__module__", "").endswith("_pb2_grpc"):
        # Inherited from the generated class: this servicer does not have the method.
        return grpc.unary_unary_rpc_method_handler(_unimplemented(method), **codec)
    if handler.response_streaming:
        if not inspect.isasyncgenfunction(behaviour):
            raise TypeError(f"{method} has to be an asynchronous generator")
        return grpc.unary_stream_rpc_method_handler(_guarded_stream(behaviour, method, admission), **codec)
    if not inspect.iscoroutinefunction(behaviour):
        raise TypeError(f"{method} has to be a coroutine function")
    guarded = _guarded_unary(behaviour, method, admission, taking, urgency)
    return grpc.unary_unary_rpc_method_handler(guarded, **codec)


def _unimplemented(method: str) -> Callable[[Any, Any], Awaitable[Any]]:
    async def call(request: Any, context: Any) -> None:
        await abort_with(context, Unimplemented(f"{method} is not implemented"))

    return call


def _guarded_unary(
    behaviour: Callable[[Any, Any], Awaitable[Any]],
    method: str,
    admission: Admission,
    taking: Taking,
    urgency: Urgency,
) -> Callable[[Any, Any], Awaitable[Any]]:
    door, urgent = taking.door, taking.urgent

    async def call(request: Any, context: Any) -> Any:
        progress()
        if urgent:
            urgency.begun()
        if admission.in_flight >= admission.limit:
            await abort_with(context, admission.refusal())
        admission.in_flight += 1
        try:
            if (refusal := door()) is not None:
                raise refusal
            return await behaviour(request, context)
        except Exception as error:
            await _end(context, method, error)
        finally:
            admission.in_flight -= 1

    return call


def _guarded_stream(
    behaviour: Callable[[Any, Any], AsyncIterator[Any]], method: str, admission: Admission
) -> Callable[[Any, Any], AsyncIterator[Any]]:
    async def call(request: Any, context: Any) -> AsyncIterator[Any]:
        if admission.in_flight >= admission.limit:
            await abort_with(context, admission.refusal())
        admission.in_flight += 1
        try:
            async for response in behaviour(request, context):
                yield response
        except Exception as error:
            await _end(context, method, error)
        finally:
            admission.in_flight -= 1

    return call


async def _end(context: Any, method: str, error: Exception) -> NoReturn:
    """Ends a call by the table; always raises."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not isinstance(error, ServiceError):
        _log.error("call failed", method=method, error=type(error).__name__, exc_info=error)
    await abort_with(context, error)


def _serve_health(engine: Engine, names: Sequence[str], board: HealthBoard) -> None:
    servicer = health.aio.HealthServicer()
    recorder = _Recorder()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, recorder)  # type: ignore[arg-type]
    _add(engine, health.SERVICE_NAME, recorder.handlers)
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    async def tell(status: Status) -> None:
        answer = health_pb2.HealthCheckResponse
        for name in ("", *names):
            await servicer.set(name, answer.NOT_SERVING if status == "unhealthy" else answer.SERVING)

    def changed(status: Status) -> None:
        task = loop.create_task(tell(status), name="grpc health")
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    board.on_change(changed)


class _EnclosingSymbolPool:
    """A descriptor pool that finds the file of a method by the file of its service.

    `ghz` and `grpcurl` ask reflection for `package.Service.Method`, which the Python pool does not know as a
    symbol.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def FindFileContainingSymbol(self, symbol: str) -> Any:
        while True:
            try:
                return self._pool.FindFileContainingSymbol(symbol)
            except KeyError:
                symbol, dot, _ = symbol.rpartition(".")
                if not dot:
                    raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


def _serve_reflection(engine: Engine, names: Sequence[str]) -> None:
    servicer = reflection.aio.ReflectionServicer(
        (*names, health.SERVICE_NAME, reflection.SERVICE_NAME),
        pool=_EnclosingSymbolPool(descriptor_pool.Default()),
    )
    recorder = _Recorder()
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, recorder)  # type: ignore[no-untyped-call]
    _add(engine, reflection.SERVICE_NAME, recorder.handlers)
