"""Finds differences between ledger, fill store and venue, and has an operator settle them.

A cut looks at all three as of one report. What differs is looked at again, from the first fill on: only what
differs then too is a break, so nothing that is merely under way is told. Every worker compares the accounts
of the partitions that it owns once an interval. Such a pass adds up only what was stored since the last one
(its checkpoint) and reads only the accounts for which the venue told new fills; every tenth pass, and the
first, reads all, and compares the open orders.
"""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Final, Protocol

from services.ledger.commands import AdjustPosition, Command, Effect, Outcome
from services.ledger.numbers import ZERO
from services.oms.reconciliation.comparison import (
    Compared,
    Cut,
    Key,
    OrderPair,
    compare_positions,
    confirmed_orders,
    confirmed_positions,
    differing_orders,
)
from services.oms.reconciliation.sources import Sources, SourceUnavailable, VenueView
from services.runtime.clock import Clock
from services.runtime.ids import new_ulid
from services.runtime.telemetry import counter, gauge, get_logger

CONFIRM_SEC: Final = 1.0
"""Time between the two cuts."""
WHOLE_EVERY: Final = 10
"""Every so many passes all accounts are read, whether or not anything happened to them."""
ADJUST_TIMEOUT_SEC: Final = 5.0

_breaks: Final = gauge("oms_reconciliation_breaks", "Differences that stand now, by kind", ("kind",))
_raised: Final = counter("oms_reconciliation_breaks_raised", "Differences found, by kind", ("kind",))
_passes: Final = counter(
    "oms_reconciliation_passes",
    "Passes by outcome: equal, breaks, or the source that did not answer",
    ("outcome",),
)
_compared: Final = gauge("oms_reconciliation_positions", "Positions that the last pass compared")
_repairs: Final = counter("oms_reconciliation_repairs", "Corrections booked for operators")
_log = get_logger("oms.reconciliation")


class Ledger(Protocol):
    """What a repair needs of the account ledger."""

    async def execute(self, command: Command, timeout: float = 1.0) -> Outcome: ...


@dataclass(frozen=True, slots=True)
class Report:
    """What was compared, and what differs."""

    compared: int
    orders_compared: int
    positions: dict[Key, Compared] = field(default_factory=dict)
    orders: dict[str, OrderPair] = field(default_factory=dict)
    stable: frozenset[Key] = frozenset()
    """Differences that were the same at both cuts."""

    @property
    def equal(self) -> bool:
        return not self.positions and not self.orders


@dataclass(frozen=True, slots=True)
class RepairOrder:
    """What an operator asks for. `price` None: that of the last fill."""

    to_venue: bool
    """Else the ledger is right."""
    price: Decimal | None
    reason: str
    requested_by: str


class NothingToRepair(Exception):
    """The position does not differ, its difference does not hold still, or another correction came first."""


class PriceMissing(Exception):
    """The position was never traded: the operator has to name a price."""


@dataclass(slots=True)
class _Checkpoint:
    """What an earlier pass has added up: Σ of the stored fills up to `sequence`, of the partitions that were
    owned then."""

    owned: frozenset[int]
    sequence: int
    sums: dict[Key, Decimal]
    told: dict[Key, int]
    """How many trades the venue had told."""


