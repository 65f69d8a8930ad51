"""What is logged and counted of an applied report; fills by the message `fill`."""

from typing import Any, Final

from services.ledger.commands import ApplyReport, Effect, Outcome, ReportKind
from services.ledger.order import OrderState
from services.runtime.telemetry import counter, get_logger

_applied: Final = counter("oms_reports", "Venue reports by kind and what they did.", ("kind", "effect"))
_flagged: Final = counter("oms_flagged_fills", "Fills that were applied although unexpected.", ("flag",))
_log = get_logger("oms.reports")

_ENDED: Final = frozenset({OrderState.CANCELED, OrderState.REJECTED, OrderState.EXPIRED, OrderState.DENIED})


_applied_by: Final[dict[tuple[ReportKind, Effect], Any]] = {}


def note_applied(report: ApplyReport, outcome: Outcome) -> None:
    """Logs and counts an applied report; fills by the message `fill`."""
    key = (report.kind, outcome.effect)
    counted = _applied_by.get(key)
    if counted is None:
        counted = _applied_by[key] = _applied.labels(report.kind.value, outcome.effect.value)
    counted.inc()
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
