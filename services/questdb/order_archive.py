"""Ended orders as the ledger had them when their records left its memory: table `orders`, one row an order.

A row stands at the time that the order's id tells, so that one order is looked up, and a page of an account's
orders read, without looking at the rest, however many there are.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from services.ledger.codec import decode_order, encode_order
from services.ledger.order import Order, OrderState
from services.questdb.queries import read_rows, wait_applied
from services.questdb.schema import ORDERS, ensure_tables
from services.questdb.writes import insert_rows
from services.runtime.connections import QuestdbPool
from services.runtime.ids import ULID_LENGTH

_ALPHABET: Final = {letter: value for value, letter in enumerate("0123456789ABCDEFGHJKMNPQRSTVWXYZ")}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FOREIGN: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""Where orders stand whose id tells no time."""
_LAST_MS: Final = 9_000_000_000_000
_TIME_LENGTH: Final = 10


def place_of(order_id: str) -> datetime:
    """The row's time, which grows with the id: the ULID's millisecond, then its first random bits.

    With those, orders of one millisecond stand at different microseconds, but for a few.
    """
    try:
        digits = [_ALPHABET[letter] for letter in order_id[-ULID_LENGTH:].upper()]
    except KeyError:
        return _FOREIGN
    milliseconds = 0
    for digit in digits[:_TIME_LENGTH]:
        milliseconds = milliseconds << 5 | digit
    if milliseconds > _LAST_MS:
        return _FOREIGN
    chance = digits[_TIME_LENGTH] << 5 | digits[_TIME_LENGTH + 1]
    return _EPOCH + timedelta(milliseconds=milliseconds, microseconds=chance * 1000 >> 10)


class OrderArchive:
    """Stores and finds ended orders. Every call raises `psycopg.Error`, `OSError` or `TimeoutError` when
    QuestDB does not answer, and `TableSuspended`."""

    def __init__(self, pool: QuestdbPool) -> None:
        self._pool = pool
        self._table_exists = False

    async def store(self, orders: Sequence[Order]) -> None:
        """Returns when every one of `orders` can be found; repeating it is harmless."""
        if not orders:
            return
        if not self._table_exists:
            await ensure_tables(self._pool, ORDERS)
            self._table_exists = True
        try:
            await insert_rows(self._pool, ORDERS, [_row(order) for order in orders])
        except BaseException:
            self._table_exists = False
            raise
        await wait_applied(self._pool, ORDERS)

    async def find(self, order_id: str) -> Order | None:
        """The order of this id; None when it is not stored here."""
        query = f"SELECT record FROM {ORDERS.name} WHERE timestamp = %s AND order_id = %s"
        rows = await read_rows(self._pool, query, [place_of(order_id), order_id])
        return decode_order(rows[0][0].encode()) if rows else None

    async def page(self, account: str, state: OrderState | None, before: str, limit: int) -> list[Order]:
        """Up to `limit` orders of an account, in `state` if one is given, by id from the highest down; with
        `before`, an order id, only lower ones."""
        found: list[Order] = []
        place: datetime | None = None
        if before:
            place = place_of(before)
            found = [one for one in await self._at(account, state, place) if one.order_id < before]
        if len(found) < limit:
            older = await self._before(account, state, place, limit - len(found))
            if len(older) == limit - len(found):
                # The last moment may have more orders than fitted.
                last = place_of(older[-1].order_id)
                older = [one for one in older if place_of(one.order_id) > last]
                older += await self._at(account, state, last)
            found += older
        return sorted(found, key=lambda one: one.order_id, reverse=True)[:limit]

    async def _at(self, account: str, state: OrderState | None, place: datetime) -> list[Order]:
        return await self._select(account, state, "timestamp = %s", [place], "")

    async def _before(
        self, account: str, state: OrderState | None, place: datetime | None, limit: int
    ) -> list[Order]:
        """Ordered by the designated timestamp alone, which QuestDB reads backwards without sorting."""
        condition, values = ("timestamp < %s", [place]) if place is not None else ("true", [])
        return await self._select(account, state, condition, values, f"ORDER BY timestamp DESC LIMIT {limit}")

    async def _select(
        self, account: str, state: OrderState | None, condition: str, values: Sequence[Any], end: str
    ) -> list[Order]:
        of_state = "" if state is None else " AND state = %s"
        query = f"SELECT record FROM {ORDERS.name} WHERE {condition} AND account = %s{of_state} {end}"
        parameters = [*values, account, *([] if state is None else [state.value])]
        return [decode_order(record.encode()) for (record,) in await read_rows(self._pool, query, parameters)]


def _row(order: Order) -> tuple[Any, ...]:
    return (
        place_of(order.order_id),
        order.account,
        order.order_id,
        order.client_order_id,
        order.state.value,
        encode_order(order).decode(),
    )
