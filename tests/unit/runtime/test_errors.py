"""The one table from error to status, and google.rpc.Status made from it."""

from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from services.runtime import errors
from services.runtime.errors import (
    Code,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    ServiceError,
    Unavailable,
    code_of,
)
from services.runtime.rpc_status import abort_with, grpc_code_of, http_status_of, status_of

# grpc-gateway's runtime.HTTPStatusFromCode
GATEWAY_STATUS = {
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "UNAUTHENTICATED": 401,
}


def details(status: Any) -> dict[str, Message]:
    kinds = (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo)
    found: dict[str, Message] = {}
    for packed in status.details:
        for kind in kinds:
            message = kind()
            if packed.Unpack(message):
                found[kind.__name__] = message
    return found


def error_classes() -> list[type[ServiceError]]:
    return [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ServiceError)
    ]


def test_every_error_class_stands_in_the_table() -> None:
    assert set(error_classes()) == set(errors.STATUS_TABLE)


@pytest.mark.parametrize("code", list(Code), ids=lambda code: code.name)
def test_every_code_is_the_one_of_grpc_and_has_the_http_status_of_the_gateway(code: Code) -> None:
    assert grpc.StatusCode[code.name].value[0] == code
    assert grpc_code_of(code) is grpc.StatusCode[code.name]
    assert http_status_of(code) == GATEWAY_STATUS[code.name]


def test_a_derived_error_has_the_status_of_its_base() -> None:
    class UnknownOrder(NotFound):
        default_reason = "ORDER_UNKNOWN"

    error = UnknownOrder("no such order", metadata={"order_id": "a-1"})
    assert code_of(error) is Code.NOT_FOUND
    info = details(status_of(error))["ErrorInfo"]
    assert info == error_details_pb2.ErrorInfo(
        reason="ORDER_UNKNOWN", domain="trade2026", metadata={"order_id": "a-1"}
    )


def test_a_malformed_field_is_named() -> None:
    status = status_of(InvalidArgument("quantity", "must be positive"))
    assert status.code == Code.INVALID_ARGUMENT
    assert status.message == "quantity: must be positive"
    (violation,) = details(status)["BadRequest"].field_violations  # type: ignore[attr-defined]
    assert (violation.field, violation.description) == ("quantity", "must be positive")


def test_several_malformed_fields_are_all_named() -> None:
    status = status_of(InvalidArgument.many((("side", "is missing"), ("price", "is no number"))))
    violations = details(status)["BadRequest"].field_violations  # type: ignore[attr-defined]
    assert [violation.field for violation in violations] == ["side", "price"]


def test_a_retryable_error_says_when() -> None:
    retry = details(status_of(Unavailable("not settled yet", retry_after_sec=0.25)))["RetryInfo"]
    assert retry.retry_delay.ToMilliseconds() == 250  # type: ignore[attr-defined]


def test_refusals_that_differ_are_told_apart() -> None:
    refusals = (
        ResourceExhausted("full"),
        ResourceExhausted("full", reason="JOURNAL_FULL"),
        ResourceExhausted("full", retry_after_sec=5),
        ResourceExhausted("full", metadata={"order_id": "a-1"}),
        ResourceExhausted("more than 3 calls are open"),
    )
    told = [status_of(refusal) for refusal in (*refusals, *refusals)]
    assert told[:5] == told[5:]
    assert len({status.SerializeToString(deterministic=True) for status in told}) == 5
    assert all(status.code == 8 for status in told)
    info = details(told[3])["ErrorInfo"]
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert dict(info.metadata) == {"order_id": "a-1"}


def test_an_error_that_retrying_does_not_help_says_nothing_of_it() -> None:
    assert "RetryInfo" not in details(status_of(NotFound("no such order")))


def test_the_text_of_an_unexpected_exception_reaches_no_caller() -> None:
    status = status_of(KeyError("password=hunter2"))
    assert status.code == Code.INTERNAL
    assert "hunter2" not in str(status)
    assert status.message == "internal error"


def test_unknown_codes_are_internal_errors_over_http() -> None:
    assert http_status_of(2) == 500
    assert http_status_of(99) == 500


async def test_aborting_puts_the_whole_status_into_the_trailing_metadata() -> None:
    class Context:
        async def abort(self, code: grpc.StatusCode, message: str, trailing: Any) -> None:
            self.given = (code, message, dict(trailing))
            raise grpc.aio.AbortError

    context: Any = Context()
    error = NotFound("no such order", reason="ORDER_UNKNOWN")
    with pytest.raises(grpc.aio.AbortError):
        await abort_with(context, error)
    code, message, trailing = context.given
    assert (code, message) == (grpc.StatusCode.NOT_FOUND, "no such order")
    assert status_pb2.Status.FromString(trailing["grpc-status-details-bin"]) == status_of(error)
