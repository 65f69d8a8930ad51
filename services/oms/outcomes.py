"""What a client is told of a submission, and what the service counts of it."""

from dataclasses import dataclass
from functools import cache
from typing import Final, TypeAlias

from prometheus_client import Counter

from services.ledger.order import Order, OrderState
from services.runtime.errors import Unavailable
from services.runtime.telemetry import counter, get_logger, histogram

RETRY_AFTER_SEC: Final = 1.0


@dataclass(frozen=True, slots=True)
class Submitted:
    """The order is in the journal of orders, or has been."""

    order_id: str
    client_order_id: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The order was denied and never reached the venue. `reason` is the published name."""

    order_id: str
    client_order_id: str
    reason: str
    message: str


Outcome: TypeAlias = Submitted | Rejected
Outcomes: TypeAlias = tuple[Outcome, ...]
"""Of a group, one an order."""


class OutcomeUnknown(Unavailable):
    """What became of the order cannot be told now; it names the order and when to ask again."""

    default_reason = "OUTCOME_UNKNOWN"

    def __init__(self, order: Order, message: str) -> None:
        metadata = {"order_id": order.order_id}
        if order.client_order_id:
            metadata["client_order_id"] = order.client_order_id
        super().__init__(message, metadata=metadata, retry_after_sec=RETRY_AFTER_SEC)


NOT_PUBLISHED: Final = "not_published"
GIVEN_UP: Final = frozenset(
    {"risk_timeout", "risk_error", "ledger_unavailable", "trading_halted", NOT_PUBLISHED}
)
"""Reasons with which a submission abandons an order that it has not published."""
VENUE_NEVER_SAW: Final = "unknown_order"
"""The venue's reason for ending an order that it was asked to cancel and never got; it refuses it later."""


def given_up(order: Order) -> bool:
    """Whether `order` was denied, or abandoned by its submission, with all that was submitted with it."""
    if order.state is OrderState.DENIED:
        return True
    return _ended_unexecuted(order) and order.reason in GIVEN_UP


def never_sent(order: Order) -> bool:
    """Whether `order` ended before the venue could have taken it."""
    return given_up(order) or (_ended_unexecuted(order) and order.reason == VENUE_NEVER_SAW)


def _ended_unexecuted(order: Order) -> bool:
    return order.state is OrderState.CANCELED and not order.cumulative


def is_undecided(order: Order) -> bool:
    """Whether the ledger alone cannot tell if `order` was published.

    One that is being canceled may have been reserved by a worker that died, whoever had it canceled: only
    what the venue has executed or amended shows that the venue has it.
    """
    if order.state is OrderState.PENDING_CANCEL:
        return not order.cumulative and not order.revision and order.replacement is None
    return order.state is OrderState.PENDING_NEW


def outcome_of(order: Order) -> Outcome:
    """What the submission of `order` was answered, read from where the order stands now."""
    if never_sent(order):
        if order.reason == VENUE_NEVER_SAW:
            message = f"order {order.order_id} never reached the venue; nothing was executed"
            return Rejected(order.order_id, order.client_order_id, NOT_PUBLISHED, message)
        return Rejected(order.order_id, order.client_order_id, order.reason, order.message)
    return Submitted(order.order_id, order.client_order_id)


_submit_latency: Final = histogram(
    "oms_submit_order_latency_ms", "From the arrival of an order to its answer, in milliseconds."
)
_submissions: Final = counter(
    "oms_submissions", "Submissions by what the client was told.", ("outcome", "reason")
)
_above_sla: Final = counter("oms_submit_order_above_sla", "Submissions slower than latency_sla_ms.")
_above_max: Final = counter("oms_submit_order_above_max_latency", "Submissions slower than max_latency_ms.")
_unchecked: Final = counter("oms_unchecked_orders", "Orders reserved without a risk check.")

_log = get_logger("oms.submit")


@cache
def _told(outcome: str, reason: str) -> Counter:
    """The counter of these labels; looking one up costs more than counting."""
    return _submissions.labels(outcome, reason)


class SubmissionRecord:
    """Counts and logs submissions; one line each, the message `risk check`."""

    def __init__(self, latency_sla_ms: float, max_latency_ms: float) -> None:
        self._latency_sla_ms = latency_sla_ms
        self._max_latency_ms = max_latency_ms

    def risk_check(self, order: Order, verdict: str, latency_ms: float, reason: str = "") -> None:
        """What risk said of `order`, `latency_ms` after it was asked."""
        _log.info(
            "risk check",
            order_id=order.order_id,
            account=order.account,
            verdict=verdict,
            reason=reason,
            latency_ms=round(latency_ms, 3),
        )

    def unchecked(self, order: Order, why: str) -> None:
        """`order` was reserved without a risk check."""
        _unchecked.inc()
        _log.warning("order reserved unchecked", order_id=order.order_id, account=order.account, why=why)

    def refused(self, reason: str) -> None:
        """A submission was not begun, for want of room."""
        _told("refused", reason).inc()

    def answered(self, order: Order, latency_ms: float, outcome: Outcome | Exception) -> None:
        """The submission of `order` is answered, `latency_ms` after it arrived."""
        _submit_latency.observe(latency_ms)
        if isinstance(outcome, Submitted):
            _told("submitted", "").inc()
        elif isinstance(outcome, Rejected):
            _told("rejected", outcome.reason).inc()
        else:
            reason = getattr(outcome, "reason", "")
            name = "unknown" if isinstance(outcome, Unavailable) else "error"
            _told(name, reason or "INTERNAL").inc()
        if latency_ms > self._latency_sla_ms:
            _above_sla.inc()
            if latency_ms > self._max_latency_ms:
                _above_max.inc()
            _log.warning(
                "submission above its service level",
                order_id=order.order_id,
                latency_ms=round(latency_ms, 3),
                latency_sla_ms=self._latency_sla_ms,
            )
