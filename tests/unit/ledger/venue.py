"""A seeded stream of commands against accounts, as clients and a venue with bad manners would send them.

The generator keeps its own simple ledger of what must be true (`Expected`), computed from the fills alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal

from services.ledger.account import Account
from services.ledger.commands import ApplyReport, Command, RepeatAmend, ReportKind
from services.ledger.order import Order, Side
from tests.unit.ledger.making import (
    abandon,
    abandon_amend,
    abandon_group,
    amend,
    fill,
    grouped,
    hold_price,
    make_order,
    refuse,
    report,
    request_cancel,
    reserve,
    reserve_group,
)

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")


@dataclass
class Expected:
    """What the fills alone say about one account."""

    executions: dict[str, ApplyReport] = field(default_factory=dict)

    def quantity(self, symbol: str) -> Decimal:
        signed = (
            f.quantity if f.side is Side.BUY else -f.quantity
            for f in self.executions.values()
            if f.symbol == symbol
        )
        return sum(signed, Decimal(0))

    def cash_spent(self) -> Decimal:
        values = (
            (f.quantity * f.price if f.side is Side.BUY else -f.quantity * f.price) + f.fee
            for f in self.executions.values()
        )
        return sum(values, Decimal(0))


class Traffic:
    """Random commands for one account. `sequence` numbers the reports of all accounts of a stream."""

    def __init__(self, account: str, rng: random.Random, sequence: Iterator[int]) -> None:
        self.account = account
        self.rng = rng
        self.sequence = sequence
        self.orders: list[Order] = []
        self.groups: list[tuple[Order, ...]] = []
        self.revisions: dict[str, int] = {}
        self.reports: list[ApplyReport] = []
        self.expected = Expected()

    def client_command(self) -> Command:
        """Something that a client, or a worker on its behalf, asks for."""
        rng = self.rng
        choice = rng.random()
        if choice < 0.45 or not self.orders:
            return reserve(self._new_order(), refuse if rng.random() < 0.1 else hold_price)
        order = rng.choice(self.orders[-20:])
        if choice < 0.5:
            return self._group_command()
        if choice < 0.55:
            return reserve(order) if order.group is None else self._group_command()
        if choice < 0.65:
            return abandon(order if order.group is None and rng.random() < 0.5 else self._new_order())
        if choice < 0.8:
            return request_cancel(order, again=rng.random() < 0.3)
        last = self.revisions.get(order.order_id, 0)
        if choice < 0.84:
            return abandon_amend(order, last + (rng.random() < 0.3))
        if choice < 0.88:
            return RepeatAmend(order.account, order.order_id, last)
        revision = self.revisions[order.order_id] = self.revisions.get(order.order_id, 0) + 1
        return amend(order, revision, self._number(1, 40), self._number(50, 150))

    def _group_command(self) -> Command:
        rng = self.rng
        if self.groups and rng.random() < 0.4:
            group = rng.choice(self.groups[-5:])
            return abandon_group(group) if rng.random() < 0.5 else reserve_group(group)
        first = self._new_order()
        other = {Side.BUY: Side.SELL, Side.SELL: Side.BUY}[first.side]
        pair = rng.random() < 0.5
        further = [
            replace(self._new_order(), symbol=first.symbol, side=first.side if pair else other)
            for _ in range(1 if pair else rng.choice([1, 2]))
        ]
        group = grouped(first, *further)
        self.orders[-len(group) :] = group
        self.groups.append(group)
        return reserve_group(group, refused=rng.random() < 0.1)

    def venue_report(self) -> ApplyReport:
        """The next report of the stream: new, repeated under its own number, or under a new one."""
        rng = self.rng
        if self.reports and rng.random() < 0.1:
            return rng.choice(self.reports[-10:])
        if self.reports and rng.random() < 0.1:
            old = rng.choice(self.reports[-10:])
            return self._sent(_renumbered(old, next(self.sequence)))
        order = rng.choice(self.orders[-30:]) if self.orders and rng.random() < 0.95 else self._new_order()
        seq = next(self.sequence)
        choice = rng.random()
        if choice < 0.55:
            price, fee = self._number(50, 150), self._number(0, 2)
            made = fill(order, seq, self._number(1, 30), price, fee, exec_id=f"{self.account}-e{seq}")
        elif choice < 0.7:
            made = report(ReportKind.ACCEPTED, order, seq)
        else:
            kind = rng.choice([k for k in ReportKind if k is not ReportKind.FILL])
            made = report(kind, order, seq, revision=self.revisions.get(order.order_id, 0))
        return self._sent(made)

    def _sent(self, made: ApplyReport) -> ApplyReport:
        self.reports.append(made)
        if made.kind is ReportKind.FILL:
            self.expected.executions.setdefault(made.exec_id, made)
        return made

    def _new_order(self) -> Order:
        rng = self.rng
        reused = rng.random() < 0.1 and self.orders
        order = make_order(
            self.account,
            self._number(1, 30),
            side=rng.choice([Side.BUY, Side.SELL]),
            price=self._number(50, 150),
            symbol=rng.choice(SYMBOLS),
            client_order_id=rng.choice(self.orders).client_order_id if reused else None,
        )
        self.orders.append(order)
        return order

    def _number(self, low: int, high: int) -> Decimal:
        places = self.rng.choice([0, 2, 8, 18])
        return Decimal(self.rng.randint(low * 10**places, high * 10**places)).scaleb(-places)


def _renumbered(old: ApplyReport, seq: int) -> ApplyReport:
    return replace(old, stream_seq=seq)


def broken_invariants(account: Account, orders: list[Order], expected: Expected) -> list[str]:
    """Everything that is not as it must be, as sentences. `orders` has at least every open order."""
    wrong = []

    def must(what: str, found: object, wanted: object) -> None:
        if found != wanted:
            wrong.append(f"{account.account}: {what} is {found}, expected {wanted}")

    must("cash", account.cash, account.opening_cash - expected.cash_spent())
    positions = account.positions.values()
    realised = sum((p.realised - p.fees for p in positions), Decimal(0))
    cost = sum((p.cost for p in positions), Decimal(0))
    must("realised - fees", realised, account.cash - account.opening_cash + cost)
    must("open orders", account.open_orders, sum(order.counts_as_open for order in orders))
    for symbol in SYMBOLS:
        position = account.position(symbol)
        must(f"{symbol} quantity", position.quantity, expected.quantity(symbol))
        held = [order for order in orders if order.is_open and order.symbol == symbol]
        for side, quantity, value in (
            (Side.BUY, position.open_buy, position.buy_value),
            (Side.SELL, position.open_sell, position.sell_value),
        ):
            mine = [order for order in held if order.side is side]
            must(f"{symbol} open {side}", quantity, sum((o.reserved_quantity for o in mine), Decimal(0)))
            wanted = sum((o.reserved_quantity * o.reservation.unit_value for o in mine), Decimal(0))
            must(f"{symbol} {side} value", value, wanted)
        loss = sum((o.reserved_quantity * o.reservation.unit_loss for o in held), Decimal(0))
        must(f"{symbol} adverse loss", position.adverse_loss, loss)
        fee = sum((o.reserved_quantity * o.reservation.unit_fee for o in held), Decimal(0))
        must(f"{symbol} worst fee", position.worst_fee, fee)
    for order in orders:
        if order.is_open and order.replacement is None and order.group is None:
            must(f"{order.order_id} reserved", order.reserved_quantity, order.leaves)
        must(f"{order.order_id} executions", len(order.exec_ids), len(set(order.exec_ids)))
    return wrong
