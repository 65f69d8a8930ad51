"""google.rpc.Status out of an error: the same details over gRPC (trailing metadata) and over REST (JSON)."""

from functools import lru_cache
from typing import Any, Final, NoReturn

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from services.runtime.errors import (
    HTTP_STATUS,
    Code,
    InvalidArgument,
    ResourceExhausted,
    ServiceError,
    code_of,
)

DOMAIN: Final = "trade2026"
"""`domain` of every google.rpc.ErrorInfo."""
INTERNAL_MESSAGE: Final = "internal error"
"""All that a caller learns of an unexpected exception; the rest is in the log."""
DETAILS_KEY: Final = "grpc-status-details-bin"

_GRPC_CODES: Final[dict[int, grpc.StatusCode]] = {code.value[0]: code for code in grpc.StatusCode}


def status_of(error: BaseException) -> Any:
    """google.rpc.Status of `error` with ErrorInfo and, where it applies, BadRequest or RetryInfo; not to be
    changed by whoever gets it.

    The text of an unexpected exception is never in it.
    """
    if isinstance(error, ResourceExhausted):
        return _status_of_refusal(
            error.reason, error.message, error.retry_after_sec, tuple(error.metadata.items())
        )
    code = code_of(error)
    if not isinstance(error, ServiceError):
        return status_pb2.Status(
            code=code,
            message=INTERNAL_MESSAGE,
            details=[_packed(error_details_pb2.ErrorInfo(reason="INTERNAL", domain=DOMAIN))],
        )
    return _status(code, error)


@lru_cache(maxsize=64)
def _status_of_refusal(
    reason: str, message: str, retry_after_sec: float, metadata: tuple[tuple[str, str], ...]
) -> Any:
    # Refusals come alike and by the thousand, when there is no time to spare.
    error = ResourceExhausted(
        message, reason=reason, metadata=dict(metadata), retry_after_sec=retry_after_sec
    )
    return _status(Code.RESOURCE_EXHAUSTED, error)


def _status(code: Code, error: ServiceError) -> Any:
    details = [
        _packed(
            error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=dict(error.metadata))
        )
    ]
    if isinstance(error, InvalidArgument):
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
            for field, description in error.violations
        ]
        details.append(_packed(error_details_pb2.BadRequest(field_violations=violations)))
    if error.retry_after_sec > 0:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(error.retry_after_sec * 1e9))
        details.append(_packed(retry))
    return status_pb2.Status(code=code, message=error.message, details=details)


def http_status_of(code: int) -> int:
    """The HTTP status that grpc-gateway uses for a google.rpc code."""
    return HTTP_STATUS.get(Code(code), 500) if code in Code._value2member_map_ else 500


def grpc_code_of(code: int) -> grpc.StatusCode:
    """grpc.StatusCode of a google.rpc code."""
    return _GRPC_CODES.get(code, grpc.StatusCode.UNKNOWN)


async def abort_with(context: grpc.aio.ServicerContext[Any, Any], error: BaseException) -> NoReturn:
    """Ends a call with the status of `error`; always raises (grpc.aio.AbortError)."""
    status = status_of(error)
    await context.abort(
        grpc_code_of(status.code), status.message, ((DETAILS_KEY, status.SerializeToString()),)
    )


def _packed(message: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
