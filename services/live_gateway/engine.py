"""The matching engine: a pure, deterministic function of what it is told, in the order in which it is told.

Inputs are orders, cancels, amendments, marks and the time; outputs are decisions and the state that has to
be journaled with them (`take_changes`). It reads no clock and does no input or output. Liquidity is
unlimited: what the mark allows is executed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Final

from services.ledger.numbers import ZERO
from services.ledger.order import TERMINAL, OrderState, Side, Terms, TimeInForce
from services.live_gateway.book import Book, OwnLimits, Timetable
from services.live_gateway.decisions import Decisions
from services.live_gateway.memory import OrderMemory
from services.live_gateway.orders import (
    AT_ONCE,
    PRICED,
    Changes,
    Position,
    Reason,
    ReportKind,
    SeenOrder,
    WorkingOrder,
)
from services.live_gateway.rules import (
    Execute,
    FillModel,
    Refuse,
    Rules,
    SelfMatch,
    fee,
    malformed,
    out_of_band,
    slice_quantity,
    stop_reached,
    verdict,
)

_END_KINDS: Final = {
    OrderState.CANCELED: ReportKind.CANCELED,
    OrderState.REJECTED: ReportKind.REJECTED,
    OrderState.EXPIRED: ReportKind.EXPIRED,
}
_AT_ONCE_REASONS: Final = {
    TimeInForce.IOC: Reason.IMMEDIATE_OR_CANCEL,
    TimeInForce.FOK: Reason.FILL_OR_KILL,
}


class Engine:
    """The venue's state and its rules. All times are nanoseconds since the epoch, UTC."""

    def __init__(self, venue: str, rules: Rules, memory: OrderMemory, next_number: int = 1) -> None:
        """`venue` and a number make an exec id; the pair is used once, so `next_number` is journaled."""
        self._rules = rules
        self._memory = memory
        self._timetable = Timetable()
        self._arrivals = 0
        self._told = Decisions(venue, next_number)
        self.books: Final = {symbol: Book() for symbol in rules.instruments}
        self._own_limits = OwnLimits()
        self.working: Final[dict[str, WorkingOrder]] = {}
        self.positions: Final[dict[tuple[str, str], Position]] = {}

    def restore(
        self,
        working: Iterable[WorkingOrder],
        positions: Mapping[tuple[str, str], Position],
        marks: Mapping[str, tuple[Decimal, int]],
    ) -> None:
        """Takes over what was journaled; to be called once, before anything else."""
        self.positions.update(positions)
        for symbol, (mark, ns) in marks.items():
            if symbol in self.books:
                self.books[symbol].mark, self.books[symbol].mark_ns = mark, ns
        for order in sorted(working, key=lambda order: order.arrival):
            order.working = True
            self._arrivals = order.arrival
            self.working[order.order_id] = order
            if order.expire_ns:
                self._timetable.expires(order)
            self._file(order)

    def take_changes(self) -> Changes:
        """What happened since the last call. To be journaled whole before any of it is told."""
        return self._told.take()

    @property
    def next_number(self) -> int:
        """Of the next exec id; to be journaled."""
        return self._told.next_number

    @property
    def undisclosed(self) -> int:
        """Decisions that `take_changes` will return."""
        return len(self._told.changes.decisions)

    @property
    def unjournaled(self) -> int:
        """Records of seen orders that `take_changes` will return."""
        return len(self._told.changes.seen)

    def next_ns(self) -> int | None:
        """When `advance` has to be called next; None: not before something else happens."""
        return self._timetable.next_ns()

    def without_mark(self, now_ns: int) -> list[str]:
        """Symbols that have no fresh mark."""
        return [symbol for symbol in self.books if self._fresh_mark(symbol, now_ns) is None]

    def submit(self, order: WorkingOrder, now_ns: int) -> Reason | None:
        """A new order. An id that was ever seen changes nothing and is not answered again.

        Returns what is wrong with it when it is malformed (it is rejected then), else None.
        """
        if order.order_id in self.working:
            return None
        seen = self._memory.recall(order.order_id)
        if seen is not None:
            if seen.state in TERMINAL:
                return None
            order.cumulative = seen.cumulative  # its journal was lost: it goes on where its reports stand
        self._arrivals += 1
        order.arrival = self._arrivals
        wrong = malformed(order.order_type, order.terms, self._rules.instruments.get(order.symbol))
        if wrong is not None:
            self._end(order, OrderState.REJECTED, now_ns, wrong)
        elif self._executed(order.sibling):
            self._end(order, OrderState.CANCELED, now_ns, Reason.SIBLING_EXECUTED)
        elif order.expire_ns and order.expire_ns <= now_ns:
            self._end(order, OrderState.EXPIRED, now_ns)
        elif order.leaves <= 0:
            self._end(order, OrderState.CANCELED, now_ns, Reason.TERMS_LOST)
        else:
            self._work(order, now_ns, arriving=True)
        return wrong

    def submit_pair(self, first: WorkingOrder, second: WorkingOrder, now_ns: int) -> Reason | None:
        """Two new orders of which one cancels the other: the first trade of one ends the other before
        anything else happens. An end without execution leaves the other one working.

        Returns what is wrong with the first that is malformed, else None.
        """
        first.sibling, second.sibling = second.order_id, first.order_id
        wrong = self.submit(first, now_ns)
        return self.submit(second, now_ns) or wrong

    def cancel(self, account: str, order_id: str, number: int, now_ns: int) -> None:
        """The `number`-th request to cancel an order; a number that was answered changes nothing.

        A cancel of an order never seen is remembered: should the order arrive later, it is refused.
        """
        order = self.working.get(order_id)
        if order is not None:
            if number > order.cancels:
                order.cancels = number
                self._end(order, OrderState.CANCELED, now_ns, answered=number)
            return
        seen = self._memory.recall(order_id)
        if seen is None or seen.state not in TERMINAL:
            seen = SeenOrder(OrderState.CANCELED, ZERO if seen is None else seen.cumulative, cancels=number)
            self._remember(order_id, seen)
            self._told.answer(
                ReportKind.CANCELED, account, order_id, number, now_ns, Reason.UNKNOWN_ORDER, seen
            )
        elif number > seen.cancels:
            self._remember(order_id, replace(seen, cancels=number))
            self._told.answer(ReportKind.CANCEL_REJECTED, account, order_id, number, now_ns, seen.state, seen)

    def amend(self, account: str, order_id: str, revision: int, terms: Terms, now_ns: int) -> None:
        """New terms for an order; a revision that was answered changes nothing."""
        order = self.working.get(order_id)
        if order is None:
            kind, seen = ReportKind.REPLACE_REJECTED, self._memory.recall(order_id)
            if seen is None:
                self._told.answer(kind, account, order_id, revision, now_ns, Reason.UNKNOWN_ORDER, None)
            elif revision > seen.revision:
                self._remember(order_id, replace(seen, revision=revision))
                self._told.answer(kind, account, order_id, revision, now_ns, seen.state, seen)
            return
        if revision <= order.revision:
            return
        order.revision = revision
        refusal = self._replace_refusal(order, terms, now_ns)
        if refusal is not None:
            self._told.changes.touched[order_id] = order
            self._told.report(
                order, ReportKind.REPLACE_REJECTED, now_ns, order.state, revision, refusal, order.leaves
            )
            return
        order.terms = terms
        order.passive = False
        order.slices = 0
        order.due_ns = 0
        self._told.report(order, ReportKind.REPLACED, now_ns, order.state, revision, "", order.leaves)
        self._work(order, now_ns, entering=True)

    def give_up(self, account: str, order_id: str, seen: SeenOrder, now_ns: int) -> None:
        """Ends an order whose terms were lost with a journal, unless it works or has ended since."""
        if order_id in self.working:
            return
        seen = self._memory.recall(order_id) or seen
        if seen.state not in TERMINAL:
            seen = replace(seen, state=OrderState.CANCELED)
            self._remember(order_id, seen)
            self._told.answer(ReportKind.CANCELED, account, order_id, 0, now_ns, Reason.TERMS_LOST, seen)

    def mark(self, symbol: str, price: Decimal, now_ns: int) -> None:
        """A new mark, > 0, received at `now_ns`; one of a symbol that is not traded is ignored."""
        book = self.books.get(symbol)
        if book is None:
            return
        book.mark, book.mark_ns = price, now_ns
        self._told.changes.marks[symbol] = (price, now_ns)
        for order in book.take_reached(price):
            if order.working:  # what another one's trade has ended meanwhile is not looked at
                self._work(order, now_ns)

    def advance(self, now_ns: int) -> None:
        """Does what time alone brings: orders expire, trades fall due."""
        for order in self._timetable.take_expired(now_ns):
            self._end(order, OrderState.EXPIRED, now_ns)
        for order in self._timetable.take_due(now_ns):
            if order.working:
                self._work(order, now_ns, due=True)

    def _replace_refusal(self, order: WorkingOrder, terms: Terms, now_ns: int) -> Reason | None:
        wrong = malformed(order.order_type, terms, self._rules.instruments.get(order.symbol))
        if wrong is not None:
            return wrong
        if terms.quantity <= order.cumulative:
            return Reason.ALREADY_EXECUTED
        mark = self._fresh_mark(order.symbol, now_ns)
        if terms.price is None or order.order_type not in PRICED:
            return None
        if order.awaits_trigger and (mark is None or not _triggers(order.side, terms.stop_price, mark)):
            return None
        if mark is not None and out_of_band(terms.price, mark, self._rules):
            return Reason.PRICE_OUT_OF_RANGE
        newest = self._rules.self_match is SelfMatch.CANCEL_NEWEST
        if newest and self._own_limits.crossed(order, terms.price) is not None:
            return Reason.SELF_MATCH
        return None

    def _work(
        self,
        order: WorkingOrder,
        now_ns: int,
        *,
        arriving: bool = False,
        due: bool = False,
        entering: bool = False,
    ) -> None:
        """Executes what can be executed now; the rest waits or ends.

        `entering`: its limit has not been compared with the account's other ones; true of arriving ones too.
        """
        mark = self._fresh_mark(order.symbol, now_ns)
        if order.awaits_trigger and mark is not None and _triggers(order.side, order.terms.stop_price, mark):
            order.triggered = entering = True
        found = verdict(order, mark, self._rules, arriving)
        at_once = order.time_in_force in AT_ONCE
        goes_on = not isinstance(found, Refuse) and not (at_once and found is None)
        if (arriving or entering) and goes_on and self._self_match_ends(order, now_ns):
            return
        if isinstance(found, Execute):
            delay_ns = self._rules.delay_ns
            if delay_ns and not due and not at_once:
                order.due_ns = now_ns + delay_ns
                self._rest(order, now_ns, arriving)
                return
            self._execute(order, found, now_ns)
            if not order.leaves:
                return
            if not at_once:
                order.due_ns = now_ns + delay_ns
                self._rest(order, now_ns, arriving)
                return
        elif isinstance(found, Refuse):
            state = OrderState.REJECTED if arriving and found.rejects else OrderState.CANCELED
            self._end(order, state, now_ns, found.reason)
            return
        if at_once:
            self._end(order, OrderState.CANCELED, now_ns, _AT_ONCE_REASONS[order.time_in_force])
            return
        order.due_ns = 0
        order.passive = not order.awaits_trigger
        self._rest(order, now_ns, arriving)

    def _self_match_ends(self, order: WorkingOrder, now_ns: int) -> bool:
        """Cancels the account's limits that `order` crosses; or `order` itself, and says so."""
        limit, rule = order.terms.price, self._rules.self_match
        priced = order.order_type in PRICED and not order.awaits_trigger
        if rule is SelfMatch.ALLOW or not priced or limit is None:
            return False
        while (rests := self._own_limits.crossed(order, limit)) is not None:
            if rule is SelfMatch.CANCEL_NEWEST:
                self._end(order, OrderState.CANCELED, now_ns, Reason.SELF_MATCH)
                return True
            self._end(rests, OrderState.CANCELED, now_ns, Reason.SELF_MATCH)
        return False

    def _execute(self, order: WorkingOrder, at: Execute, now_ns: int) -> None:
        """Trades: one slice where time passes between slices, all of them otherwise; all or nothing for
        FOK.
        """
        instrument = self._rules.instruments[order.symbol]
        spaced = self._rules.delay_ns > 0
        while order.leaves:
            quantity = slice_quantity(order, instrument, self._rules)
            if spaced and order.time_in_force is TimeInForce.FOK and quantity < order.leaves:
                return
            self._trade(order, quantity, at, now_ns)
            if spaced:
                return

    def _trade(self, order: WorkingOrder, quantity: Decimal, at: Execute, now_ns: int) -> None:
        price, liquidity = at.price, at.liquidity
        order.cumulative += quantity
        order.slices += 1
        leaves = order.leaves
        charged = fee(quantity, price, liquidity, self._rules)
        self._told.trade(order, quantity, price, charged, liquidity, now_ns)
        key = (order.account, order.symbol)
        position = self.positions.get(key)
        if position is None:
            position = self.positions[key] = Position()
        signed = quantity if order.side is Side.BUY else -quantity
        position.quantity += signed
        position.value += signed * price
        position.fees += charged
        position.trades += 1
        self._told.changes.positions.add(key)
        if not leaves:
            self._finish(order, OrderState.FILLED)
        sibling = self.working.get(order.sibling) if order.sibling else None
        if sibling is not None:
            # Journaled with the trade: nobody can ever see the one without the other.
            self._end(sibling, OrderState.CANCELED, now_ns, Reason.SIBLING_EXECUTED)

    def _executed(self, order_id: str) -> bool:
        """Whether an order has traded, be it working or ended."""
        known = self.working.get(order_id) or self._memory.recall(order_id)
        return known is not None and bool(known.cumulative)

    def _rest(self, order: WorkingOrder, now_ns: int, arriving: bool) -> None:
        """Leaves the order in the book, and says so when it is new."""
        if arriving:
            order.working = True
            self.working[order.order_id] = order
            if order.expire_ns:
                self._timetable.expires(order)
            # One that is known by its reports, its journal lost, was told to be accepted.
            if not order.cumulative and self._memory.recall(order.order_id) is None:
                self._told.report(order, ReportKind.ACCEPTED, now_ns, OrderState.NEW, leaves=order.leaves)
        self._told.changes.touched[order.order_id] = order
        self._file(order)

    def _file(self, order: WorkingOrder) -> None:
        """Files a working order under what it waits for."""
        order.version += 1
        book = self.books.get(order.symbol)
        if book is None:
            return  # no longer traded: it waits for its cancel or its expiry
        book.forget(order)
        terms, buys = order.terms, order.side is Side.BUY
        if order.order_type in PRICED and terms.price is not None and not order.awaits_trigger:
            self._own_limits.rests(order, terms.price)
        if order.due_ns:
            self._timetable.trades(order)
        elif order.awaits_trigger and terms.stop_price is not None:
            (book.when_at_or_above if buys else book.when_at_or_below)(terms.stop_price, order)
        elif (
            self._rules.fill_model is FillModel.MARKET
            and order.order_type in PRICED
            and terms.price is not None
        ):
            (book.when_at_or_below if buys else book.when_at_or_above)(terms.price, order)
        else:
            book.at_next_mark(order)

    def _end(
        self,
        order: WorkingOrder,
        state: OrderState,
        now_ns: int,
        reason: Reason | str = "",
        answered: int = 0,
    ) -> None:
        """Ends the order other than by execution, and reports it."""
        self._told.report(order, _END_KINDS[state], now_ns, state, answered, reason)
        self._finish(order, state)

    def _finish(self, order: WorkingOrder, state: OrderState) -> None:
        order_id = order.order_id
        if order.working:
            order.working = False
            del self.working[order_id]
            self._own_limits.forget(order)
            book = self.books.get(order.symbol)
            if book is not None:
                book.forget(order)
            self._told.changes.touched.pop(order_id, None)
            self._told.changes.removed.append(order_id)
        self._remember(order_id, SeenOrder(state, order.cumulative, order.cancels, order.revision))

    def _remember(self, order_id: str, ended: SeenOrder) -> None:
        self._memory.remember(order_id, ended)
        self._told.changes.seen[order_id] = ended

    def _fresh_mark(self, symbol: str, now_ns: int) -> Decimal | None:
        book = self.books.get(symbol)
        return None if book is None else book.fresh_mark(now_ns, self._rules.mark_max_age_ns)


def _triggers(side: Side, stop_price: Decimal | None, mark: Decimal) -> bool:
    return stop_price is not None and stop_reached(side, stop_price, mark)
