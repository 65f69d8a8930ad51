"""Errors as callers see them: google.rpc.Status in JSON, with the HTTP status of grpc-gateway."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.rpc import error_details_pb2, status_pb2

from gateway_http.codec import Codec, FieldError, MalformedJson
from gateway_http.servicer_context import Aborted, HttpServicerContext, status_from
from services.runtime.errors import (
    Code,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    ServiceError,
    Unimplemented,
)
from services.runtime.rpc_status import DETAILS_KEY, INTERNAL_MESSAGE, http_status_of, status_of
from services.runtime.telemetry import get_logger

Headers = list[tuple[bytes, bytes]]

JSON: Final = (b"content-type", b"application/json")
CLOSE: Final = (b"connection", b"close")
REMOTE_MESSAGES: Final[Mapping[grpc.StatusCode, str]] = {
    grpc.StatusCode.UNAVAILABLE: "the service cannot be reached",
    grpc.StatusCode.DEADLINE_EXCEEDED: "the service did not answer in time",
    grpc.StatusCode.UNIMPLEMENTED: "the service does not have this call",
    grpc.StatusCode.CANCELLED: "the service ended the call",
    grpc.StatusCode.INTERNAL: INTERNAL_MESSAGE,
    grpc.StatusCode.UNKNOWN: INTERNAL_MESSAGE,
}
"""What is told of codes that the channel makes up itself, with a text of its own that names addresses."""

_log = get_logger("gateway")
_write_status = Codec().writer(status_pb2.Status.DESCRIPTOR)


class BodyTooLarge(InvalidArgument):
    """The body is longer than the path takes."""

    default_reason = "BODY_TOO_LARGE"

    def __init__(self, limit: int) -> None:
        super().__init__("", f"the body is longer than {limit} bytes")


class BodyTooSlow(DeadlineExceeded):
    """The body did not come whole in time."""

    default_reason = "BODY_TOO_SLOW"

    def __init__(self, within_sec: float) -> None:
        super().__init__(f"the body did not come within {within_sec:g} s")


class UnsupportedMediaType(InvalidArgument):
    """A page in a browser sent a body without being asked whether it may."""

    default_reason = "UNSUPPORTED_MEDIA_TYPE"

    def __init__(self) -> None:
        super().__init__("", "a body that a browser sends must be application/json")


class UnknownPath(NotFound):
    """Nothing is served at the path."""

    default_reason = "UNKNOWN_PATH"


class MethodNotAllowed(Unimplemented):
    """The path is served by other methods."""

    default_reason = "METHOD_NOT_ALLOWED"

    def __init__(self, allowed: list[str]) -> None:
        super().__init__(f"this path answers {', '.join(allowed)}")
        self.allowed = allowed


_OWN_STATUS: Final[Mapping[type[Exception], int]] = {
    BodyTooLarge: 413,
    BodyTooSlow: 408,
    UnsupportedMediaType: 415,
    MethodNotAllowed: 405,
}
"""Errors of HTTP itself, for which google.rpc has no code of their own."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP response."""

    status: int
    headers: Headers
    body: bytes


def ok(body: str) -> Answer:
    """200 with a JSON body."""
    content = body.encode("utf-8")
    return Answer(200, [JSON, (b"content-length", b"%d" % len(content))], content)


def failed(error: Exception) -> Answer:
    """The answer to an error of the request itself, or any other that happened before the call."""
    error = _as_service_error(error)
    status = status_of(error)
    extra: Headers = []
    if isinstance(error, MethodNotAllowed):
        extra.append((b"allow", ", ".join(error.allowed).encode("ascii")))
    if isinstance(error, BodyTooLarge | BodyTooSlow):
        # What is left of the body is not read.
        extra.append(CLOSE)
    return status_answer(status, _OWN_STATUS.get(type(error)), extra)


def status_answer(status: Any, http_status: int | None = None, extra: Headers | None = None) -> Answer:
    """A google.rpc.Status as an HTTP response. Retry-After is in whole seconds, rounded up."""
    body = status_json(status).encode("utf-8")
    headers: Headers = [JSON, (b"content-length", b"%d" % len(body)), *(extra or ())]
    delay = _retry_delay_sec(status)
    if delay is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(delay))))
    if status.code == Code.UNAUTHENTICATED:
        headers.append((b"www-authenticate", b"Bearer"))
    return Answer(http_status or http_status_of(status.code), headers, body)


def status_json(status: Any) -> str:
    """A google.rpc.Status as JSON."""
    return _write_status(status)


def status_of_call(error: BaseException, context: HttpServicerContext, method: str) -> Any:
    """The google.rpc.Status of a call that raised; an unexpected error is logged, and not told."""
    if isinstance(error, Aborted):
        return error.status
    if isinstance(error, grpc.aio.AioRpcError):
        return _status_of_rpc(error)
    if isinstance(error, ServiceError):
        return status_of(error)
    asked_for = context.failure()
    if asked_for is not None:
        return asked_for
    _log.error("call failed", method=method, error=type(error).__name__, exc_info=error)
    return status_of(error)


def _as_service_error(error: Exception) -> Exception:
    if isinstance(error, FieldError):
        return InvalidArgument(error.path, error.description)
    if isinstance(error, MalformedJson):
        return InvalidArgument("", str(error), reason="MALFORMED_JSON")
    return error


def _status_of_rpc(error: grpc.aio.AioRpcError) -> Any:
    code, trailing = error.code(), error.trailing_metadata()
    if any(key == DETAILS_KEY for key, _ in trailing or ()):
        return status_from(code.value[0], "", trailing)
    return status_pb2.Status(code=code.value[0], message=REMOTE_MESSAGES.get(code) or error.details() or "")


def _retry_delay_sec(status: Any) -> float | None:
    for detail in status.details:
        if detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            return float(retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9)
    return None