class Reconciler:
    """Compares and repairs; one a worker."""

    def __init__(
        self,
        sources: Sources,
        ledger: Ledger,
        owned: Callable[[], Collection[int]],
        interval_sec: float,
        clock: Clock,
    ) -> None:
        """`owned` tells the partitions owned now."""
        self._sources = sources
        self._ledger = ledger
        self._owned = owned
        self._interval_sec = interval_sec
        self._clock = clock
        self._checkpoint: _Checkpoint | None = None
        self._passed = 0
        self._known: set[Key | str] = set()
        """Breaks that were logged."""
        self._unavailable = ""
        self._order_breaks: dict[str, OrderPair] = {}
        """As the last pass found them that looked at orders."""

    async def run(self) -> None:
        """Passes until cancelled, the first one after an interval."""
        while True:
            await asyncio.sleep(self._interval_sec)
            try:
                await self.check()
            except SourceUnavailable as error:
                _passes.labels(error.source).inc()
                if self._unavailable != error.source:
                    self._unavailable = error.source
                    _log.warning("nothing can be reconciled now", source=error.source, error=str(error))

    async def check(self) -> Report:
        """One pass over the partitions owned; logs and counts what it finds. Raises `SourceUnavailable`."""
        owned = frozenset(self._owned())
        report = await self._pass(owned)
        self._unavailable = ""
        self._note(report)
        return report

    async def compare(self, account: str = "", symbol: str = "") -> Report:
        """Compares one account, or all, from the first fill on. Raises `SourceUnavailable`."""
        names = [account] if account else await self._sources.account_names()
        first, _ = await self._cut(await self._sources.venue(names), names)
        report = await self._confirmed(first)
        if symbol:
            positions = {key: one for key, one in report.positions.items() if key[1] == symbol}
            compared = sum(key[1] == symbol for key in first.positions)
            return Report(compared, 0, positions, {}, report.stable)
        return report

    async def repair(self, account: str, symbol: str, wanted: RepairOrder) -> AdjustPosition:
        """Books the correction of one position that differs; what was booked.

        Raises `NothingToRepair`, `PriceMissing`, `SourceUnavailable`, and an error of the ledger. To repeat
        it after an unknown outcome is harmless, and so are two at once: a position that was corrected does
        not differ, and of corrections of one difference the ledger books one.
        """
        report = await self.compare(account, symbol)
        key = (account, symbol)
        found = report.positions.get(key)
        if found is None:
            raise NothingToRepair(f"position {symbol} of account {account} does not differ")
        if key not in report.stable:
            raise NothingToRepair(
                f"the difference of position {symbol} of account {account} changes while it is looked at"
            )
        quantity = found.venue - found.ledger if wanted.to_venue else ZERO
        price = (wanted.price or found.last_price) if quantity else ZERO
        if quantity and not price:
            raise PriceMissing(f"position {symbol} of account {account} was never traded")
        after = found.ledger + quantity
        command = AdjustPosition(
            account,
            new_ulid(),
            found.last_adjustment,
            symbol,
            quantity,
            price,
            store_gap=after - found.fill_store,
            venue_gap=after - found.venue,
            reason=wanted.reason,
            requested_by=wanted.requested_by,
        )
        outcome = await self._ledger.execute(command, ADJUST_TIMEOUT_SEC)
        if outcome.effect is Effect.STALE:
            raise NothingToRepair(
                f"another correction of account {account} was booked meanwhile; compare again"
            )
        _repairs.inc()
        _log.warning(
            "position adjusted",
            account=account,
            symbol=symbol,
            quantity=quantity,
            price=price,
            reason=wanted.reason,
            requested_by=wanted.requested_by,
            adjustment_id=command.adjustment_id,
        )
        return command

    async def _pass(self, owned: frozenset[int]) -> Report:
        checkpoint = self._checkpoint
        if checkpoint is not None and checkpoint.owned != owned:
            checkpoint = None
        whole = checkpoint is None or self._passed % WHOLE_EVERY == 0
        self._passed += 1
        venue = await self._sources.venue(None, orders=whole)
        told = {key: one.fills for key, one in venue.positions.items() if self._owns(owned, key[0])}
        if whole or checkpoint is None:
            names = [name for name in await self._sources.account_names() if self._owns(owned, name)]
            names = sorted({*names, *(account for account, _ in told)})
        else:
            names = sorted({key[0] for key in told if told[key] != checkpoint.told.get(key)})
        base = (checkpoint.sequence, checkpoint.sums) if checkpoint is not None else (0, {})
        first, sums = await self._cut(venue, names, base, owned=owned, orders=whole)
        self._checkpoint = _Checkpoint(owned, venue.first, sums, told)
        report = await self._confirmed(first)
        if not whole:
            report = replace(report, orders=self._order_breaks)
        self._order_breaks = report.orders
        if not report.positions and any(symbol for _, symbol in first.differing):
            # A repeated fill replaces its row under a later sequence: the sums are made anew.
            self._checkpoint = None
        return report

    def _owns(self, owned: Collection[int], account: str) -> bool:
        return self._sources.partition_of(account) in owned

    async def _cut(
        self,
        venue: VenueView,
        names: Collection[str],
        base: tuple[int, dict[Key, Decimal]] = (0, {}),
        *,
        owned: Collection[int] | None = None,
        orders: bool = True,
    ) -> tuple[Cut, dict[Key, Decimal]]:
        """One look at the accounts `names`; the cut, and the sums as of the venue's first answer.

        `base`: a sequence, and what is added up to there. `owned`: add up every account of these partitions,
        not only `names`, and look at those too that have a fill which the venue did not tell.
        """
        accounts = await self._sources.accounts(names, venue.last)
        through = max([venue.last, *(account.applied_seq for account in accounts.values())])
        await self._sources.wait_stored(through)
        after, sums = base
        every = owned is not None or len(names) > _NAMED
        added = await self._sources.sums(after, venue.first, () if every else names)
        sums = dict(sums)
        for key, quantity in added.items():
            if owned is None or self._owns(owned, key[0]):
                sums[key] = sums.get(key, ZERO) + quantity
        later = await self._sources.trades(venue.first, through, venue.name)
        cut = Cut(compare_positions(accounts, venue.positions, venue.first, sums, later))
        if owned is not None:
            moved = {key[0] for key in added} | {trade.account for trade in later if trade.foreign}
            for name in moved - accounts.keys():
                if not self._owns(owned, name):
                    continue
                # Not read in this cut: it differs until the next one has read it.
                cut.positions[name, ""] = _UNREAD
        if orders:
            with_orders = [account.account for account in accounts.values() if account.open_orders]
            held = await self._sources.open_orders(with_orders)
            cut.orders = differing_orders(accounts, held, venue.orders, self._clock.now_ns())
            cut.orders_compared = len(held)
        return cut, sums

    async def _confirmed(self, first: Cut) -> Report:
        """What a second cut of the accounts that differ confirms."""
        compared = sum(1 for _, symbol in first.positions if symbol)
        suspects = first.suspects
        if not suspects:
            return Report(compared, first.orders_compared)
        await asyncio.sleep(CONFIRM_SEC)
        second, _ = await self._cut(await self._sources.venue(suspects), suspects)
        unread = {account for account, symbol in first.differing if not symbol}
        if unread & second.suspects:
            await asyncio.sleep(CONFIRM_SEC)
            first, (second, _) = second, await self._cut(await self._sources.venue(suspects), suspects)
        positions = confirmed_positions(first, second)
        stable = frozenset(key for key, one in positions.items() if one.same_difference(first.positions[key]))
        return Report(compared, first.orders_compared, positions, confirmed_orders(first, second), stable)

    def _note(self, report: Report) -> None:
        """Counts, and tells of each difference once."""
        _compared.set(report.compared)
        _passes.labels("equal" if report.equal else "breaks").inc()
        _breaks.labels("position").set(len(report.positions))
        _breaks.labels("order").set(len(report.orders))
        for key, one in report.positions.items():
            if key not in self._known:
                _raised.labels("position").inc()
                _log.error(
                    "position differs",
                    account=key[0],
                    symbol=key[1],
                    ledger=one.ledger,
                    fill_store=one.fill_store,
                    venue=one.venue,
                    sequence=one.sequence,
                )
        for order_id, pair in report.orders.items():
            if order_id not in self._known:
                _raised.labels("order").inc()
                _log.error(
                    "order differs",
                    account=pair.account,
                    order_id=order_id,
                    ledger=pair.ledger.state.value if pair.ledger else "not open",
                    venue=pair.venue.state.value if pair.venue else "not working",
                )
        found: set[Key | str] = {*report.positions, *report.orders}
        for gone in self._known - found:
            _log.info("difference is gone", subject=gone)
        self._known = found


_NAMED: Final = 200
"""Up to so many accounts are named in a query of the fill store."""
_UNREAD: Final = Compared(0, ZERO, ZERO, Decimal(1))
