"""The account ledger: commands in, outcomes out, each true because a commit was answered."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Final

from services.ledger.account import Account
from services.ledger.client_leases import ClientLeases
from services.ledger.commands import Command, Outcome, Reserve
from services.ledger.committing import Committing
from services.ledger.connection import Endpoint
from services.ledger.continuity import JournalTail
from services.ledger.draft import Copy, Draft, named
from services.ledger.errors import (
    LedgerError,
    LedgerUnavailable,
    NotConnected,
    RequestRefused,
    Unanswered,
)
from services.ledger.identity import bind_stream, identify, require_safe
from services.ledger.numbers import install_context
from services.ledger.opening import Opening
from services.ledger.options import LedgerOptions
from services.ledger.order import Order
from services.ledger.reading import DueOrder, EndedOrder, OrderPage, Reading
from services.ledger.registry import AccountRegistry
from services.ledger.slot import Item, Slot
from services.ledger.store import Store
from services.runtime.clock import Clock
from services.runtime.tasks import end

__all__ = ["DueOrder", "EndedOrder", "Ledger", "LedgerOptions", "OrderPage"]

ACCOUNTS_KEPT: Final = 20_000
"""Copies of accounts in memory at most."""
CLOSE_SEC: Final = 2.0
"""How long a close waits for commits; a server that is away must not keep a worker from stopping."""


class Ledger:
    """The accounts as one worker sees and changes them. Made by `open`."""

    def __init__(
        self, options: LedgerOptions, registry: AccountRegistry, journal: JournalTail, clock: Clock
    ) -> None:
        self._options = options
        self._clock = clock
        self._slots: dict[str, Slot] = {}
        self._loop = asyncio.get_running_loop()
        self._store = Store(
            Endpoint.parse(options.url, options.db, options.socket_timeout),
            options.partitions,
            self._on_invalidation,
            journal,
            options.remembered_denials,
        )
        self._opening = Opening(registry, clock, lambda: self._options.opening_cash)
        self._committing = Committing(self._store, self._opening, clock, options.max_batch)
        self._reading = Reading(self._store)
        self.client_leases = ClientLeases(self._store)
        """Leases that clients hold on their open orders."""
        self._closing = False
        self.identity = ""
        """Names the stored data: two services that answer for the same accounts see the same one."""

    @classmethod
    async def open(
        cls, options: LedgerOptions, registry: AccountRegistry, journal: JournalTail, clock: Clock
    ) -> "Ledger":
        """Connects, and refuses a server that does not keep its word.

        A store that does not continue its journal is no reason to fail: its accounts are denied
        (`LedgerUnavailable`) until it does.

        Raises `LedgerUnavailable`, `UnsafeValkey` or `ForeignLedger`.
        """
        install_context()
        ledger = cls(options, registry, journal, clock)
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
        """Answers what was submitted, then closes the connections.

        What no commit can be had for within `CLOSE_SEC` fails, as if its time were up.
        """
        self._closing = True
        at_work = [task for slot in self._slots.values() for task in (slot.runner, slot.loading) if task]
        if at_work:
            _, stuck = await asyncio.wait(at_work, timeout=CLOSE_SEC)
            await end(*stuck)
        await self._store.close()

    @property
    def life(self) -> str:
        """Names the life of the stored data: another one may have lost what was committed before."""
        return self._store.continuity.life

    def submit(self, command: Command, timeout: float = 1.0, life: str = "") -> "asyncio.Future[Outcome]":
        """Enqueues `command`; the future has its outcome once a commit that contains it was answered.

        Fails with `LedgerUnavailable` when it was certainly not applied, `CommitUnknown` when that is open
        after `timeout` seconds, or what the command itself raised (its `assess`, say). A command that counts
        on earlier ones names the `life` in which they were committed, and fails in any other. `timeout`
        bounds the tries: the last one may take `socket_timeout` longer. Cancelling the future does not take
        the command back.
        """
        future: asyncio.Future[Outcome] = self._loop.create_future()
        if self._closing:
            future.set_exception(LedgerUnavailable("the ledger is closing"))
            return future
        slot = self._slot(command.account)
        slot.wanted = True
        self._committing.submit(slot, Item(command, future, self._loop.time() + timeout, life))
        return future

    async def execute(self, command: Command, timeout: float = 1.0) -> Outcome:
        """`submit`, awaited."""
        return await self.submit(command, timeout)

    def cached(self, account: str) -> Account | None:
        """The copy at hand, if it may be shown; None when the account has to be read, or was never opened."""
        slot = self._slots.get(account)
        if slot is None or slot.copy is None:
            return None
        slot.wanted = True
        return slot.copy.account if self._usable(slot) else None

    def known_absent(self, account: str) -> bool:
        """Whether the account was read, was never opened, and nothing has changed since."""
        slot = self._slots.get(account)
        if slot is None or slot.copy is None or not slot.unopened:
            return False
        return slot.copy.account is None and self._usable(slot)

    async def rehearse(self, command: Reserve, cash: Decimal) -> Outcome:
        """What `command` would do to an account with `cash`, computed and sent as any other, in vain.

        The commit expects a state that its account, which must not exist, does not have: the store answers
        without changing anything. For workers that want to have done everything once before it counts. Raises
        what the command raises, and `LedgerUnavailable`.
        """
        await self.account(command.account, fresh=True)
        account = Account(command.account, "rehearsal", cash, cash, registered=True)
        draft = Draft(Copy("rehearsal.0.0", account), self._clock.now_ns())
        draft.apply(command)
        (result,) = draft.results
        if isinstance(result, Exception):
            raise result
        try:
            await self._store.commit(command.account, draft, named((command,), draft.copy), False, _forget)
        except (NotConnected, Unanswered, RequestRefused) as error:
            raise LedgerUnavailable(str(error)) from error
        return result

    async def account(self, account: str, *, fresh: bool = False) -> Account | None:
        """The account's state: at most milliseconds old, or, when `fresh`, read now. None: never opened.

        Raises `LedgerUnavailable`, also when the registry says that the account was opened and it is not
        stored.
        """
        slot = self._slot(account)
        if fresh:
            return (await self._look(slot)).account
        if slot.copy is not None and self._usable(slot) and (slot.copy.account is not None or slot.unopened):
            return slot.copy.account
        return (await asyncio.shield(slot.loading or self._start_look(slot))).account

    def set_opening_cash(self, cash: Decimal) -> None:
        """Accounts that are opened from now on begin with `cash`."""
        self._options = replace(self._options, opening_cash=cash)

    async def order(self, order_id: str) -> Order | None:
        """The order's record; None when there is none (any more). Raises `LedgerUnavailable`."""
        return await self._reading.order(order_id)

    async def order_by_client_id(self, account: str, client_order_id: str) -> Order | None:
        """The order that holds a client order id, or was given up last under it, for an hour (for another one
        from a rebuild on). Raises `LedgerUnavailable`."""
        return await self._reading.order_by_client_id(account, client_order_id)

    async def orders(
        self, account: str, *, page_size: int = 100, page_token: str = "", open_only: bool = False
    ) -> OrderPage:
        """A page of the account's orders, newest first. Raises `LedgerUnavailable`."""
        return await self._reading.orders(account, page_size, page_token, open_only)

    async def open_orders(self, account: str) -> tuple[Order, ...]:
        """All orders of the account that have not ended, oldest first. Raises `LedgerUnavailable`."""
        return await self._reading.open_orders(account)

    async def due(self, partition: int, now_ns: int, limit: int = 100, skip: int = 0) -> tuple[DueOrder, ...]:
        """Orders of a partition whose deadline has passed, earliest first, without the first `skip` of them.

        Raises `LedgerUnavailable`.
        """
        return await self._reading.due(partition, now_ns, limit, skip)

    async def put_off(self, partition: int, due: DueOrder, until_ns: int) -> bool:
        """Has an order be due at `until_ns`, in nanoseconds since the epoch, unless its deadline has changed
        meanwhile; every change of its record sets the deadline anew. Raises `LedgerUnavailable`."""
        return await self._reading.put_off(partition, due, until_ns)

    async def ended(self, partition: int, kept_ms: int, limit: int = 1000) -> tuple[EndedOrder, ...]:
        """Orders of a partition that ended `kept_ms` ago or earlier, earliest first, and whose events have
        been carried to the journal. Raises `LedgerUnavailable`."""
        return await self._reading.ended(partition, kept_ms, limit)

    async def retire(self, partition: int, ended: Sequence[EndedOrder]) -> int:
        """Lets go the records of those of `ended` that have not changed since; returns how many.

        What a repeated request is answered stays under the client order id, until 24 h after the order's end.
        Raises `LedgerUnavailable`; repeating the call is harmless.
        """
        return await self._reading.retire(partition, ended)

    async def checkpoint(self, partition: int) -> int:
        """Sequence in EXECUTIONS up to which every report of the partition is committed; 0 at first."""
        return await self._reading.checkpoint(partition)

    async def set_checkpoint(self, partition: int, sequence: int, life: str) -> None:
        """Records the checkpoint of what was committed in `life`; repeating reports after an older one is
        harmless. Raises `LedgerUnavailable`, also in another life."""
        await self._reading.set_checkpoint(partition, sequence, life)

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

    async def check(self) -> None:
        """Raises `LedgerUnavailable` unless every partition can be used: for health."""
        try:
            await self._store.continuity.ensure_all()
        except (NotConnected, Unanswered, RequestRefused) as error:
            raise LedgerUnavailable(str(error)) from error

    def _slot(self, account: str) -> Slot:
        slot = self._slots.get(account)
        if slot is None:
            if len(self._slots) >= ACCOUNTS_KEPT:
                self._evict()
            slot = self._slots[account] = Slot(account)
        return slot

    def _evict(self) -> None:
        """Makes room by the accounts that came first and are idle."""
        idle = [name for name, slot in self._slots.items() if slot.idle]
        for name in idle[: ACCOUNTS_KEPT // 10]:
            del self._slots[name]

    def _on_invalidation(self, account: str | None) -> None:
        if account is None:
            for slot in self._slots.values():
                slot.drop()
        elif (held := self._slots.get(account)) is not None:
            held.invalidate()
            if self._options.read_ahead and held.wanted and held.idle and not self._closing:
                held.wanted = False
                self._start_look(held)

    def _usable(self, slot: Slot) -> bool:
        """Whether readers may be shown the slot's copy."""
        return (
            slot.fresh
            and self._options.cache_accounts
            and self._loop.time() - slot.loaded_at <= self._options.position_cache_ttl
        )

    def _start_look(self, slot: Slot) -> "asyncio.Task[Copy]":
        look = slot.loading = self._loop.create_task(self._look(slot))
        look.add_done_callback(lambda task: _looked(slot, task))
        return look

    async def _look(self, slot: Slot) -> Copy:
        """Reads an account; a missing one has to be unknown to the registry too."""
        try:
            copy = await self._committing.load(slot, ())
            if copy.account is None:
                if await self._opening.was_opened(slot.account):
                    return await self._committing.load_opened(slot)
                # Unless something came in between: then it is looked at again next time.
                slot.unopened = slot.copy is copy
        except (NotConnected, Unanswered, RequestRefused) as error:
            raise LedgerUnavailable(str(error)) from error
        return copy


def _forget(copy: Copy) -> None:
    """What a rehearsal brings is nobody's."""


def _looked(slot: Slot, task: "asyncio.Task[Copy]") -> None:
    slot.loading = None
    if not task.cancelled():
        # Everybody who asked may have gone away: then a failure is no news to anybody.
        task.exception()
