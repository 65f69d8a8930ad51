"""What callers want: seeded orders and groups around a mark. Some execute at once, some rest to their end."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Final, NamedTuple, TypeAlias

from tests.robustness.history import GroupIntent, Intent

SIDES: Final = ("buy", "sell")
OTHER: Final[Mapping[str, str]] = {"buy": "sell", "sell": "buy"}
SYMBOLS: Final = ("BTCUSDT", "BTCUSDT", "ETHUSDT", "SOLUSDT")
TYPES: Final = ("market", "market", "limit", "limit", "limit", "limit", "stop", "stop_limit")
ENTRIES: Final = ("market", "limit", "limit", "stop")
WAITING: Final = ("limit", "limit", "stop", "stop_limit")
"""Types of a pair's second leg; the first is a limit."""
STOPS: Final = ("stop", "stop_limit")

HOT: Final = 0.5
"""Chance of the first account."""
TOO_LARGE: Final = 0.03
OCO: Final = 0.4
"""Chance that a group is a pair, and not a bracket."""
UNNAMED: Final = 0.15
"""Chance that an order of a group has no client order id; one of them always has."""
CENT: Final = Decimal("0.01")

Wanted: TypeAlias = Intent | GroupIntent


class Distance(NamedTuple):
    """How far from the mark prices are, in hundredths of a percent, from … to."""

    limit: tuple[int, int]
    """On the far side of the mark; below 0: on the near side."""
    stop: tuple[int, int]


ANYWHERE: Final = Distance((-30, 100), (5, 500))
NEAR: Final = Distance((-3, 10), (1, 10))
"""For groups: what one order executes while the others live is what they are about."""


class Intents:
    """The wishes of one caller."""

    def __init__(
        self, name: str, choose: random.Random, accounts: Sequence[str], marks: Mapping[str, Decimal]
    ) -> None:
        self._name = name
        self._choose = choose
        self._accounts = accounts
        self._marks = marks
        self._count = 0

    def order(self) -> Intent:
        """A new order."""
        choose = self._choose
        symbol, side, kind = choose.choice(SYMBOLS), choose.choice(SIDES), choose.choice(TYPES)
        return self._order(self._account(), symbol, side, kind, self._quantity())

    def group(self) -> GroupIntent:
        """Orders that belong together: one cancels the other, or an entry brings one or two exits."""
        choose = self._choose
        account, symbol, side = self._account(), choose.choice(SYMBOLS), choose.choice(SIDES)
        quantity = self._quantity()

        def further(side: str, kind: str) -> Intent:
            smaller = quantity if choose.random() < 0.7 else max(CENT, quantity - 5 * CENT)
            return self._order(account, symbol, side, kind, smaller, NEAR)

        if choose.random() < OCO:
            second = side if choose.random() < 0.7 else OTHER[side]
            orders = [
                self._order(account, symbol, side, "limit", quantity, NEAR),
                further(second, choose.choice(WAITING)),
            ]
            return GroupIntent.of("oco", self._named(orders))
        exits = ["limit", choose.choice(STOPS)]
        choose.shuffle(exits)
        orders = [self._order(account, symbol, side, choose.choice(ENTRIES), quantity, NEAR)]
        orders += [further(OTHER[side], kind) for kind in exits[: choose.choice((1, 2, 2, 2))]]
        return GroupIntent.of("bracket", self._named(orders))

    def mistaken(self, earlier: Wanted) -> Wanted:
        """Other terms under client order ids that were used: a slip of the caller."""
        if isinstance(earlier, Intent):
            return replace(earlier, quantity=earlier.quantity + CENT)
        first, *others = earlier.orders
        if self._choose.random() < 0.5:
            return GroupIntent.of(earlier.kind, [replace(first, quantity=first.quantity + CENT), *others])
        # One of them, as it was and alone.
        return replace(next(order for order in earlier.orders if order.client_order_id), group="")

    def _account(self) -> str:
        return self._accounts[0] if self._choose.random() < HOT else self._choose.choice(self._accounts)

    def _quantity(self) -> Decimal:
        if self._choose.random() < TOO_LARGE:
            return Decimal(9_000)
        return Decimal(self._choose.randrange(1, 20)) * CENT

    def _order(
        self,
        account: str,
        symbol: str,
        side: str,
        kind: str,
        quantity: Decimal,
        distance: Distance = ANYWHERE,
    ) -> Intent:
        choose, mark = self._choose, self._marks[symbol]
        self._count += 1
        # A limit a little on the near side executes at once, one on the far side may rest to its end.
        far = mark * Decimal(choose.randrange(*distance.limit)) / 10_000
        limit = (mark - far if side == "buy" else mark + far).quantize(CENT)
        beyond = mark * Decimal(choose.randrange(*distance.stop)) / 10_000
        stop = (mark + beyond if side == "buy" else mark - beyond).quantize(CENT)
        return Intent(
            client_order_id=f"{self._name}-{self._count}",
            account=account,
            symbol=symbol,
            side=side,
            type=kind,
            quantity=quantity,
            price=limit if kind in ("limit", "stop_limit") else None,
            stop_price=stop if kind in ("stop", "stop_limit") else None,
        )

    def _named(self, orders: Sequence[Intent]) -> list[Intent]:
        names = [self._choose.random() >= UNNAMED for _ in orders]
        names[self._choose.randrange(len(names))] = True
        return [
            order if named else replace(order, client_order_id="")
            for order, named in zip(orders, names, strict=True)
        ]
