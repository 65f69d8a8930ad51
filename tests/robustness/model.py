"""An independent model of an account: what follows from its drop copy alone.

Shares no code with the services. It knows three things: an order is entered once, trades add up, and what has
ended stays ended. Everything else (states on their way, reservations, prices) is derived here or not at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal

from tests.robustness.history import Copied, CopiedOrder, CopiedTerms

ZERO = Decimal(0)
SIGN = {"buy": 1, "sell": -1}
ENDS = frozenset({"filled", "canceled", "rejected", "expired", "denied"})
OPEN = "open"


@dataclass(slots=True)
class ModelOrder:
    """An order as the drop copy tells it. `state`: `open` or how it ended; `quantity`: the total in force."""

    order_id: str
    terms: CopiedOrder
    state: str
    quantity: Decimal
    reason: str = ""
    executed: Decimal = ZERO
    acknowledged: bool = False
    amendments: dict[int, CopiedTerms] = field(default_factory=dict)
    """Everything that was asked for, by revision."""
    revision: int = 0
    """Number of the last amendment, those included that were taken back before they came."""
    pending: int = 0
    """Revision of the amendment that is on its way; 0: none."""

    @property
    def leaves(self) -> Decimal:
        """What is still to execute; nothing once it has ended."""
        return self.quantity - self.executed if self.state == OPEN else ZERO


@dataclass(slots=True)
class AccountModel:
    """One account."""

    orders: dict[str, ModelOrder] = field(default_factory=dict)
    positions: dict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    fills: dict[str, Copied] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)

    def fold(self, events: Iterable[Copied]) -> AccountModel:
        """Applies the events in their order."""
        for event in events:
            self._apply(event)
        return self

    def leaves(self, symbol: str, side: str) -> Decimal:
        """Open quantity of one side."""
        return sum(
            (o.leaves for o in self.orders.values() if o.terms.symbol == symbol and o.terms.side == side),
            ZERO,
        )

    def _apply(self, event: Copied) -> None:
        if event.kind in ("opened", "registered", "report_ignored"):
            return
        if event.kind in ("reserved", "denied"):
            self._enter(event)
            return
        order = self.orders.get(event.order_id)
        if order is None:
            self._complain(event, "concerns an order that was never entered")
            if event.fill is not None:
                self.positions[event.fill.symbol] += SIGN[event.fill.side] * event.fill.quantity
            return
        if order.state != OPEN:
            self._complain(event, f"comes after its order ended as {order.state}")
        if event.kind == "filled":
            self._trade(event, order)
        elif event.kind == "ended":
            if event.state not in ENDS:
                self._complain(event, f"ends an order as {event.state!r}")
            order.state, order.reason = event.state, event.reason
        elif event.kind == "acknowledged":
            if order.acknowledged:
                self._complain(event, "acknowledges an order again")
            order.acknowledged = True
        elif event.kind in ("replace_requested", "replaced", "replace_rejected"):
            self._amend(event, order)

    def _enter(self, event: Copied) -> None:
        if event.order is None:
            self._complain(event, "enters an order without its terms")
        elif event.order_id in self.orders:
            self._complain(event, "enters an order again")
        else:
            state = OPEN if event.kind == "reserved" else "denied"
            terms = event.order
            self.orders[event.order_id] = ModelOrder(
                event.order_id, terms, state, terms.quantity, event.reason
            )

    def _amend(self, event: Copied, order: ModelOrder) -> None:
        fresh = not order.pending and event.revision > order.revision
        if event.kind == "replace_requested":
            # What is on its way may be asked of the venue again, with the same terms.
            again = event.revision == order.pending and event.terms == order.amendments[order.pending]
            if event.terms is None or not (fresh or again):
                self._complain(event, f"asks for revision {event.revision} without terms, anew or too soon")
                return
            order.amendments[event.revision] = event.terms
            order.pending = order.revision = event.revision
            return
        if event.kind == "replace_rejected" and fresh:
            # Taken back before it came: its number is used.
            order.revision = event.revision
            return
        if event.revision != order.pending:
            self._complain(event, f"answers revision {event.revision}, on its way is {order.pending}")
            return
        if event.kind == "replaced":
            order.quantity = order.amendments[event.revision].quantity
        order.pending = 0

    def _trade(self, event: Copied, order: ModelOrder) -> None:
        fill = event.fill
        if fill is None:
            self._complain(event, "is a trade without its terms")
            return
        if fill.fill_id in self.fills:
            self._complain(event, f"books trade {fill.fill_id} again")
        self.fills[fill.fill_id] = event
        order.executed += fill.quantity
        self.positions[fill.symbol] += SIGN[fill.side] * fill.quantity
        if (fill.symbol, fill.side) != (order.terms.symbol, order.terms.side):
            self._complain(event, "trades another symbol or side than its order")
        if order.executed > order.quantity:
            self._complain(event, f"executes {order.executed} of {order.quantity}")
        if order.executed == order.quantity:
            order.state = "filled"

    def _complain(self, event: Copied, what: str) -> None:
        self.complaints.append(f"event {event.sequence} ({event.kind} {event.order_id}) {what}")
