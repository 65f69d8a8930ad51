"""Working orders, found by the mark that makes them executable and by the time at which something is due."""

from decimal import Decimal
from heapq import heapify, heappop, heappush
from operator import attrgetter
from typing import Final, Generic, TypeVar

from services.ledger.order import Side
from services.live_gateway.orders import WorkingOrder

K = TypeVar("K", Decimal, int)

_SMALL: Final = 8
_ANY_VERSION: Final = -1

_by_arrival: Final = attrgetter("arrival")


class _Heap(Generic[K]):
    """Orders by key, then arrival. An entry is void once its order has ended or was filed anew.

    Void entries are dropped when they surface, and all together whenever the heap has doubled, so it stays
    within twice the number of valid ones.
    """

    __slots__ = ("_entries", "_limit")

    def __init__(self) -> None:
        self._entries: list[tuple[K, int, int, WorkingOrder]] = []
        self._limit = _SMALL

    def file(self, key: K, order: WorkingOrder, *, for_life: bool = False) -> None:
        """`for_life`: the entry stays valid when the order is filed anew."""
        entries = self._entries
        heappush(entries, (key, order.arrival, _ANY_VERSION if for_life else order.version, order))
        if len(entries) > self._limit:
            self._drop_void()

    def take(self, up_to: K) -> list[WorkingOrder]:
        """Removes the entries with a key ≤ `up_to`, and returns the orders of the valid ones."""
        entries, taken = self._entries, []
        while entries and entries[0][0] <= up_to:
            _, _, version, order = heappop(entries)
            if _valid(version, order):
                taken.append(order)
        return taken

    def best(self, up_to: K) -> WorkingOrder | None:
        """The order of the first valid entry with a key ≤ `up_to`, which stays; None when there is none."""
        entries = self._entries
        while entries and entries[0][0] <= up_to:
            _, _, version, order = entries[0]
            if _valid(version, order):
                return order
            heappop(entries)
        return None

    def shrink(self, valid: int) -> None:
        """Drops the void entries once they outnumber the valid ones, of which there are `valid`."""
        if len(self._entries) > max(_SMALL, 2 * valid):
            self._drop_void()

    def _drop_void(self) -> None:
        entries = self._entries
        entries[:] = [entry for entry in entries if _valid(entry[2], entry[3])]
        heapify(entries)
        self._limit = max(_SMALL, 2 * len(entries))

    def first(self) -> K | None:
        """The smallest key, of a void entry perhaps; None when the heap is empty."""
        return self._entries[0][0] if self._entries else None

    def __len__(self) -> int:
        return len(self._entries)


def _valid(version: int, order: WorkingOrder) -> bool:
    return order.working and (version == order.version or version == _ANY_VERSION)


class Book:
    """One symbol: its mark, and the orders that wait for one."""

    __slots__ = ("_any", "_falling", "_rising", "mark", "mark_ns")

    def __init__(self) -> None:
        self.mark: Decimal | None = None
        self.mark_ns = 0
        """When the mark was received, nanoseconds since the epoch."""
        self._falling: _Heap[Decimal] = _Heap()
        self._rising: _Heap[Decimal] = _Heap()
        self._any: dict[str, WorkingOrder] = {}

    def fresh_mark(self, now_ns: int, max_age_ns: int) -> Decimal | None:
        """The mark; None when there is none or it is older than `max_age_ns`."""
        return self.mark if now_ns - self.mark_ns <= max_age_ns else None

    def when_at_or_below(self, price: Decimal, order: WorkingOrder) -> None:
        """Files the order to be looked at when the mark falls to `price`."""
        self._falling.file(-price, order)

    def when_at_or_above(self, price: Decimal, order: WorkingOrder) -> None:
        """Files the order to be looked at when the mark rises to `price`."""
        self._rising.file(price, order)

    def at_next_mark(self, order: WorkingOrder) -> None:
        """Files the order to be looked at when a mark arrives."""
        self._any[order.order_id] = order

    def forget(self, order: WorkingOrder) -> None:
        """Takes the order out; to be called before it is filed anew and when it ends."""
        if self._any:
            self._any.pop(order.order_id, None)

    def take_reached(self, mark: Decimal) -> list[WorkingOrder]:
        """Removes the orders that this mark has reached; in order of arrival."""
        reached = [*self._falling.take(-mark), *self._rising.take(mark), *self._any.values()]
        self._any.clear()
        if len(reached) > 1:
            reached.sort(key=_by_arrival)
        return reached


class OwnLimits:
    """The resting limits of each account in each symbol, by price. Where none rests nothing is kept."""

    __slots__ = ("_sides",)

    def __init__(self) -> None:
        self._sides: dict[tuple[str, str, Side], _Resting] = {}

    def rests(self, order: WorkingOrder, limit: Decimal) -> None:
        """Files an order at its limit; to be called whenever it is filed in the book."""
        key = (order.account, order.symbol, order.side)
        side = self._sides.get(key)
        if side is None:
            side = self._sides[key] = _Resting()
        side.order_ids.add(order.order_id)
        side.by_price.file(-limit if order.side is Side.BUY else limit, order)

    def forget(self, order: WorkingOrder) -> None:
        """Takes an order out that has ended, whether it rested here or not."""
        key = (order.account, order.symbol, order.side)
        side = self._sides.get(key)
        if side is None or order.order_id not in side.order_ids:
            return
        side.order_ids.remove(order.order_id)
        if side.order_ids:
            side.by_price.shrink(len(side.order_ids))
        else:
            del self._sides[key]

    def crossed(self, order: WorkingOrder, limit: Decimal) -> WorkingOrder | None:
        """The best of its account's resting limits that `order` could trade against at `limit`."""
        buys = order.side is Side.BUY
        side = self._sides.get((order.account, order.symbol, Side.SELL if buys else Side.BUY))
        return None if side is None else side.by_price.best(limit if buys else -limit)

    def __len__(self) -> int:
        """Accounts, symbols and sides of which a limit rests."""
        return len(self._sides)


class _Resting:
    """The limits of one account, symbol and side."""

    __slots__ = ("by_price", "order_ids")

    def __init__(self) -> None:
        self.by_price: _Heap[Decimal] = _Heap()
        self.order_ids: set[str] = set()


class Timetable:
    """When orders expire and when their next trades are due; nanoseconds since the epoch."""

    __slots__ = ("_expiries", "_trades")

    def __init__(self) -> None:
        self._expiries: _Heap[int] = _Heap()
        self._trades: _Heap[int] = _Heap()

    def expires(self, order: WorkingOrder) -> None:
        """Files the end of the order's life; once, because it never changes."""
        self._expiries.file(order.expire_ns, order, for_life=True)

    def trades(self, order: WorkingOrder) -> None:
        """Files the order's next trade, at its `due_ns`."""
        self._trades.file(order.due_ns, order)

    def take_expired(self, now_ns: int) -> list[WorkingOrder]:
        """Removes the orders whose life is over, the earliest first."""
        return self._expiries.take(now_ns)

    def take_due(self, now_ns: int) -> list[WorkingOrder]:
        """Removes the orders whose next trade is due, the earliest first."""
        return self._trades.take(now_ns)

    def next_ns(self) -> int | None:
        """The earliest time at which something may have to be done; None: nothing is filed."""
        heads = [head for head in (self._expiries.first(), self._trades.first()) if head is not None]
        return min(heads) if heads else None
