"""The account ledger: commands in, outcomes out, each true because a commit was answered.

One runner an account takes whatever commands wait, applies them one after the other to a copy of the account
and sends the result as one commit. A commit that is refused brought the stored state along: the same commands
are computed again at once. A commit that is not answered proves nothing, and no read settles it: the copy is
dropped and the commands are computed and committed again, until a commit is answered or the callers' time is
up.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from services.ledger import commands as c
from services.ledger.account import Account
from services.ledger.commands import Command, Effect, Outcome
from services.ledger.connection import Endpoint
from services.ledger.draft import Copy, Draft, preread
from services.ledger.errors import (
    CommitUnknown,
    LedgerError,
    LedgerUnavailable,
    NotConnected,
    RequestRefused,
    Unanswered,
)
from services.ledger.identity import bind_stream, identify, require_safe
from services.ledger.numbers import install_context
from services.ledger.order import Order
from services.ledger.partition import PARTITIONS
from services.ledger.reading import OrderPage, Reading
from services.ledger.registry import AccountRegistry
from services.ledger.store import REMEMBERED_DENIALS, Store, load_if_lost
from services.ledger.transition import named_order
from services.runtime.clock import Clock
from services.runtime.ids import new_ulid
from services.runtime.telemetry import get_logger

ACCOUNTS_KEPT: Final = 20_000
"""Copies of accounts in memory at most."""

_log = get_logger("ledger")


@dataclass(frozen=True, slots=True)
class LedgerOptions:
    """How one worker uses the ledger. Times in seconds."""

    url: str = "redis://127.0.0.1:6379"
    db: int = 0
    partitions: int = PARTITIONS
    opening_cash: Decimal | None = Decimal(100_000)
    """Cash of an account that is opened by its first command; None: this process opens none."""
    position_cache_ttl: float = 300.0
    """Greatest age of a copy that is shown to readers, whatever tracking says."""
    cache_accounts: bool = True
    """False: every reader's look at an account reads Valkey."""
    allow_unsafe: bool = False
    """Take a server that may lose or evict what it confirmed."""
    socket_timeout: float = 1.0
    """A connection that leaves a request unanswered for so long is given up."""
    max_batch: int = 128
    """Commands of one account in one commit."""
    remembered_denials: int = REMEMBERED_DENIALS
    """Denied orders an account keeps for 24 h; beyond, the oldest is forgotten."""


class _Item:
    """A command on its way. `doubtful`: a commit that contained it was not answered."""

    __slots__ = ("command", "deadline", "doubtful", "future")

    def __init__(self, command: Command, future: "asyncio.Future[Outcome]", deadline: float) -> None:
        self.command = command
        self.future = future
        self.deadline = deadline
        self.doubtful = False


class _Slot:
    """One account in this worker: its copy and the commands that wait for it."""

    __slots__ = ("account", "confirmed", "copy", "fresh", "loaded_at", "runner", "unsettled", "waiting")

    def __init__(self, account: str) -> None:
        self.account = account
        self.copy: Copy | None = None
        self.fresh = False
        """Nobody else has changed the account since the copy was made, as far as the server has told."""
        self.loaded_at = 0.0
        self.confirmed = ""
        """The incarnation that the registry has confirmed."""
        self.runner: asyncio.Task[None] | None = None
        self.unsettled: str | None = None
        """The token that an unanswered commit expects. While it is the stored one, the next commit replaces
        it even if it has nothing else to write, so that the old one cannot land any more."""
        self.waiting: deque[_Item] = deque()

    def drop(self) -> None:
        self.copy = None
        self.fresh = False


