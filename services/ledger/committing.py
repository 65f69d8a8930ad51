"""From waiting commands to answered commits: one runner an account.

A runner takes whatever commands wait, applies them one after the other to the account's copy and sends the
result as one commit. A commit that is refused brought the stored state along: the same commands are computed
again at once. A commit that is not answered proves nothing, and no read settles it: the copy is dropped and
the commands are computed and committed again, until a commit is answered or the callers' time is up.

What a runner has in hand may have all the time in the world (reports of the venue), what waits behind it has
a second. So the time of what waits is kept apart from the runner, whatever that is waiting for.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

from services.ledger import commands as c
from services.ledger.commands import Effect, Outcome
from services.ledger.draft import Copy, Draft, named, preread
from services.ledger.errors import (
    CommitUnknown,
    LedgerError,
    LedgerUnavailable,
    NotConnected,
    RequestRefused,
    Unanswered,
)
from services.ledger.opening import Opening
from services.ledger.slot import Item, Slot, fail, fail_late
from services.ledger.store import Store, load_if_lost
from services.runtime.clock import Clock
from services.runtime.telemetry import counter, get_logger, histogram

_PATIENCE: Final = 3
"""Refusals in a row after which a batch is halved."""
_TURN: Final = (0.0005, 0.1)
"""Least and greatest time that a contending worker is given. Seconds."""
_RETRY_WAIT: Final = 0.02
_LATE: Final = 0.05
"""How late a command that waits may be told that its time is up. Seconds."""

_log = get_logger("ledger")
_latency = histogram("ledger_commit_latency_ms", "From sending a commit to its answer, in milliseconds")
_refused = counter("ledger_commits_refused", "Commits that met a state changed by another worker")
_unanswered = counter("ledger_commits_unanswered", "Commits whose answer never came; each was tried again")


class _NotSent(Exception):
    """A commit could not even be written down; the cause is a defect in one of its commands."""


class Committing:
    """Runs the slots of one worker."""

    def __init__(self, store: Store, opening: Opening, clock: Clock, max_batch: int) -> None:
        self._store = store
        self._opening = opening
        self._clock = clock
        self._max_batch = max_batch
        self._loop = asyncio.get_running_loop()

    def submit(self, slot: Slot, item: Item) -> None:
        """Has `item` committed, or failed when its time is up."""
        slot.waiting.append(item)
        if slot.runner is None:
            slot.runner = self._loop.create_task(self._run(slot))
            if not slot.timed:
                slot.timed = True
                self._loop.call_later(_LATE, self._keep_time, slot)

    def _keep_time(self, slot: Slot) -> None:
        """Fails what waits and whose time is up, again and again while a runner keeps it waiting."""
        fail_late(slot.waiting, self._loop.time())
        slot.timed = slot.runner is not None
        if slot.timed:
            self._loop.call_later(_LATE, self._keep_time, slot)

    async def _run(self, slot: Slot) -> None:
        """Commits what waits for one account, until nothing does; a cancellation fails it."""
        batch: list[Item] = []
        try:
            while slot.waiting:
                if slot.contended:
                    await self._give_way(slot)
                limit = min(len(slot.waiting), self._max_batch)
                batch = [slot.waiting.popleft() for _ in range(limit)]
                await self._answer(slot, batch)
        except asyncio.CancelledError:
            fail([*batch, *slot.waiting], LedgerUnavailable("the ledger is closing"))
            slot.waiting.clear()
            raise
        finally:
            slot.runner = None

    async def _give_way(self, slot: Slot) -> None:
        """Lets another worker that wants the same account go first, after this one has committed.

        Two busy workers would otherwise compute at the same time, and one of them always in vain.
        """
        least, greatest = _TURN
        if not slot.fresh or self._loop.time() - slot.answered_at > max(least, slot.pace):
            return
        slot.turn = self._loop.create_future()
        done, _ = await asyncio.wait([slot.turn], timeout=min(greatest, max(least, 2 * slot.pace)))
        slot.turn = None
        slot.contended = bool(done)

    async def load(self, slot: Slot, order_ids: Sequence[str]) -> Copy:
        """Reads the account and the named orders; what the slot holds follows the answers in their order."""
        return await self._store.load(slot.account, slot.copy, self._installer(slot), order_ids)

    async def load_opened(self, slot: Slot) -> Copy:
        """Reads an account of which the registry says that it is open."""
        copy = await self.load(slot, ())
        if copy.account is None:
            raise LedgerUnavailable(f"account {slot.account} was opened, but is not stored")
        return copy

    async def _answer(self, slot: Slot, batch: list[Item]) -> None:
        """Answers every command of `batch`, whatever happens."""
        started = self._loop.time()
        try:
            await self._settle(slot, batch)
            slot.answered_at = self._loop.time()
            slot.pace = slot.answered_at - started
        except LedgerError as error:
            fail(batch, error)
        except _NotSent as defect:
            if len(batch) == 1:
                cause = defect.__cause__
                batch[0].resolve(cause if isinstance(cause, Exception) else defect)
                return
            # Only one of them is to blame: each gets a commit of its own.
            for item in batch:
                await self._answer(slot, [item])
        except Exception as error:
            # A defect must leave neither callers waiting for ever nor the next batch on a bad copy.
            _log.error("ledger batch failed", account=slot.account, exc_info=error)
            slot.drop()
            for item in batch:
                item.doubtful = True
            fail(batch, CommitUnknown(f"unexpected {type(error).__name__}"))

    async def _settle(self, slot: Slot, batch: list[Item]) -> None:
        """Computes and commits `batch` until a commit is answered. Raises `LedgerUnavailable`."""
        refusals = 0
        while batch:
            self._drop_stale(batch)
            fail_late(batch, self._loop.time())
            life = self._store.continuity.life
            try:
                copy = await self._ready(slot, batch)
                if copy is None:
                    continue
                if self._store.continuity.life != life:
                    continue
                if await self._commit(slot, copy, batch):
                    return
                refusals += 1
                slot.contended = True
            except NotConnected:
                earliest = min(item.deadline for item in batch)
                await self._store.commits.wait_connected(earliest - self._loop.time())
            except TimeoutError:
                continue
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

    def _drop_stale(self, batch: list[Item]) -> None:
        """Fails the commands whose life of the data is over."""
        life = self._store.continuity.life
        stale = [item for item in batch if item.life and item.life != life]
        if stale:
            fail(stale, LedgerUnavailable("the data may have lost what came before"))
            batch[:] = [item for item in batch if not item.life or item.life == life]

    async def _after_refusal(self, error: RequestRefused) -> None:
        """Returns when the request may be tried again; raises `LedgerUnavailable` otherwise."""
        if await load_if_lost(self._store.commits, error):
            return
        text = str(error)
        if not text.startswith(("LOADING", "BUSY", "MASTERDOWN")):
            raise LedgerUnavailable(text) from error
        await asyncio.sleep(_RETRY_WAIT)

    async def _ready(self, slot: Slot, batch: list[Item]) -> Copy | None:
        """A copy on which `batch` can be computed; None when everything has to be looked at again.

        Raises `TimeoutError` when the time of one of `batch` is up before its partition may be used.
        """
        if not batch:
            return None
        partition = self._store.keys_of(slot.account).partition
        if not self._store.continuity.holds(partition):
            # The journal is read for it, which may take longer than a request.
            async with asyncio.timeout_at(min(item.deadline for item in batch)):
                await self._store.continuity.ensure(partition)
        if slot.loading is not None and not slot.fresh:
            # What a reader asked for is on its way already; if it fails, it is asked for again below.
            await asyncio.wait([slot.loading])
        copy = slot.copy
        # A missing or unregistered account is never taken from memory: another worker may have opened it.
        if copy is None or not slot.fresh or copy.account is None or not copy.account.registered:
            copy = await self.load(slot, preread((item.command for item in batch), Copy()))
        if copy.account is None:
            await self._open(slot, batch)
            return None
        if not copy.account.registered and slot.confirmed != copy.account.incarnation:
            slot.confirmed = await self._opening.confirm(slot.account, copy.account.incarnation)
            return None
        while missing := preread((item.command for item in batch), copy):
            # Orders read now belong to the copy at hand: if it is not the stored state any more, the commit
            # is refused.
            await self._store.load_orders(slot.account, copy, missing)
        return copy

    async def _open(self, slot: Slot, batch: list[Item]) -> None:
        """Opens an account that is not stored, if the registry agrees that it never was."""
        if await self._opening.was_opened(slot.account):
            await self.load_opened(slot)
            return
        if all(isinstance(item.command, c.OF_KNOWN_ORDERS) for item in batch):
            for item in batch:
                item.resolve(Outcome(Effect.NOT_FOUND))
            batch.clear()
            return
        draft = await self._opening.draft(slot.account)
        if draft is not None:
            await self._send(slot, draft, (), ())

    async def _commit(self, slot: Slot, copy: Copy, batch: list[Item]) -> bool:
        """Computes `batch` on `copy` and commits it; False when that was refused."""
        draft = Draft(copy, self._clock.now_ns())
        own = 0
        if copy.account is not None and not copy.account.registered:
            draft.apply(c.Register(slot.account))
            own = 1
        for item in batch:
            draft.apply(item.command)
        names = named((item.command for item in batch), copy)
        if not await self._send(slot, draft, names, batch):
            return False
        for item, result in zip(batch, draft.results[own:], strict=True):
            item.resolve(result)
        return True

    async def _send(self, slot: Slot, draft: Draft, names: Iterable[str], batch: Sequence[Item]) -> bool:
        expected = draft.copy.token
        fenced = slot.unsettled is not None and slot.unsettled == expected
        try:
            answer = self._store.commit(slot.account, draft, names, fenced, self._installer(slot))
        except LedgerError:
            raise
        except Exception as error:
            raise _NotSent from error
        sent = self._loop.time()
        try:
            committed = await answer
        except (Unanswered, RequestRefused, asyncio.CancelledError) as error:
            certain = isinstance(error, RequestRefused) and error.certain
            if (draft.events or fenced) and not certain:
                slot.unsettled = expected
                for item in batch:
                    item.doubtful = True
                _unanswered.inc()
            raise
        _latency.observe((self._loop.time() - sent) * 1e3)
        if not committed:
            _refused.inc()
        return committed

    def _installer(self, slot: Slot) -> "_Install":
        return _Install(slot, self._loop)


class _Install:
    """Puts what an answer brought into its slot."""

    __slots__ = ("_loop", "_slot")

    def __init__(self, slot: Slot, loop: asyncio.AbstractEventLoop) -> None:
        self._slot = slot
        self._loop = loop

    def __call__(self, copy: Copy) -> None:
        self._slot.install(copy, self._loop.time())
