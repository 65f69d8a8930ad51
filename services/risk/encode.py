"""Answers of the engine as messages of the contract."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Final

from google.type.decimal_pb2 import Decimal as DecimalMessage

from services.ledger import account as ledger_account
from services.ledger.commands import Effect, Outcome
from services.ledger.order import Order, OrderState
from services.risk.checks import Verdict
from services.risk.checks.display import text
from services.risk.engine import Answer, Malformed, NotReserved, Reserved, Unknown
from services.runtime.errors import (
    AlreadyExists,
    Conflict,
    DeadlineExceeded,
    FailedPrecondition,
    NotFound,
    ServiceError,
    Unavailable,
)
from trade2026.risk.v1 import risk_pb2
from trade2026.type.v1 import order_pb2

APPROVED: Final = risk_pb2.CheckResponse(approved=True)
"""Shared by all answers: nobody changes an answer after it was given."""

_PREFIX: Final = "DENIAL_REASON_"
REASONS: Final[Mapping[str, "order_pb2.DenialReason.ValueType"]] = {
    name.removeprefix(_PREFIX).lower(): number
    for name, number in order_pb2.DenialReason.items()
    if number != order_pb2.DENIAL_REASON_UNSPECIFIED
}
"""Published name of a reason → its number."""

_STATES: Final[Mapping[OrderState, "order_pb2.OrderState.ValueType"]] = {
    state: order_pb2.OrderState.Value(f"ORDER_STATE_{state.name}") for state in OrderState
}
TRADING_STATES: Final[Mapping[ledger_account.TradingState, "order_pb2.TradingState.ValueType"]] = {
    state: order_pb2.TradingState.Value(f"TRADING_STATE_{state.name}")
    for state in ledger_account.TradingState
}


def decimal(number: Decimal) -> DecimalMessage:
    """An exact number, with at most 18 decimal places."""
    return DecimalMessage(value=text(number))


def reason_number(reason: str) -> "order_pb2.DenialReason.ValueType":
    """The number of a published reason; one that is not published is a denial without a reason."""
    return REASONS.get(reason, order_pb2.DENIAL_REASON_RISK_CHECK_FAILED)


def check_response(verdict: Verdict) -> risk_pb2.CheckResponse:
    """The verdict of a dry check."""
    if verdict.approved and not verdict.controls:
        return APPROVED
    response = risk_pb2.CheckResponse(approved=verdict.approved)
    if not verdict.approved:
        response.reason = reason_number(verdict.reason)
        response.message = verdict.message
    for control in verdict.controls:
        response.explanation.controls.add(
            name=control.name,
            passed=control.passed,
            value=None if control.value is None else decimal(control.value),
            limit=None if control.limit is None else decimal(control.limit),
            message=control.message,
        )
    return response


def reserve_response(answer: Answer, order_id: str) -> risk_pb2.ReserveResponse:
    """The outcome of a reservation; raises the `ServiceError` that stands for an answer without one."""
    if isinstance(answer, Reserved):
        return _outcome_response(answer.outcome, order_id)
    if isinstance(answer, NotReserved):
        verdict = answer.verdict
        return _denied(order_id, verdict.reason, verdict.message)
    if isinstance(answer, Malformed):
        raise answer.error
    raise unknown(answer, order_id)


def unknown(answer: Unknown, order_id: str) -> ServiceError:
    """The error that says that a reservation may exist."""
    facts = {"order_id": order_id}
    if answer.late:
        return DeadlineExceeded(
            "the reservation was not confirmed in time and may exist",
            reason="RESERVATION_UNKNOWN",
            metadata=facts,
        )
    return Unavailable(
        "the reservation was not confirmed and may exist", reason="RESERVATION_UNKNOWN", metadata=facts
    )


def approved(outcome: Outcome) -> bool:
    """Whether the outcome of a reservation is that it is, or was, held."""
    order = outcome.order
    return outcome.effect in (Effect.DONE, Effect.REPEATED) and order is not None and not _given_up(order)


def _given_up(order: Order) -> bool:
    """Denied, or abandoned by its submitter: canceled for a reason that only risk and oms give."""
    return order.state is OrderState.DENIED or (
        order.state is OrderState.CANCELED and order.reason in REASONS
    )


def _outcome_response(outcome: Outcome, order_id: str) -> risk_pb2.ReserveResponse:
    effect, order = outcome.effect, outcome.order
    facts = {"order_id": order.order_id if order is not None else order_id}
    if effect is Effect.REFUSED and outcome.refusal is not None and order is not None:
        response = _denied(order.order_id, outcome.refusal.reason, outcome.refusal.message)
        response.state = _STATES[order.state]
        return response
    if effect is Effect.CONFLICT:
        raise AlreadyExists(
            "the client order id belongs to an order with other terms", reason="ORDER_ID_USED", metadata=facts
        )
    if effect is Effect.NOT_FOUND or order is None:
        raise NotFound("the order is not known", reason="ORDER_UNKNOWN", metadata=facts)
    if effect is Effect.NOT_OPEN:
        raise FailedPrecondition(
            f"the order is {order.state.value}",
            reason="ORDER_NOT_OPEN",
            metadata={**facts, "state": order.state.value},
        )
    if effect is Effect.BUSY:
        raise FailedPrecondition(
            "an amendment of the order is in flight", reason="AMENDMENT_IN_FLIGHT", metadata=facts
        )
    if effect is Effect.STALE:
        raise Conflict(
            f"the revision was used; the order is at revision {order.revision}",
            reason="REVISION_USED",
            metadata=facts,
        )
    if effect is Effect.GROUPED:
        raise FailedPrecondition("an order of a group is not amended", reason="ORDER_GROUPED", metadata=facts)
    if _given_up(order):
        response = _denied(order.order_id, order.reason, order.message)
    else:
        response = _held(order)
        response.group.extend(_held(further) for further in outcome.orders[1:])
    response.state = _STATES[order.state]
    response.repeated = effect is Effect.REPEATED
    return response


def _held(order: Order) -> risk_pb2.ReserveResponse:
    terms = order.replacement.terms if order.replacement is not None else order.terms
    protection = terms.protection_price
    return risk_pb2.ReserveResponse(
        approved=True,
        order_id=order.order_id,
        state=_STATES[order.state],
        protection_price=None if protection is None else decimal(protection),
    )


def _denied(order_id: str, reason: str, message: str) -> risk_pb2.ReserveResponse:
    return risk_pb2.ReserveResponse(
        approved=False,
        reason=reason_number(reason),
        message=message,
        order_id=order_id,
        state=order_pb2.ORDER_STATE_DENIED,
    )
