"""The venue's metrics."""

from typing import Final

from services.runtime import metrics

received: Final = metrics.counter("live_gateway_messages", "Messages taken from stream ORDERS")
reports: Final = metrics.counter("live_gateway_reports", "Reports decided, fills included", ("kind",))
bad_ticks: Final = metrics.counter("live_gateway_bad_ticks", "Ticks that could not be read")
open_orders: Final = metrics.gauge("live_gateway_open_orders", "Working orders")
pending: Final = metrics.gauge("live_gateway_pending_messages", "Messages of ORDERS not yet taken")
trimmed: Final = metrics.counter("live_gateway_trimmed_orders", "Journaled messages removed from ORDERS")
untold: Final = metrics.gauge("live_gateway_untold_reports", "Reports not yet known to be in their streams")
decision_latency: Final = metrics.histogram(
    "live_gateway_decision_latency_ms",
    "From an order's storage in ORDERS to its decision in the journal; the oldest of each transaction",
)
commit_latency: Final = metrics.histogram("live_gateway_commit_latency_ms", "One transaction of the journal")
