"""A batch of commands of one account, computed on one copy of its state: what becomes one commit."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from services.ledger import commands as c
from services.ledger.account import Account
from services.ledger.commands import Command, Outcome
from services.ledger.events import Event, Filled, PositionAdjusted
from services.ledger.journal import FoldedAccount, client_change, is_tombstone
from services.ledger.order import Order
from services.ledger.transition import NO_ORDERS, event_order, named_order, transition

ORDERS_KEPT: Final = 64
"""Records that an account's copy holds at most between two commits."""


@dataclass(slots=True)
class Copy:
    """The stored state of an account as of `token`, with those of its orders that were looked at.

    Orders read after the account belong to the same state as long as the token is still the stored one, and
    that is what every commit checks.
    """

    token: str = ""
    """Empty: the account is not stored."""
    account: Account | None = None
    fields: dict[bytes, bytes] = field(default_factory=dict)
    """The account as it is stored."""
    orders: dict[str, Order | None] = field(default_factory=dict)
    """By order id; None: there is no such order of this account."""
    clients: dict[str, str] = field(default_factory=dict)
    """Order ids by client order id, as far as a refused commit brought them; empty: nobody's."""
    given_up: dict[str, Order] = field(default_factory=dict)
    """What was given up last under a client order id, as far as a refused commit brought it."""

    def advanced(
        self, token: str, account: Account | None, fields: Mapping[bytes, bytes], orders: Mapping[str, Order]
    ) -> "Copy":
        """The copy after a commit; this one stays what it is, because loads on their way may look at it."""
        kept = dict(self.orders)
        for order_id, order in orders.items():
            if order.is_open:
                kept[order_id] = order
            else:
                kept.pop(order_id, None)
        if len(kept) > ORDERS_KEPT:
            for order_id in list(kept)[: len(kept) - ORDERS_KEPT]:
                del kept[order_id]
        return Copy(token, account, {**self.fields, **fields}, kept)


