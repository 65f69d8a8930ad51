"""Where a call goes: to a servicer in this process, or through a gRPC channel."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from gateway_http.servicer_context import HttpServicerContext

UnaryCall = Callable[[Message, HttpServicerContext], Awaitable[Message]]
StreamCall = Callable[[Message, HttpServicerContext], AsyncIterator[Message]]

REMOTE_TIMEOUT_SEC: Final = 30.0


class Target(Protocol):
    """Something that has the methods of one service."""

    def unary(self, method: MethodDescriptor) -> UnaryCall: ...

    def stream(self, method: MethodDescriptor) -> StreamCall: ...


@dataclass(frozen=True, slots=True)
class Binding:
    """A service and where its calls go."""

    service: ServiceDescriptor
    target: Target


def local(service: ServiceDescriptor, servicer: object) -> Binding:
    """Calls the coroutines of `servicer`, the same object that gRPC is given."""
    return Binding(service, _Local(servicer))


def remote(
    service: ServiceDescriptor, channel: grpc.aio.Channel, *, timeout_sec: float = REMOTE_TIMEOUT_SEC
) -> Binding:
    """Calls a gRPC server; a unary call that takes longer than `timeout_sec` is DEADLINE_EXCEEDED."""
    return Binding(service, _Remote(channel, timeout_sec))


class _Local:
    def __init__(self, servicer: object) -> None:
        self._servicer = servicer

    def unary(self, method: MethodDescriptor) -> UnaryCall:
        behaviour: UnaryCall = getattr(self._servicer, method.name)
        return behaviour

    def stream(self, method: MethodDescriptor) -> StreamCall:
        behaviour: StreamCall = getattr(self._servicer, method.name)
        return behaviour


class _Remote:
    def __init__(self, channel: grpc.aio.Channel, timeout_sec: float) -> None:
        self._channel = channel
        self._timeout_sec = timeout_sec

    def unary(self, method: MethodDescriptor) -> UnaryCall:
        request, response = _classes(method)
        rpc: Any = self._channel.unary_unary(
            _path(method),
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        timeout_sec = self._timeout_sec

        async def call(message: Message, context: HttpServicerContext) -> Message:
            answer: Message = await rpc(message, metadata=context.invocation_metadata(), timeout=timeout_sec)
            return answer

        return call

    def stream(self, method: MethodDescriptor) -> StreamCall:
        request, response = _classes(method)
        rpc: Any = self._channel.unary_stream(
            _path(method),
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )

        async def call(message: Message, context: HttpServicerContext) -> AsyncIterator[Message]:
            responses = rpc(message, metadata=context.invocation_metadata())
            try:
                async for answer in responses:
                    yield answer
            finally:
                responses.cancel()

        return call


def _path(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def _classes(method: MethodDescriptor) -> tuple[Any, Any]:
    return (
        message_factory.GetMessageClass(method.input_type),
        message_factory.GetMessageClass(method.output_type),
    )
