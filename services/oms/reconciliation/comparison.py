"""What is compared, and when two records differ. Pure.

The three do not stand at the same report of the venue when they are read: the venue's answer names the one it
stands at, each account of the ledger the last one that it applied. Stored fills carry their sequence, so each
value is brought to the venue's sequence by the fills that lie in between. Only the venue's own reports move
that sequence on; a fill of somebody else after it is none that the venue will tell, and counts at once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, TypeAlias

from services.ledger.account import Account
from services.ledger.numbers import ZERO
from services.ledger.order import Order, OrderState

Key: TypeAlias = tuple[str, str]
"""(account, symbol)"""

QUIET_NS: Final = 15_000_000_000
"""An order that changed in the ledger so lately may still be on its way to the venue."""


@dataclass(frozen=True, slots=True)
class VenuePosition:
    """A position as the venue told it."""

    quantity: Decimal
    fills: int
    """Trades that it is the sum of."""
    sequence: int
    """Sequence in EXECUTIONS that it stands at."""


@dataclass(frozen=True, slots=True)
class StoredTrade:
    """One stored fill. `quantity` is signed."""

    account: str
    symbol: str
    quantity: Decimal
    sequence: int
    foreign: bool = False
    """Its id is none of the venue's."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One position by all three, as of `sequence`."""

    sequence: int
    ledger: Decimal
    fill_store: Decimal
    venue: Decimal
    store_gap: Decimal = ZERO
    venue_gap: Decimal = ZERO
    last_price: Decimal = ZERO
    last_adjustment: str = ""
    """The account's latest correction that is part of `ledger` and the gaps."""

    @property
    def store_difference(self) -> Decimal:
        """What the ledger has more than the fill store, beyond what was acknowledged."""
        return self.ledger - self.fill_store - self.store_gap

    @property
    def venue_difference(self) -> Decimal:
        """What the ledger has more than the venue, beyond what was acknowledged."""
        return self.ledger - self.venue - self.venue_gap

    @property
    def differs(self) -> bool:
        return bool(self.store_difference or self.venue_difference)

    def same_difference(self, other: "Compared") -> bool:
        """Whether the difference holds still."""
        return (self.store_difference, self.venue_difference) == (
            other.store_difference,
            other.venue_difference,
        )


@dataclass(frozen=True, slots=True)
class Standing:
    """An open order on one side."""

    state: OrderState
    cumulative: Decimal


@dataclass(frozen=True, slots=True)
class OrderPair:
    """One order on both sides; None: it is not open there."""

    account: str
    ledger: Standing | None
    venue: Standing | None
    updated_ns: int = 0
    """When the ledger changed it last."""


@dataclass(slots=True)
class Cut:
    """What one look at all three has found."""

    positions: dict[Key, Compared] = field(default_factory=dict)
    orders: dict[str, OrderPair] = field(default_factory=dict)
    """By order id, those that differ."""
    orders_compared: int = 0

    @property
    def differing(self) -> dict[Key, Compared]:
        return {key: one for key, one in self.positions.items() if one.differs}

    @property
    def suspects(self) -> set[str]:
        """Accounts that have to be looked at again."""
        return {account for account, _ in self.differing} | {one.account for one in self.orders.values()}


def compare_positions(
    accounts: Mapping[str, Account],
    venue: Mapping[Key, VenuePosition],
    venue_sequence: int,
    sums: Mapping[Key, Decimal],
    later: Iterable[StoredTrade],
) -> dict[Key, Compared]:
    """Every position of `accounts` that anybody has.

    `venue_sequence`: where the venue stands for positions that it does not have, at or before every other
    sequence in `venue`. `sums`: Σ of the stored fills up to it. `later`: the stored fills after it.
    """
    following: dict[Key, list[StoredTrade]] = {}
    for trade in later:
        following.setdefault((trade.account, trade.symbol), []).append(trade)
    keys = {(name, symbol) for name, account in accounts.items() for symbol in account.positions}
    keys |= {key for source in (venue, sums, following) for key in source if key[0] in accounts}
    compared: dict[Key, Compared] = {}
    for key in keys:
        account = accounts[key[0]]
        position = account.position(key[1])
        told = venue.get(key)
        sequence = told.sequence if told is not None else venue_sequence
        trades = following.get(key, ())
        stored, ahead = sums.get(key, ZERO), ZERO
        for trade in trades:
            applied = trade.sequence <= account.applied_seq
            if trade.sequence <= sequence or (trade.foreign and applied):
                stored += trade.quantity
            elif applied:
                ahead += trade.quantity
        compared[key] = Compared(
            sequence,
            position.quantity - ahead,
            stored,
            told.quantity if told is not None else ZERO,
            position.store_gap,
            position.venue_gap,
            position.last_price,
            account.last_adjustment,
        )
    return compared


def differing_orders(
    accounts: Iterable[str],
    ledger: Mapping[str, Order],
    venue: Mapping[str, tuple[str, Standing]],
    now_ns: int,
) -> dict[str, OrderPair]:
    """Orders of `accounts` that are open on one side alone, or executed to another quantity, by id.

    `ledger`: its open orders; `venue`: account and standing of the working ones. The venue was asked first.
    """
    wanted = set(accounts)
    pairs: dict[str, OrderPair] = {}
    for order_id, order in ledger.items():
        held = Standing(order.state, order.cumulative)
        _, told = venue.get(order_id, ("", None))
        if order.state is OrderState.WAITING and told is None:
            continue  # for its entry: the venue gets it afterwards
        on_its_way = now_ns - order.updated_ns < QUIET_NS
        if not on_its_way and (told is None or told.cumulative != order.cumulative):
            pairs[order_id] = OrderPair(order.account, held, told, order.updated_ns)
    for order_id, (account, told) in venue.items():
        if order_id not in ledger and account in wanted:
            pairs[order_id] = OrderPair(account, None, told)
    return pairs


def confirmed_positions(first: Cut, second: Cut) -> dict[Key, Compared]:
    """Differences that both cuts show, with the values of the second."""
    before = first.differing
    return {key: one for key, one in second.differing.items() if key in before}


def confirmed_orders(first: Cut, second: Cut) -> dict[str, OrderPair]:
    """Differences of orders that both cuts show in the same way."""
    return {order_id: one for order_id, one in second.orders.items() if first.orders.get(order_id) == one}
