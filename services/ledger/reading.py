"""Looks at stored orders and indexes; nothing here changes an account."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from services.ledger import keys
from services.ledger.connection import Argument
from services.ledger.errors import LedgerUnavailable, NotConnected, RequestRefused, Unanswered
from services.ledger.order import Order
from services.ledger.partition import account_of
from services.ledger.store import Store, function, read_order

_OPEN_PAGE: Final = 512


@dataclass(frozen=True, slots=True)
class OrderPage:
    """Orders of one account, newest first. An empty token: there are no more."""

    orders: tuple[Order, ...]
    next_page_token: str


class Reading:
    """Reads of orders, indexes and checkpoints. Every call raises `LedgerUnavailable`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def order(self, order_id: str) -> Order | None:
        try:
            account = account_of(order_id)
        except ValueError:
            return None
        return (await self._records(account, [order_id]))[0]

    async def order_by_client_id(self, account: str, client_order_id: str) -> Order | None:
        holder = await self._request("GET", self._store.keys_of(account).client_prefix + client_order_id)
        return None if holder is None else (await self._records(account, [holder.decode()]))[0]

    async def orders(self, account: str, page_size: int, page_token: str, open_only: bool) -> OrderPage:
        held = self._store.keys_of(account)
        index = held.open if open_only else held.index
        found: list[Order] = []
        before = f"({page_token}" if page_token else "+"
        while True:
            # Records that have expired leave gaps in the index until they are forgotten.
            wanted = page_size - len(found) + 1
            ids = _texts(
                await self._request("ZRANGE", index, before, "-", "BYLEX", "REV", "LIMIT", 0, wanted)
            )
            if ids:
                found += [order for order in await self._records(account, ids) if order is not None]
                before = f"({ids[-1]}"
            if len(ids) < wanted or len(found) > page_size:
                break
        page = tuple(found[:page_size])
        return OrderPage(page, page[-1].order_id if len(found) > page_size else "")

    async def open_orders(self, account: str) -> tuple[Order, ...]:
        ids = _texts(await self._request("ZRANGE", self._store.keys_of(account).open, 0, -1))
        found: list[Order] = []
        for start in range(0, len(ids), _OPEN_PAGE):
            records = await self._records(account, ids[start : start + _OPEN_PAGE])
            found += [order for order in records if order is not None and order.is_open]
        return tuple(found)

    async def due(self, partition: int, now_ns: int, limit: int) -> tuple[Order, ...]:
        key = keys.deadline(partition)
        ids = _texts(
            await self._request("ZRANGE", key, "-inf", now_ns // 1_000_000, "BYSCORE", "LIMIT", 0, limit)
        )
        if not ids:
            return ()
        prefix = self._store.keys_of(account_of(ids[0])).order_prefix
        records = await self._request("MGET", *(prefix + order_id for order_id in ids))
        orders = (read_order(record, account_of(i)) for i, record in zip(ids, records, strict=True))
        return tuple(order for order in orders if order is not None and order.is_open)

    async def forget_ended(self, partition: int, now_ns: int, limit: int) -> int:
        return int(
            await self._request(
                "FCALL", function("forget"), 1, keys.ended(partition), now_ns // 1_000_000, limit
            )
        )

    async def checkpoint(self, partition: int) -> int:
        return int(await self._request("GET", keys.checkpoint(partition)) or 0)

    async def set_checkpoint(self, partition: int, sequence: int) -> None:
        await self._request("SET", keys.checkpoint(partition), sequence)

    async def _records(self, account: str, order_ids: Sequence[str]) -> list[Order | None]:
        prefix = self._store.keys_of(account).order_prefix
        records = await self._request("MGET", *(prefix + order_id for order_id in order_ids))
        return [read_order(record, account) for record in records]

    async def _request(self, *arguments: Argument) -> Any:
        try:
            return await self._store.reads.request(*arguments)
        except (NotConnected, Unanswered, RequestRefused) as error:
            raise LedgerUnavailable(str(error)) from error


def _texts(answer: Sequence[bytes]) -> list[str]:
    return [item.decode() for item in answer]
