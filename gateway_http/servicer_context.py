"""What a servicer sees of a call that came by HTTP: a `grpc.aio.ServicerContext` without gRPC."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn

import grpc
from google.rpc import status_pb2

from services.runtime.rpc_status import DETAILS_KEY

_NOT_FORWARDED: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "accept-language",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    }
)
"""Headers of the HTTP hop; everything else, `authorization` above all, is metadata of the call."""


class Aborted(grpc.aio.AbortError):
    """A servicer ended the call with a status."""

    def __init__(self, status: Any) -> None:
        super().__init__(status.message)
        self.status = status


def metadata_of(headers: Sequence[tuple[bytes, bytes]]) -> tuple[tuple[str, str], ...]:
    """HTTP headers as call metadata; what gRPC would not carry is left out."""
    return tuple(
        (name, value.decode("latin-1"))
        for name, value in ((raw.decode("latin-1").lower(), value) for raw, value in headers)
        if name not in _NOT_FORWARDED
        and not name.startswith(("grpc-", ":"))
        and not name.endswith("-bin")
        and value.isascii()
    )


def status_from(code: int, message: str, trailing_metadata: Any) -> Any:
    """The google.rpc.Status in the trailing metadata, else one of code and message."""
    for key, value in trailing_metadata or ():
        if key == DETAILS_KEY:
            return status_pb2.Status.FromString(value)
    return status_pb2.Status(code=code, message=message)


class HttpServicerContext(grpc.aio.ServicerContext[Any, Any]):
    """One call."""

    __slots__ = ("_callbacks", "_cancelled", "_code", "_details", "_done", "_headers", "_peer", "_trailing")

    def __init__(self, headers: Sequence[tuple[bytes, bytes]], peer: tuple[str, int] | None) -> None:
        self._headers = headers
        self._peer = peer
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._trailing: Any = ()
        self._callbacks: list[Callable[[Any], None]] | None = None
        self._cancelled = False
        self._done = False

    async def read(self) -> NoReturn:
        raise NotImplementedError("the request of a unary call is its argument")

    async def write(self, message: Any) -> NoReturn:
        raise NotImplementedError("a stream yields its responses")

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        """HTTP answers have no place for it."""

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        """Ends the call; always raises."""
        self._code, self._details = code, details
        raise Aborted(status_from(code.value[0], details, trailing_metadata or self._trailing))

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """Ends the call; always raises."""
        await self.abort(status.code, status.details, status.trailing_metadata)

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        self._trailing = trailing_metadata

    def trailing_metadata(self) -> Any:
        return self._trailing

    def invocation_metadata(self) -> Any:
        return metadata_of(self._headers)

    def set_code(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> Any:
        return self._code

    def set_details(self, details: str) -> None:
        self._details = details

    def details(self) -> str:
        return self._details

    def set_compression(self, compression: grpc.Compression) -> None:
        """The answer is not compressed."""

    def disable_next_message_compression(self) -> None:
        """The answer is not compressed."""

    def peer(self) -> str:
        return f"http:{self._peer[0]}:{self._peer[1]}" if self._peer else "http:unknown"

    def peer_identities(self) -> None:
        return None

    def peer_identity_key(self) -> None:
        return None

    def auth_context(self) -> Mapping[str, Any]:
        return {}

    def time_remaining(self) -> Any:
        """HTTP callers send no deadline."""
        return None

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        if self._callbacks is None:
            self._callbacks = []
        self._callbacks.append(callback)

    def cancelled(self) -> bool:
        return self._cancelled

    def done(self) -> bool:
        return self._done

    def failure(self) -> Any:
        """The status that `set_code` asks for; None when it asks for none."""
        if self._code is None or self._code is grpc.StatusCode.OK:
            return None
        return status_from(self._code.value[0], self._details, self._trailing)

    def finish(self, *, cancelled: bool = False) -> None:
        """The call is over: tells who asked to be told."""
        self._done, self._cancelled = True, cancelled
        for callback in self._callbacks or ():
            callback(self)
