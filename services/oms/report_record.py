"""What is logged and counted of an applied report; fills by the message `fill`."""

from functools import cache
from typing import Final

from prometheus_client import Counter

from services.ledger.commands import ApplyReport, Effect, Outcome, ReportKind
from services.ledger.order import OrderState
from services.runtime.telemetry import counter, get_logger

_applied: Final = counter("oms_reports", "Venue reports by kind and what they did.", ("kind", "effect"))
_flagged: Final = counter("oms_flagged_fills", "Fills that were applied although unexpected.", ("flag",))
_log = get_logger("oms.reports")

_ENDED: Final = frozenset({OrderState.CANCELED, OrderState.REJECTED, OrderState.EXPIRED, OrderState.DENIED})


@cache
def _applied_as(kind: ReportKind, effect: Effect) -> Counter:
    """The counter of these labels; looking one up costs more than counting."""
    return _applied.labels(kind.value, effect.value)


def note_applied(report: ApplyReport, outcome: Outcome) -> None:
    """Logs and counts an applied report; fills by the message `fill`."""
    _applied_as(report.kind, outcome.effect).inc()
    if outcome.effect is not Effect.DONE or report.kind is not ReportKind.FILL:
        return
    order = outcome.order
    _log.info(
        "fill",
        order_id=report.order_id,
        account=report.account,
        symbol=report.symbol,
        side=report.side,
        quantity=report.quantity,
        price=report.price,
        fill_id=report.exec_id,
        sequence=report.stream_seq,
    )
    flags = []
    if order is None:
        flags.append("unknown")
    else:
        if order.state in _ENDED:
            flags.append("late")
        if order.cumulative > order.terms.quantity:
            flags.append("overfill")
    for flag in flags:
        _flagged.labels(flag).inc()
        _log.warning("unexpected fill", flag=flag, order_id=report.order_id, fill_id=report.exec_id)
