"""The errors that leave a service, and the one table that says which status each of them is.

Code that knows what is wrong raises one of these (or a class derived from them). Nothing else decides on a
status: gRPC servers and the REST shim both ask `rpc_status.status_of`. Standard library only, so that the
domain may derive from these classes.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Final


class Code(IntEnum):
    """Canonical status codes (google.rpc.Code) that the services answer with."""

    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class ServiceError(Exception):
    """Base of all errors that a caller is told about.

    `message` is a sentence for people, without internals. `reason` is UPPER_SNAKE_CASE and stable
    (google.rpc.ErrorInfo.reason). `metadata` holds the facts, such as the order id. `retry_after_sec` > 0
    tells the caller when trying again makes sense (google.rpc.RetryInfo); 0 leaves it out.
    """

    default_reason = "INTERNAL"
    default_retry_after_sec = 0.0

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after_sec: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = self.default_reason if reason is None else reason
        self.metadata: Mapping[str, str] = {} if metadata is None else metadata
        self.retry_after_sec = self.default_retry_after_sec if retry_after_sec is None else retry_after_sec


class InvalidArgument(ServiceError):
    """The request is malformed. `field` is the path of the field in the request ("orders[3].quantity")."""

    default_reason = "INVALID_ARGUMENT"

    def __init__(
        self,
        field: str,
        description: str,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        violations: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(
            f"{field}: {description}" if field else description, reason=reason, metadata=metadata
        )
        self.violations: tuple[tuple[str, str], ...] = violations or ((field, description),)

    @classmethod
    def many(cls, violations: tuple[tuple[str, str], ...]) -> "InvalidArgument":
        """One error for several (field, description) pairs; the first gives the message."""
        return cls(*violations[0], violations=violations)


class NotFound(ServiceError):
    """The named thing does not exist, or belongs to somebody else."""

    default_reason = "NOT_FOUND"


class AlreadyExists(ServiceError):
    """An id was used before with other content."""

    default_reason = "ALREADY_EXISTS"


class FailedPrecondition(ServiceError):
    """The state of the named thing does not allow it; trying again without a change will not help."""

    default_reason = "FAILED_PRECONDITION"


class Conflict(ServiceError):
    """A concurrent change won (version mismatch); read again and retry."""

    default_reason = "CONFLICT"


class ResourceExhausted(ServiceError):
    """Refused early because too much is waiting; nothing was done."""

    default_reason = "OVERLOADED"
    default_retry_after_sec = 0.1


class Unavailable(ServiceError):
    """It could not be finished now. What is known (the order id) is in `metadata`; it may have happened."""

    default_reason = "UNAVAILABLE"
    default_retry_after_sec = 1.0


class DeadlineExceeded(ServiceError):
    """The caller's deadline passed first."""

    default_reason = "DEADLINE_EXCEEDED"


class Unimplemented(ServiceError):
    """This build or configuration does not do that."""

    default_reason = "UNIMPLEMENTED"


class Unauthenticated(ServiceError):
    """No valid credentials came with the call."""

    default_reason = "UNAUTHENTICATED"


class PermissionDenied(ServiceError):
    """The credentials do not cover the account or the action."""

    default_reason = "PERMISSION_DENIED"


STATUS_TABLE: Final[Mapping[type[ServiceError], Code]] = {
    InvalidArgument: Code.INVALID_ARGUMENT,
    NotFound: Code.NOT_FOUND,
    AlreadyExists: Code.ALREADY_EXISTS,
    FailedPrecondition: Code.FAILED_PRECONDITION,
    Conflict: Code.ABORTED,
    ResourceExhausted: Code.RESOURCE_EXHAUSTED,
    Unavailable: Code.UNAVAILABLE,
    DeadlineExceeded: Code.DEADLINE_EXCEEDED,
    Unimplemented: Code.UNIMPLEMENTED,
    Unauthenticated: Code.UNAUTHENTICATED,
    PermissionDenied: Code.PERMISSION_DENIED,
    ServiceError: Code.INTERNAL,
}
"""The one table from error to status; a derived class has the status of its nearest listed base."""

HTTP_STATUS: Final[Mapping[Code, int]] = {
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.UNAUTHENTICATED: 401,
}
"""The HTTP status that grpc-gateway uses for each code."""


def code_of(error: BaseException) -> Code:
    """The status code of `error`; everything that is no `ServiceError` is INTERNAL."""
    for kind in type(error).__mro__:
        code = STATUS_TABLE.get(kind)
        if code is not None:
            return code
    return Code.INTERNAL
