"""Looks at stored orders and indexes, and lets ended orders go; nothing here changes an account."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from services.ledger import keys
from services.ledger.codec import encode_memory
from services.ledger.connection import Argument
from services.ledger.errors import LedgerUnavailable, NotConnected, RequestRefused, Unanswered
from services.ledger.order import Order
from services.ledger.partition import account_of
from services.ledger.store import Store, function, load_if_lost, read_holder, read_order

_OPEN_PAGE: Final = 512
_ENDED_PAGE: Final = 250
"""Ended orders that the server works on at once; everybody else waits so long."""


@dataclass(frozen=True, slots=True)
class OrderPage:
    """Orders of one account, newest first. An empty token: there are no more."""

    orders: tuple[Order, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class DueOrder:
    """An order whose time has come, as it stands in the deadline index."""

    order_id: str
    due_ms: int
    """Milliseconds since the epoch; changes when the order does."""
    order: Order | None
    """None: its record is not there."""


@dataclass(frozen=True, slots=True)
class EndedOrder:
    """An order that has ended, as it stands in the set of those that may go."""

    order_id: str
    score: str
    """Changes when the order does."""
    order: Order | None
    """None: its record is not there."""


class Reading:
    """Orders, indexes and checkpoints. Every call raises `LedgerUnavailable`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def order(self, order_id: str) -> Order | None:
        try:
            account = account_of(order_id)
        except ValueError:
            return None
        return (await self._records(account, [order_id]))[0]

    async def order_by_client_id(self, account: str, client_order_id: str) -> Order | None:
        await self._ensure(self._store.keys_of(account).partition)
        holder = await self._request("GET", self._store.keys_of(account).client_prefix + client_order_id)
        if holder is None:
            return None
        order_id, kept = read_holder(holder, None, account, client_order_id)
        return kept or (await self._records(account, [order_id]))[0]

    async def orders(self, account: str, page_size: int, page_token: str, open_only: bool) -> OrderPage:
        held = self._store.keys_of(account)
        await self._ensure(held.partition)
        index = held.open if open_only else held.index
        found: list[Order] = []
        before = f"({page_token}" if page_token else "+"
        while True:
            # A record may go between the two reads.
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
        await self._ensure(self._store.keys_of(account).partition)
        ids = _texts(await self._request("ZRANGE", self._store.keys_of(account).open, 0, -1))
        found: list[Order] = []
        for start in range(0, len(ids), _OPEN_PAGE):
            records = await self._records(account, ids[start : start + _OPEN_PAGE])
            found += [order for order in records if order is not None and order.is_open]
        return tuple(found)

    async def due(self, partition: int, now_ns: int, limit: int, skip: int) -> tuple[DueOrder, ...]:
        await self._ensure(partition)
        page = ("BYSCORE", "LIMIT", skip, limit, "WITHSCORES")
        found = await self._request("ZRANGE", keys.deadline(partition), "-inf", now_ns // 1_000_000, *page)
        if not found:
            return ()
        entries = [(order_id.decode(), int(due_ms)) for order_id, due_ms in found]
        prefix = self._store.keys_of(account_of(entries[0][0])).order_prefix
        records = await self._request("MGET", *(prefix + order_id for order_id, _ in entries))
        return tuple(
            DueOrder(order_id, due_ms, read_order(record, account_of(order_id)))
            for (order_id, due_ms), record in zip(entries, records, strict=True)
        )

    async def put_off(self, partition: int, due: DueOrder, until_ns: int) -> bool:
        key = keys.deadline(partition)
        until_ms = until_ns // 1_000_000
        return bool(await self._function("put_off", key, due.order_id, due.due_ms, until_ms, named=1))

    async def ended(self, partition: int, kept_ms: int, limit: int) -> tuple[EndedOrder, ...]:
        await self._ensure(partition)
        answer = await self._function(
            "ended", keys.ended(partition), keys.outbox(partition), kept_ms, limit, named=2
        )
        ids, scores = _texts(answer[::2]), _texts(answer[1::2])
        found: list[EndedOrder] = []
        for start in range(0, len(ids), _ENDED_PAGE):
            chunk = ids[start : start + _ENDED_PAGE]
            prefix = self._store.keys_of(account_of(chunk[0])).order_prefix
            records = await self._request("MGET", *(prefix + order_id for order_id in chunk))
            for order_id, score, record in zip(chunk, scores[start:], records, strict=False):
                found.append(EndedOrder(order_id, score, read_order(record, account_of(order_id))))
        return tuple(found)

    async def retire(self, partition: int, ended: Sequence[EndedOrder]) -> int:
        retired = 0
        for start in range(0, len(ended), _ENDED_PAGE):
            chunk = ended[start : start + _ENDED_PAGE]
            prefix = self._store.keys_of(account_of(chunk[0].order_id)).order_prefix
            arguments: list[Argument] = [prefix]
            for one in chunk:
                client, memory = "", b""
                if one.order is not None and one.order.client_order_id:
                    held = self._store.keys_of(one.order.account)
                    client, memory = held.client_prefix + one.order.client_order_id, encode_memory(one.order)
                arguments += (one.order_id, one.score, client, memory)
            retired += int(await self._function("retire", keys.ended(partition), *arguments, named=1))
        return retired

    async def checkpoint(self, partition: int) -> int:
        await self._ensure(partition)
        return int(await self._request("GET", keys.checkpoint(partition)) or 0)

    async def set_checkpoint(self, partition: int, sequence: int, life: str) -> None:
        if self._store.reads.life != life:
            raise LedgerUnavailable("the data may have lost what came before")
        await self._request("SET", keys.checkpoint(partition), sequence)

    async def _ensure(self, partition: int) -> None:
        """Returns when the partition may be shown."""
        try:
            await self._store.continuity.ensure(partition)
        except (NotConnected, Unanswered, RequestRefused) as error:
            raise LedgerUnavailable(str(error)) from error

    async def _records(self, account: str, order_ids: Sequence[str]) -> list[Order | None]:
        held = self._store.keys_of(account)
        await self._ensure(held.partition)
        prefix = held.order_prefix
        records = await self._request("MGET", *(prefix + order_id for order_id in order_ids))
        return [read_order(record, account) for record in records]

    async def _function(self, name: str, *arguments: Argument, named: int) -> Any:
        """Calls a function of the library, which is loaded again if the server has lost it."""
        try:
            return await self._store.reads.request("FCALL", function(name), named, *arguments)
        except RequestRefused as error:
            if not await load_if_lost(self._store.reads, error):
                raise LedgerUnavailable(str(error)) from error
        except (NotConnected, Unanswered) as error:
            raise LedgerUnavailable(str(error)) from error
        return await self._request("FCALL", function(name), named, *arguments)

    async def _request(self, *arguments: Argument) -> Any:
        try:
            return await self._store.reads.request(*arguments)
        except (NotConnected, Unanswered, RequestRefused) as error:
            raise LedgerUnavailable(str(error)) from error


def _texts(answer: Sequence[bytes]) -> list[str]:
    return [item.decode() for item in answer]