class Draft:
    """The commands applied one after the other; nothing is true before the commit is answered."""

    __slots__ = ("account", "before", "client_guards", "clients", "copy", "events", "given_up", "now_ns",
                 "order_guards", "orders", "results", "tombstones")  # fmt: skip

    def __init__(self, copy: Copy, now_ns: int) -> None:
        self.copy: Final = copy
        self.now_ns: Final = now_ns
        self.account = copy.account
        self.orders: dict[str, Order] = {}
        """Changed orders as they are after the batch."""
        self.before: dict[str, Order | None] = {}
        """The same orders as they were before."""
        self.events: list[Event] = []
        self.results: list[Outcome | Exception] = []
        """One a command. An exception belongs to its command alone."""
        self.order_guards: list[str] = []
        """Ids of orders taken to be new: the commit checks that."""
        self.client_guards: list[tuple[str, str]] = []
        """Client order ids taken to be free for a new order, whose id comes second."""
        self.tombstones: set[str] = set()
        """Orders denied because they were given up: kept for a late reservation to meet, not remembered
        under their client order id as an outcome, because a time-out is none."""
        self.given_up: dict[str, Order] = {}
        """The last order that was given up under a client order id, which becomes free for younger ones."""
        self.clients: dict[str, str | None] = {}
        """Who holds a client order id after the batch, as far as the batch changes it; None: nobody."""

    def apply(self, command: Command) -> None:
        """Applies `command` on top of the ones before. What it raises becomes its result."""
        try:
            known, others = self._records(command)
            step = transition(self.account, known, command, self.now_ns, others)
        except Exception as error:
            self.results.append(error)
            return
        self.results.append(step.outcome)
        if not step.events:
            return
        self.account = step.account
        self.events += step.events
        for order_id, order in step.orders.items():
            if order_id not in self.before:
                self.before[order_id] = self.copy.orders.get(order_id)
            self.orders[order_id] = order
        for event in step.events:
            self._note_client(event)

    @classmethod
    def restoring(cls, copy: Copy, folded: FoldedAccount, order_ids: Iterable[str], now_ns: int) -> "Draft":
        """Writes a folded account and some of its orders as they are, without events.

        `copy` is what of the account is written already.
        """
        draft = cls(copy, now_ns)
        draft.account = folded.account
        for order_id in sorted(order_ids):
            order = draft.orders[order_id] = folded.orders[order_id]
            draft.before[order_id] = None
            if client_id := order.client_order_id:
                holder = draft.clients[client_id] = folded.clients.get(client_id)
                if holder is None:
                    draft.given_up[client_id] = order
        draft.tombstones = folded.tombstones & draft.orders.keys()
        return draft

    def filled_symbols(self) -> dict[str, int]:
        """Symbols whose position changed, with the place of the last such event within the batch."""
        return {
            event.symbol: place
            for place, event in enumerate(self.events)
            if isinstance(event, (Filled, PositionAdjusted))
        }

    def _records(self, command: Command) -> tuple[Order | None, Mapping[str, Order]]:
        """The orders that `transition` has to know of for `command`."""
        if isinstance(command, (c.Reserve, c.Abandon)):
            return self._holder(command.order), NO_ORDERS
        if isinstance(command, (c.ReserveGroup, c.AbandonGroup)):
            held = ((order.order_id, self._holder(order)) for order in command.orders)
            return None, {order_id: order for order_id, order in held if order is not None}
        order_id = named_order(command)
        known = self._read(order_id) if order_id else None
        if known is None or known.group is None:
            return known, NO_ORDERS
        linked = ((name, self._read(name)) for name in known.group.linked)
        return known, {name: order for name, order in linked if order is not None}

    def _read(self, order_id: str) -> Order | None:
        if order_id not in self.orders and order_id not in self.copy.orders:
            raise LookupError(f"order {order_id} was not read")
        return self._order(order_id)

    def _holder(self, order: Order) -> Order | None:
        """Who holds the order id of a new order, or else its client order id; guards for what nobody seems to
        hold.

        An order that was given up holds its client order id against itself and older orders. Such a one is an
        earlier attempt that was held up: the client knows meanwhile that nothing is traded.
        """
        known = self._order(order.order_id)
        if known is not None:
            return known
        # Also when its client order id leads to another order: its own record, a tombstone, comes first.
        self.order_guards.append(order.order_id)
        client_id = order.client_order_id
        if not client_id:
            return None
        if client_id in self.clients:
            holder = self.clients[client_id]
        else:
            holder = self.copy.clients.get(client_id)
        if holder:
            return self._order(holder)
        given_up = self.given_up.get(client_id) or self.copy.given_up.get(client_id)
        if given_up is not None and given_up.order_id >= order.order_id:
            return self._order(given_up.order_id) or given_up
        if client_id not in self.clients and holder is None:
            self.client_guards.append((client_id, order.order_id))
        return None

    def _order(self, order_id: str) -> Order | None:
        return self.orders.get(order_id) or self.copy.orders.get(order_id)

    def _note_client(self, event: Event) -> None:
        if is_tombstone(event):
            self.tombstones.add(event_order(event))
        client_id, holder = client_change(event, self.orders.get(event_order(event)))
        if client_id:
            self.clients[client_id] = holder
            if holder is None:
                self.given_up[client_id] = self.orders[event_order(event)]


def named(commands: Iterable[Command], copy: Copy) -> list[str]:
    """Ids of all orders whose records `commands` are about, as far as `copy` tells."""
    names: dict[str, None] = {}
    for command in commands:
        if isinstance(command, (c.ReserveGroup, c.AbandonGroup)):
            names.update((order.order_id, None) for order in command.orders)
        elif order_id := named_order(command):
            names[order_id] = None
            order = copy.orders.get(order_id)
            if order is not None and order.group is not None:
                names.update(dict.fromkeys(order.group.linked))
    return list(names)


def preread(commands: Iterable[Command], copy: Copy) -> list[str]:
    """Ids of orders that have to be read before `commands` can be applied to `copy`.

    To be asked until there are none: only the record of an order tells which others belong to it. New orders
    are not read: that they are new is what the commit checks.
    """
    about_known = (command for command in commands if not isinstance(command, _ON_NEW_ORDERS))
    return [order_id for order_id in named(about_known, copy) if order_id not in copy.orders]


_ON_NEW_ORDERS: Final = (c.Reserve, c.Abandon, c.ReserveGroup, c.AbandonGroup)
