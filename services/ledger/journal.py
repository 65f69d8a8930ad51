"""Folding LEDGER: the journal of events gives every account and order again, as they are stored.

A message of LEDGER may repeat events that an earlier one brought (the relay starts again from the oldest
commit that was not acknowledged); a number that is missing never follows later, and is an error, as is an
event that cannot have followed.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from decimal import Decimal
from typing import Any

from services.ledger.account import Account
from services.ledger.codec import Commit
from services.ledger.events import Denied, Ended, Event, Reserved
from services.ledger.numbers import plain
from services.ledger.order import Order
from services.ledger.transition import AccountMissing, event_order, evolve


class JournalGap(Exception):
    """Events of an account are missing in the journal.

    The next one has a later number than is to follow, or tells of something that the account does not have.
    """


@dataclass(frozen=True, slots=True)
class Step:
    """One event that was new: its number, and what it led to."""

    seq: int
    time_ns: int
    event: Event
    account: Account
    order: Order | None


@dataclass(slots=True)
class FoldedAccount:
    """An account and its orders by id."""

    account: Account
    orders: dict[str, Order] = field(default_factory=dict)
    tombstones: set[str] = field(default_factory=set)
    """Ids of orders that were given up before their reservation came."""
    clients: dict[str, str] = field(default_factory=dict)
    """Order ids by client order id."""


def is_tombstone(event: Event) -> bool:
    """Whether the event's order exists only for a late reservation to meet."""
    return isinstance(event, Denied) and event.abandoned


def client_change(event: Event, order: Order | None) -> tuple[str, str | None]:
    """A client order id and the order that holds it after `event`; None: it is free, because its order was
    given up (a time-out is no outcome). An empty id: nothing changes. `order` is the event's order."""
    if isinstance(event, Ended) and event.abandoned:
        return (order.client_order_id if order is not None else ""), None
    if isinstance(event, (Reserved, Denied)):
        return event.order.client_order_id, None if is_tombstone(event) else event.order.order_id
    return "", None


class Journal:
    """The fold of LEDGER's messages in the order of the stream."""

    def __init__(self) -> None:
        self.accounts: dict[str, FoldedAccount] = {}
        self.repeated = 0
        """Events that were skipped because they had been folded before."""

    def apply(self, commit: Commit) -> list[Step]:
        """Folds a commit; returns the events that were new.

        Raises `JournalGap`; then nothing of the commit is folded.
        """
        held = self.accounts.get(commit.account)
        account = held.account if held is not None else None
        known: Mapping[str, Order] = held.orders if held is not None else {}
        changed: dict[str, Order] = {}
        steps: list[Step] = []
        repeated = 0
        for seq, event in enumerate(commit.events, commit.seq):
            last = account.event_seq if account is not None else 0
            if seq <= last:
                repeated += 1
                continue
            if seq != last + 1:
                raise JournalGap(f"account {commit.account}: event {seq} follows event {last}")
            name = event_order(event)
            try:
                account, order = evolve(
                    account, changed.get(name) or known.get(name), event, commit.time_ns, commit.account
                )
            except (ValueError, AccountMissing) as error:
                raise JournalGap(
                    f"account {commit.account}: event {seq} cannot follow event {last}: {error}"
                ) from error
            if order is not None:
                changed[order.order_id] = order
            steps.append(Step(seq, commit.time_ns, event, account, order))
        self.repeated += repeated
        if account is not None and steps:
            if held is None:
                held = self.accounts[commit.account] = FoldedAccount(account)
            held.account = account
            held.orders.update(changed)
            for step in steps:
                _index(held, step)
        return steps


def _index(held: FoldedAccount, step: Step) -> None:
    if is_tombstone(step.event):
        held.tombstones.add(event_order(step.event))
    client_id, holder = client_change(step.event, step.order)
    if client_id and holder is None:
        held.clients.pop(client_id, None)
    elif client_id and holder is not None:
        held.clients[client_id] = holder


def differences(folded: FoldedAccount, stored: FoldedAccount) -> list[str]:
    """Every field in which a folded account and its stored form differ, as sentences.

    Ended orders that are no longer stored do not count; every order that is stored, and every open one, does.
    """
    found = list(_unequal(f"account {folded.account.account}", folded.account, stored.account))
    for order_id, order in folded.orders.items():
        if order_id in stored.orders:
            found += _unequal(f"order {order_id}", order, stored.orders[order_id])
        elif order.is_open:
            found.append(f"order {order_id} is open in the journal and not stored")
    for order_id in stored.orders.keys() - folded.orders.keys():
        found.append(f"order {order_id} is stored and not in the journal")
    return found


def fingerprint(accounts: Iterable[Account], orders: Iterable[Order]) -> str:
    """A hash of accounts and orders that is equal when all their fields are, however numbers are written."""
    lines = [repr(_canonical(account)) for account in sorted(accounts, key=lambda a: a.account)]
    lines += [repr(_canonical(order)) for order in sorted(orders, key=lambda o: o.order_id)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _unequal(name: str, folded: Any, stored: Any) -> Iterable[str]:
    for part in fields(folded):
        ours, theirs = getattr(folded, part.name), getattr(stored, part.name)
        if ours != theirs:
            yield f"{name}: {part.name} is {ours!r} in the journal and {theirs!r} in the store"


def _canonical(value: Any) -> Any:
    if isinstance(value, Decimal):
        return str(plain(value))
    if isinstance(value, Mapping):
        return {key: _canonical(value[key]) for key in sorted(value)}
    if isinstance(value, tuple | list):
        return [_canonical(item) for item in value]
    if is_dataclass(value):
        return {part.name: _canonical(getattr(value, part.name)) for part in fields(value)}
    return str(value) if value is not None else None
