"""Where the three values come from: the ledger, the fill store and the venue, each at a known report."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Final, Protocol, TypeVar

import msgspec
import psycopg
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js import JetStreamContext
from nats.js.errors import Error as JetStreamError
from nats.js.errors import NoKeysError, NotFoundError
from nats.js.kv import KeyValue

from services.ledger.account import Account
from services.ledger.errors import LedgerError
from services.ledger.order import Order, OrderState
from services.ledger.partition import partition_of
from services.messages import UNREADABLE
from services.oms.reconciliation.comparison import Key, Standing, StoredTrade, VenuePosition
from services.questdb.fill_store import DURABLE
from services.questdb.queries import TableSuspended, fill_totals, fills_between, wait_applied
from services.questdb.schema import FILLS
from services.runtime.connections import QuestdbPool
from services.runtime.nats_client import NatsClient
from services.runtime.streams import EXECUTIONS
from services.venue_queries import (
    ORDERS_SUBJECT,
    POSITIONS_SUBJECT,
    OrdersAnswer,
    OrdersRequest,
    PositionsAnswer,
    PositionsRequest,
)

FEW: Final = 16
"""Up to so many accounts the venue is asked for each alone."""
PAGE: Final = 200
"""Positions or orders in one answer of the venue: it does nothing else while it makes one."""
POLL_SEC: Final = 0.1
LEDGER_SEC: Final = 10.0
"""How long the ledger may take to apply what the venue has told."""
_ASK_SEC: Final = 2.0
_API_TIMEOUT_SEC: Final = 2.0
_AT_ONCE: Final = 64

_A = TypeVar("_A", PositionsAnswer, OrdersAnswer)


class SourceUnavailable(Exception):
    """One of the three does not answer, or lags: nothing can be said. `source` is its name."""

    def __init__(self, source: str, why: str) -> None:
        super().__init__(f"{source}: {why}")
        self.source = source


class Ledger(Protocol):
    """What reconciliation reads of the account ledger."""

    async def account(self, account: str, *, fresh: bool = False) -> Account | None: ...

    async def open_orders(self, account: str) -> tuple[Order, ...]: ...

    async def checkpoint(self, partition: int) -> int: ...


@dataclass(frozen=True, slots=True)
class VenueView:
    """What the venue told."""

    positions: Mapping[Key, VenuePosition]
    orders: Mapping[str, tuple[str, Standing]]
    """Working orders by id: account and standing."""
    name: str
    """Begins the ids of its trades."""
    first: int
    """Lowest sequence in EXECUTIONS that an answer stands at."""
    last: int
    """Highest one."""


class Sources:
    """Reads. Every call raises `SourceUnavailable` and nothing else."""

    def __init__(
        self,
        nats: NatsClient,
        ledger: Ledger,
        registry: KeyValue,
        pool: QuestdbPool,
        partitions: int,
        flush_interval_sec: float,
    ) -> None:
        """`flush_interval_sec`: how long the fill store may hold a fill."""
        self._nats = nats
        self._ledger = ledger
        self._registry = registry
        self._pool = pool
        self._partitions = partitions
        self._store_sec = 15.0 + 2 * flush_interval_sec

    @property
    def _js(self) -> JetStreamContext:
        return self._nats.jetstream(timeout=_API_TIMEOUT_SEC)

    def partition_of(self, account: str) -> int:
        """The account's partition."""
        return partition_of(account, self._partitions)

    async def account_names(self) -> list[str]:
        """Every account that was ever opened."""
        return await _of("ledger", self._names())

    async def _names(self) -> list[str]:
        try:
            return list(await self._registry.keys())
        except NoKeysError:
            return []

    async def venue(self, accounts: Collection[str] | None, *, orders: bool = True) -> VenueView:
        """Positions and, if wanted, working orders of `accounts`; None: of all."""
        return await _of("venue", self._venue(accounts, orders))

    async def _venue(self, accounts: Collection[str] | None, with_orders: bool) -> VenueView:
        answer_of_stream = await self._nats.request(
            f"$JS.API.STREAM.INFO.{EXECUTIONS}", b"", timeout=_API_TIMEOUT_SEC
        )
        created = msgspec.json.decode(answer_of_stream.data, type=_StreamInfo).created
        asked = sorted(accounts) if accounts is not None and len(accounts) <= FEW else [""]
        orders: dict[str, tuple[str, Standing]] = {}
        # Orders first: the ledger then stands at a later moment, and has what ended meanwhile.
        for account in asked if with_orders else ():
            token = ""
            while True:
                request = OrdersRequest(account=account, page_size=PAGE, page_token=token)
                told = await self._ask(ORDERS_SUBJECT, request, OrdersAnswer)
                for one in told.orders:
                    orders[one.order_id] = (one.account, Standing(OrderState(one.state), one.cumulative))
                token = told.next_page_token
                if not token:
                    break
        positions: dict[Key, VenuePosition] = {}
        sequences: list[int] = []
        name = ""
        for account in asked:
            token = ""
            while True:
                wanted = PositionsRequest(account=account, page_size=PAGE, page_token=token)
                answer = await self._ask(POSITIONS_SUBJECT, wanted, PositionsAnswer)
                if answer.executions_created != created:
                    raise SourceUnavailable("venue", "it stands at another stream EXECUTIONS")
                sequences.append(answer.executions_seq)
                name = answer.venue
                for held in answer.positions:
                    place = VenuePosition(held.quantity, held.fills, answer.executions_seq)
                    positions[held.account, held.symbol] = place
                token = answer.next_page_token
                if not token:
                    break
        return VenueView(positions, orders, name, min(sequences, default=0), max(sequences, default=0))

    async def _ask(self, subject: str, request: object, kind: type[_A]) -> _A:
        try:
            answer = await self._nats.request(subject, msgspec.json.encode(request), timeout=_ASK_SEC)
        except NoRespondersError:
            raise SourceUnavailable("venue", "nobody answers") from None
        try:
            return msgspec.json.decode(answer.data, type=kind)
        except UNREADABLE as error:
            raise SourceUnavailable("venue", f"its answer cannot be read: {error}") from None

    async def accounts(self, names: Iterable[str], through: int) -> dict[str, Account]:
        """The accounts with every report up to sequence `through` applied; those that were never opened are
        left out."""
        return await _of("ledger", self._accounts(list(names), through))

    async def _accounts(self, names: list[str], through: int) -> dict[str, Account]:
        for partition in {self.partition_of(name) for name in names}:
            goal = min(through, await self._last_sequence(f"{partition}.>"))
            await _until(
                "ledger",
                f"it has not applied every report up to {goal}",
                LEDGER_SEC,
                partial(self._has_applied, partition, goal),
            )
        found: dict[str, Account] = {}
        for start in range(0, len(names), _AT_ONCE):
            chunk = names[start : start + _AT_ONCE]
            read = await asyncio.gather(*(self._ledger.account(name, fresh=True) for name in chunk))
            found.update((account.account, account) for account in read if account is not None)
        return found

    async def _has_applied(self, partition: int, sequence: int) -> bool:
        return await self._ledger.checkpoint(partition) >= sequence

    async def open_orders(self, accounts: Iterable[str]) -> dict[str, Order]:
        """Open orders of the accounts by the ledger."""
        return await _of("ledger", self._open_orders(accounts))

    async def _open_orders(self, accounts: Iterable[str]) -> dict[str, Order]:
        found: dict[str, Order] = {}
        for name in accounts:
            found.update((order.order_id, order) for order in await self._ledger.open_orders(name))
        return found

    async def wait_stored(self, through: int) -> None:
        """Returns when every fill up to sequence `through` can be read in the fill store."""
        await _of("fill store", self._wait_stored(through))

    async def _wait_stored(self, through: int) -> None:
        goal = min(through, await self._last_sequence("*.fills.*"))
        await _until(
            "fill store",
            f"it has not stored every fill up to {goal}",
            self._store_sec,
            lambda: self._has_stored(goal),
        )
        await wait_applied(self._pool, FILLS, timeout_sec=self._store_sec)

    async def _has_stored(self, sequence: int) -> bool:
        if not sequence:
            return True
        try:
            info = await self._js.consumer_info(EXECUTIONS, DURABLE)
        except NotFoundError:
            return False  # not started yet
        floor = info.ack_floor
        return floor is not None and floor.stream_seq >= sequence

    async def sums(self, after: int, through: int, accounts: Collection[str] = ()) -> dict[Key, Decimal]:
        """Σ of the stored fills after sequence `after`, up to `through`, of `accounts` (none: of all)."""
        totals = await _of("fill store", fill_totals(self._pool, after, through, accounts))
        return {key: one.quantity for key, one in totals.items()}

    async def trades(self, after: int, through: int, venue: str) -> list[StoredTrade]:
        """The stored fills after sequence `after`, up to `through`; `venue` begins the ids of its own."""
        rows = await _of("fill store", fills_between(self._pool, after, through))
        own = f"{venue}-"
        return [
            StoredTrade(account, symbol, quantity, sequence, foreign=not fill_id.startswith(own))
            for account, symbol, quantity, sequence, fill_id in rows
        ]

    async def _last_sequence(self, subject: str) -> int:
        try:
            return (await self._js.get_last_msg(EXECUTIONS, subject)).seq or 0
        except NotFoundError:
            return 0


class _StreamInfo(msgspec.Struct):
    """What is read of the server's answer; the time as the server writes it."""

    created: str = ""


_T = TypeVar("_T")


async def _of(source: str, work: Awaitable[_T]) -> _T:
    try:
        return await work
    except SourceUnavailable:
        raise
    except LedgerError as error:
        raise SourceUnavailable("ledger", str(error)) from error
    except (psycopg.Error, TableSuspended) as error:
        raise SourceUnavailable("fill store", str(error).strip()) from error
    except (NatsError, JetStreamError, OSError, TimeoutError) as error:
        raise SourceUnavailable(source, f"{type(error).__name__}: {error}".strip()) from error


async def _until(
    source: str, why_not: str, within_sec: float, reached: Callable[[], Awaitable[bool]]
) -> None:
    deadline = asyncio.get_running_loop().time() + within_sec
    while not await reached():
        if asyncio.get_running_loop().time() >= deadline:
            raise SourceUnavailable(source, why_not)
        await asyncio.sleep(POLL_SEC)
