"""An independent model of an account: what follows from its drop copy alone.

Shares no code with the services. It knows four things: an order is entered once, trades add up, what has
ended stays ended, and what waits does nothing until it is activated. Everything else (states on their way,
reservations, prices) is derived here or not at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal

from tests.robustness.history import Copied, CopiedOrder, CopiedTerms

ZERO = Decimal(0)
SIGN = {"buy": 1, "sell": -1}
ENDS = frozenset({"filled", "canceled", "rejected", "expired", "denied"})
OPEN = "open"


@dataclass(slots=True)
class ModelOrder:
    """An order as the drop copy tells it. `state`: `open` or how it ended; `quantity`: the total in force.

    `entered`, `first_trade`, `ended` and `activated` are numbers of events, 0 before they came.
    """

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
    entered: int = 0
    first_trade: int = 0
    ended: int = 0
    entry: ModelOrder | None = None
    """Of an exit of a bracket: the order that it waits for, or has waited for."""
    activated: int = 0

    @property
    def waits(self) -> bool:
        """It is an exit and not yet an order of the account."""
        return self.entry is not None and not self.activated and self.state == OPEN

    @property
    def leaves(self) -> Decimal:
        """What is still to execute; nothing once it has ended."""
        return self.quantity - self.executed if self.state == OPEN else ZERO

    @property
    def needs(self) -> Decimal:
        """What has to be held for it alone: its leaves; while it waits, no more than its entry executed."""
        return min(self.leaves, self.entry.executed) if self.entry is not None and self.waits else self.leaves


@dataclass(slots=True)
class AccountModel:
    """One account."""

    orders: dict[str, ModelOrder] = field(default_factory=dict)
    groups: dict[str, list[ModelOrder]] = field(default_factory=lambda: defaultdict(list))
    """By group id, in the order in which they were entered."""
    positions: dict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    fills: dict[str, Copied] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)

    def fold(self, events: Iterable[Copied]) -> AccountModel:
        """Applies the events in their order."""
        for event in events:
            self._apply(event)
        return self

    def pairs(self) -> Iterator[list[ModelOrder]]:
        """Orders of which one cancels the other: two legs, or the exits of a bracket, may be only one."""
        for members in self.groups.values():
            yield [order for order in members if order.entry is not None] or members

    def held(self, symbol: str, side: str) -> Decimal:
        """Quantity that has to be reserved on one side.

        Of a pair one executes at most: until then enough for either is held, afterwards only what that one
        still needs. All others hold their leaves.
        """
        held = ZERO
        paired: set[str] = set()
        for pair in self.pairs():
            paired.update(order.order_id for order in pair)
            executed = [order for order in pair if order.executed]
            needs = [o.needs for o in executed or pair if (o.terms.symbol, o.terms.side) == (symbol, side)]
            held += max(needs, default=ZERO)
        for order in self.orders.values():
            if order.order_id not in paired and (order.terms.symbol, order.terms.side) == (symbol, side):
                held += order.leaves
        return held

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
        if order.waits and event.kind not in ("activated", "holding_changed", "ended"):
            self._complain(event, "happens to an order that waits for its entry")
        if event.kind == "filled":
            self._trade(event, order)
        elif event.kind == "ended":
            if event.state not in ENDS:
                self._complain(event, f"ends an order as {event.state!r}")
            order.state, order.reason, order.ended = event.state, event.reason, event.sequence
        elif event.kind == "activated":
            self._activate(event, order)
        elif event.kind == "holding_changed" and not order.terms.group_id:
            self._complain(event, "moves what is held to or from an order of no group")
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
            entered = self.orders[event.order_id] = ModelOrder(
                event.order_id, terms, state, terms.quantity, event.reason, entered=event.sequence
            )
            if event.state == "waiting":
                entered.entry = self.orders.get(terms.group_id)
                if entered.entry in (None, entered):
                    self._complain(event, "waits for an entry that is not there")
            if terms.group_id:
                self.groups[terms.group_id].append(entered)

    def _activate(self, event: Copied, order: ModelOrder) -> None:
        if event.order is None or not order.waits:
            self._complain(event, "activates an order that does not wait")
            return
        if replace(event.order, quantity=order.quantity) != order.terms:
            self._complain(event, f"activates an order with other terms: {event.order}")
        order.activated, order.quantity = event.sequence, event.order.quantity

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
        order.first_trade = order.first_trade or event.sequence
        order.executed += fill.quantity
        self.positions[fill.symbol] += SIGN[fill.side] * fill.quantity
        if (fill.symbol, fill.side) != (order.terms.symbol, order.terms.side):
            self._complain(event, "trades another symbol or side than its order")
        if order.executed > order.quantity:
            self._complain(event, f"executes {order.executed} of {order.quantity}")
        if order.executed == order.quantity:
            order.state, order.ended = "filled", event.sequence

    def _complain(self, event: Copied, what: str) -> None:
        self.complaints.append(f"event {event.sequence} ({event.kind} {event.order_id}) {what}")