class Ledger:
    """The accounts as one worker sees and changes them. Made by `open`."""

    def __init__(self, options: LedgerOptions, registry: AccountRegistry, clock: Clock) -> None:
        self._options = options
        self._registry = registry
        self._clock = clock
        self._slots: dict[str, _Slot] = {}
        self._loop = asyncio.get_running_loop()
        self._store = Store(
            Endpoint.parse(options.url, options.db, options.socket_timeout),
            options.partitions,
            self._on_invalidation,
            options.remembered_denials,
        )
        self._reading = Reading(self._store)
        self._closing = False
        self.identity = ""
        """Names the stored data: two services that answer for the same accounts see the same one."""

    @classmethod
    async def open(cls, options: LedgerOptions, registry: AccountRegistry, clock: Clock) -> "Ledger":
        """Connects, and refuses a server that does not keep its word.

        Raises `LedgerUnavailable`, `UnsafeValkey` or `ForeignLedger`.
        """
        install_context()
        ledger = cls(options, registry, clock)
        try:
            await ledger._store.open()
            await require_safe(ledger._store.reads, allow_unsafe=options.allow_unsafe)
            ledger.identity = await identify(ledger._store.reads, options.partitions)
        except (NotConnected, Unanswered, RequestRefused) as error:
            await ledger._store.close()
            raise LedgerUnavailable(str(error)) from error
        except LedgerError:
            await ledger._store.close()
            raise
        return ledger

    async def close(self) -> None:
        """Answers what was submitted, then closes the connections."""
        self._closing = True
        runners = [slot.runner for slot in self._slots.values() if slot.runner is not None]
        await asyncio.gather(*runners, return_exceptions=True)
        await self._store.close()

    def submit(self, command: Command, timeout: float = 1.0) -> "asyncio.Future[Outcome]":
        """Enqueues `command`; the future has its outcome once a commit that contains it was answered.

        Fails with `LedgerUnavailable` when it was certainly not applied, `CommitUnknown` when that is open
        after `timeout` seconds, or what the command itself raised (its `assess`, say). Cancelling the future
        does not take the command back.
        """
        future: asyncio.Future[Outcome] = self._loop.create_future()
        if self._closing:
            future.set_exception(LedgerUnavailable("the ledger is closing"))
            return future
        slot = self._slot(command.account)
        slot.waiting.append(_Item(command, future, self._loop.time() + timeout))
        if slot.runner is None:
            slot.runner = self._loop.create_task(self._run(slot))
        return future

    async def execute(self, command: Command, timeout: float = 1.0) -> Outcome:
        """`submit`, awaited."""
        return await self.submit(command, timeout)

    def cached(self, account: str) -> Account | None:
        """The copy at hand, if it may be shown; None when the account has to be read, or was never opened."""
        slot = self._slots.get(account)
        if slot is None or not slot.fresh or slot.copy is None or not self._options.cache_accounts:
            return None
        if self._loop.time() - slot.loaded_at > self._options.position_cache_ttl:
            return None
        return slot.copy.account

    async def account(self, account: str, *, fresh: bool = False) -> Account | None:
        """The account's state: at most milliseconds old, or, when `fresh`, read now. None: never opened.

        Raises `LedgerUnavailable`, also when the registry says that the account was opened and it is not
        stored.
        """
        if not fresh:
            held = self.cached(account)
            if held is not None:
                return held
        slot = self._slot(account)
        try:
            copy = await self._load(slot, ())
            if copy.account is None:
                entry = await self._registry.look_up(account)
                if entry is not None and entry.incarnation:
                    copy = await self._opened_copy(slot)
        except (NotConnected, Unanswered, RequestRefused) as error:
            raise LedgerUnavailable(str(error)) from error
        return copy.account

    async def order(self, order_id: str) -> Order | None:
        """The order's record; None when there is none (any more). Raises `LedgerUnavailable`."""
        return await self._reading.order(order_id)

    async def order_by_client_id(self, account: str, client_order_id: str) -> Order | None:
        """The order that holds a client order id. Raises `LedgerUnavailable`."""
        return await self._reading.order_by_client_id(account, client_order_id)

    async def orders(
        self, account: str, *, page_size: int = 100, page_token: str = "", open_only: bool = False
    ) -> OrderPage:
        """A page of the account's orders, newest first. Raises `LedgerUnavailable`."""
        return await self._reading.orders(account, page_size, page_token, open_only)

    async def open_orders(self, account: str) -> tuple[Order, ...]:
        """All orders of the account that have not ended, oldest first. Raises `LedgerUnavailable`."""
        return await self._reading.open_orders(account)

    async def due(self, partition: int, now_ns: int, limit: int = 100) -> tuple[Order, ...]:
        """Orders of a partition whose deadline has passed, earliest first. Raises `LedgerUnavailable`."""
        return await self._reading.due(partition, now_ns, limit)

    async def forget_ended(self, partition: int, now_ns: int, limit: int = 1000) -> int:
        """Takes orders whose records have expired out of the listings; returns how many."""
        return await self._reading.forget_ended(partition, now_ns, limit)

    async def checkpoint(self, partition: int) -> int:
        """Sequence in EXECUTIONS up to which every report of the partition is committed; 0 at first."""
        return await self._reading.checkpoint(partition)

    async def set_checkpoint(self, partition: int, sequence: int) -> None:
        """Records the checkpoint; repeating reports after an older one is harmless."""
        await self._reading.set_checkpoint(partition, sequence)

    async def bind_stream(self, name: str, created: str) -> None:
        """Ties the data to the stream whose sequence numbers it holds.

        Raises `ForeignLedger` when it was another stream of that name the last time: its numbers began anew,
        and reports would be taken for repeated ones.
        """
        await bind_stream(self._store.reads, name, created)

    async def ping(self) -> None:
        """Raises `LedgerUnavailable` unless the server answers on the connection that commits use."""
        try:
            await self._store.commits.request("PING")
        except (NotConnected, Unanswered, RequestRefused) as error:
            raise LedgerUnavailable(str(error)) from error

    def _slot(self, account: str) -> _Slot:
        slot = self._slots.get(account)
        if slot is None:
            if len(self._slots) >= ACCOUNTS_KEPT:
                self._evict()
            slot = self._slots[account] = _Slot(account)
        return slot

    def _evict(self) -> None:
        """Makes room by the accounts that came first and are idle."""
        idle = [name for name, slot in self._slots.items() if slot.runner is None]
        for name in idle[: ACCOUNTS_KEPT // 10]:
            del self._slots[name]

    def _on_invalidation(self, account: str | None) -> None:
        if account is None:
            for slot in self._slots.values():
                slot.drop()
        elif (held := self._slots.get(account)) is not None:
            held.fresh = False

    def _install(self, slot: _Slot, copy: Copy) -> None:
        slot.copy = copy
        slot.fresh = True
        slot.loaded_at = self._loop.time()

    async def _load(self, slot: _Slot, order_ids: Sequence[str]) -> Copy:
        return await self._store.load(
            slot.account, slot.copy, lambda copy: self._install(slot, copy), order_ids
        )

    async def _opened_copy(self, slot: _Slot) -> Copy:
        """Reads an account of which the registry says that it is open."""
        copy = await self._load(slot, ())
        if copy.account is None:
            raise LedgerUnavailable(f"account {slot.account} was opened, but is not stored")
        return copy

    async def _run(self, slot: _Slot) -> None:
        """Commits what waits for one account, until nothing does."""
        try:
            while slot.waiting:
                limit = min(len(slot.waiting), self._options.max_batch)
                batch = [slot.waiting.popleft() for _ in range(limit)]
                try:
                    await self._settle(slot, batch)
                except LedgerError as error:
                    _fail(batch, error)
                except Exception as error:
                    # A defect must leave neither callers waiting for ever nor the next batch on a bad copy.
                    _log.error("ledger batch failed", account=slot.account, exc_info=error)
                    slot.drop()
                    for item in batch:
                        item.doubtful = True
                    _fail(batch, CommitUnknown(f"unexpected {type(error).__name__}"))
        finally:
            slot.runner = None

    async def _settle(self, slot: _Slot, batch: list[_Item]) -> None:
        """Computes and commits `batch` until a commit is answered. Raises `LedgerUnavailable`."""
        refusals = 0
        while batch := self._in_time(batch):
            try:
                if not await self._ready(slot, batch):
                    continue
                if await self._commit(slot, batch):
                    return
                refusals += 1
            except NotConnected:
                earliest = min(item.deadline for item in batch)
                await self._store.commits.wait_connected(earliest - self._loop.time())
            except Unanswered:
                slot.drop()
            except RequestRefused as error:
                slot.drop()
                await self._after_refusal(error)
            if refusals >= _PATIENCE and len(batch) > 1:
                # Others commit faster than this batch is computed: a smaller one gets its turn.
                half = len(batch) // 2
                slot.waiting.extendleft(reversed(batch[half:]))
                del batch[half:]

    def _in_time(self, batch: list[_Item]) -> list[_Item]:
        """Fails the commands whose time is up; returns the others."""
        now = self._loop.time()
        late = [item for item in batch if item.deadline <= now]
        if not late:
            return batch
        _fail(late, LedgerUnavailable("no commit was answered in time"))
        return [item for item in batch if item.deadline > now]

    async def _after_refusal(self, error: RequestRefused) -> None:
        """Returns when the request may be tried again; raises `LedgerUnavailable` otherwise."""
        text = str(error)
        if await load_if_lost(self._store.commits, error):
            return
        if text.startswith(("LOADING", "BUSY", "MASTERDOWN")):
            await asyncio.sleep(_RETRY_WAIT)
        else:
            raise LedgerUnavailable(text) from error

    async def _ready(self, slot: _Slot, batch: list[_Item]) -> bool:
        """Makes the copy one on which `batch` can be computed; False when it has to be looked at again."""
        copy = slot.copy
        if copy is None or not slot.fresh or copy.account is None or not copy.account.registered:
            copy = await self._load(slot, preread((item.command for item in batch), Copy()))
        if copy.account is None:
            await self._open_account(slot, batch)
            return False
        if not copy.account.registered and slot.confirmed != copy.account.incarnation:
            slot.confirmed = await self._confirm(slot.account, copy.account.incarnation)
            return False
        missing = preread((item.command for item in batch), copy)
        if missing:
            await self._store.load_orders(slot.account, lambda: slot.copy or copy, missing)
            return False
        return True

    async def _open_account(self, slot: _Slot, batch: list[_Item]) -> None:
        """Opens an account that is not stored, if the registry agrees that it never was."""
        entry = await self._registry.look_up(slot.account)
        if entry is not None and entry.incarnation:
            await self._opened_copy(slot)
            return
        if all(isinstance(item.command, c.RequestCancel | c.Amend) for item in batch):
            for item in batch:
                _resolve(item, Outcome(Effect.NOT_FOUND))
            batch.clear()
            return
        cash = self._options.opening_cash
        if cash is None:
            raise LedgerUnavailable(f"account {slot.account} is not open, and this service opens none")
        if entry is None:
            entry = await self._registry.begin(slot.account)
            if entry.incarnation:
                return
        draft = Draft(Copy(), self._clock.now_ns())
        draft.apply(c.Open(slot.account, new_ulid(), cash))
        await self._send(slot, draft, ())

    async def _confirm(self, account: str, incarnation: str) -> str:
        """Has the registry say that the account is open under `incarnation`, and returns that."""
        entry = await self._registry.look_up(account)
        if entry is None:
            entry = await self._registry.begin(account)
        if not entry.incarnation:
            entry = await self._registry.confirm(account, entry, incarnation)
        if entry.incarnation != incarnation:
            # What is stored was opened after the account's true state had been lost.
            raise LedgerUnavailable(f"account {account} is stored under another incarnation than registered")
        return incarnation

    async def _commit(self, slot: _Slot, batch: list[_Item]) -> bool:
        """Computes `batch` on the copy and commits it; False when that was refused."""
        copy = slot.copy
        if copy is None or copy.account is None:
            return False
        draft = Draft(copy, self._clock.now_ns())
        own = 0
        if not copy.account.registered:
            draft.apply(c.Register(slot.account))
            own = 1
        for item in batch:
            draft.apply(item.command)
        named = {name for item in batch if (name := named_order(item.command))}
        if not await self._send(slot, draft, named, batch):
            return False
        for item, result in zip(batch, draft.results[own:], strict=True):
            _resolve(item, result)
        return True

    async def _send(
        self, slot: _Slot, draft: Draft, named: Iterable[str], batch: Sequence[_Item] = ()
    ) -> bool:
        fenced = slot.unsettled is not None and slot.unsettled == draft.copy.token
        answer = self._store.commit(
            slot.account, draft, named, fenced, lambda copy: self._install(slot, copy)
        )
        try:
            committed: bool = await answer
        except (Unanswered, RequestRefused) as error:
            if (draft.events or fenced) and not (isinstance(error, RequestRefused) and error.certain):
                slot.unsettled = draft.copy.token
                for item in batch:
                    item.doubtful = True
            raise
        return committed


_PATIENCE: Final = 3
_RETRY_WAIT: Final = 0.02


def _resolve(item: _Item, result: Outcome | Exception) -> None:
    if item.future.done():
        return
    if isinstance(result, Outcome):
        item.future.set_result(result)
    else:
        item.future.set_exception(result)


def _fail(items: Sequence[_Item], error: LedgerError) -> None:
    for item in items:
        _resolve(item, CommitUnknown(str(error)) if item.doubtful else error)
