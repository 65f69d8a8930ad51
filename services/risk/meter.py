"""What is measured and logged of every check and reservation."""

import asyncio
from collections import Counter
from typing import Final

from services.ledger.order import Order
from services.risk.checks import Verdict
from services.risk.encode import approved
from services.risk.engine import Answer, NotReserved, Reservation, Reserved
from services.runtime.telemetry import counter, get_logger, histogram

_latency: Final = histogram(
    "risk_check_latency_ms", "From the request's arrival in the service to its verdict, in ms", ("kind",)
)
_verdicts: Final = counter("risk_checks", "Verdicts", ("kind", "verdict", "reason"))
_breaches: Final = counter("risk_check_sla_breaches", "Checks slower than performance.latency_sla_ms")
_alerts: Final = counter(
    "risk_check_latency_alerts", "Checks slower than monitoring.latency_alert_threshold_ms"
)
_PASSED: Final = ("check", "approved", "")
_FOLD_SEC: Final = 0.25
_log = get_logger("risk.check")


class Meter:
    """Metrics and log lines of one worker. Times in milliseconds."""

    def __init__(self, sla_ms: float, alert_ms: float) -> None:
        self._sla_ms = sla_ms
        self._alert_ms = alert_ms
        self._dry = _latency.labels("check")
        self._reserve = _latency.labels("reserve")
        self._verdicts: Counter[tuple[str, str, str]] = Counter()

    def checked(self, account: str, symbol: str, verdict: Verdict, took_ms: float) -> None:
        """A dry check: counted, and logged only for who looks closely."""
        self._dry.observe(took_ms)
        self._verdicts[_PASSED if verdict.approved else ("check", "denied", verdict.reason)] += 1
        if took_ms > self._sla_ms:
            self._slow("check", account, symbol, took_ms, "")
        _log.debug(
            "check request",
            kind="check",
            account=account,
            symbol=symbol,
            verdict="approved" if verdict.approved else "denied",
            reason=verdict.reason,
            latency_ms=took_ms,
        )

    def reserved(self, reservation: Reservation, answer: Answer, took_ms: float) -> None:
        """A reservation: one line an order, whatever became of it."""
        for order in (reservation.order, *reservation.further):
            self._reserved(order, answer, took_ms)

    def _reserved(self, order: Order, answer: Answer, took_ms: float) -> None:
        verdict, reason = _outcome(answer)
        self._reserve.observe(took_ms)
        self._verdicts["reserve", verdict, reason] += 1
        if took_ms > self._sla_ms:
            self._slow("reserve", order.account, order.symbol, took_ms, order.order_id)
        _log.info(
            "check request",
            kind="reserve",
            order_id=order.order_id,
            account=order.account,
            symbol=order.symbol,
            verdict=verdict,
            reason=reason,
            latency_ms=round(took_ms, 3),
        )

    def fold(self) -> None:
        """Writes the counts to where they can be read: a count costs microseconds there, an addition none."""
        counted, self._verdicts = self._verdicts, Counter()
        for labels, count in counted.items():
            _verdicts.labels(*labels).inc(count)

    async def run(self) -> None:
        """Folds until cancelled, and once more then."""
        try:
            while True:
                await asyncio.sleep(_FOLD_SEC)
                self.fold()
        finally:
            self.fold()

    def _slow(self, kind: str, account: str, symbol: str, took_ms: float, order_id: str) -> None:
        _breaches.inc()
        if took_ms > self._alert_ms:
            _alerts.inc()
        _log.warning(
            "slow check",
            kind=kind,
            order_id=order_id,
            account=account,
            symbol=symbol,
            latency_ms=round(took_ms, 3),
            latency_sla_ms=self._sla_ms,
        )


def _outcome(answer: Answer) -> tuple[str, str]:
    """(verdict, reason) as logged: approved, denied, unknown or error."""
    if isinstance(answer, NotReserved):
        return "denied", answer.verdict.reason
    if not isinstance(answer, Reserved):
        return "unknown", type(answer).__name__.lower()
    outcome = answer.outcome
    if approved(outcome):
        return "approved", ""
    if outcome.refusal is not None:
        return "denied", outcome.refusal.reason
    if outcome.order is not None and outcome.effect in ("done", "repeated"):
        return "denied", outcome.order.reason
    return "error", outcome.effect.value
