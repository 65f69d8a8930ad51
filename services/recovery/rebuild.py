"""The stored ledger, written anew from what survives Valkey: snapshot, LEDGER and what its outbox holds.

1. The partitions are marked as being rebuilt, the data begins a new life, every other connection is cut:
   whoever comes back finds the mark and denies (`continuity`). So services may run all the time.
2. Per partition: the journal is folded. Commits that only the outbox has, and that continue the journal, are
   published to it first; those that contradict it go to the dead letters, with all that follows them of the
   same account.
3. Every key of the partition is removed, and every account written by the commits of a new incarnation, with
   the indexes that follow from its orders; then checkpoint and watermark, and the published positions.
4. What was told meanwhile is looked for; when there is nothing, the mark is removed.

A crash leaves marks: those partitions stay denied, and the next run begins with them again. Reports that came
after the journal's end are applied by oms, from the checkpoint on.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from services.dead_letters import LEDGER_SUBJECT
from services.ledger import codec, keys
from services.ledger.codec import PositionChange
from services.ledger.connection import Argument, Connection, Endpoint
from services.ledger.draft import Copy, Draft
from services.ledger.errors import LedgerError
from services.ledger.identity import identify
from services.ledger.journal import FoldedAccount
from services.ledger.journal_tail import LedgerTail
from services.ledger.partition import partition_of
from services.ledger.positions import Positions
from services.ledger.registry import KvAccountRegistry
from services.ledger.store import Store
from services.recovery.folding import Folded, checkpoint, fold, fold_on
from services.recovery.salvage import OutboxEntry, interest, letter, salvage
from services.recovery.site import FAILURES, RecoveryError, Site
from services.recovery.snapshots import Manifest
from services.runtime.clock import Clock
from services.runtime.ids import new_ulid
from services.runtime.publisher import Publisher, PublishError
from services.runtime.streams import LEDGER

Say = Callable[[str], None]

SETTLE_SEC: Final = 1.0
"""What a cut relay had published reaches LEDGER within this time; step 4 finds what did not."""
_ANSWER_SEC: Final = 30.0
_ORDERS_AT_ONCE: Final = 500
_ACCOUNTS_AT_ONCE: Final = 64
_KEYS_AT_ONCE: Final = 500
_ROUNDS: Final = 3

_KEPT_KEYS: Final = ("rebuilding", "lease", "fence", "clients")
"""First parts of keys that belong to running workers and not to accounts."""


@dataclass(slots=True)
class Rebuilt:
    """What a rebuild did."""

    incarnation: str
    accounts: int = 0
    orders: int = 0
    salvaged: int = 0
    """Commits that only the outbox had."""
    failures: list[str] = field(default_factory=list)
    """Why partitions stay denied, and which opened accounts no journal knows."""


async def rebuild(site: Site, clock: Clock, say: Say) -> Rebuilt:
    """Rebuilds every partition. Raises `RecoveryError` when it cannot begin; then nothing was changed."""
    where = site.where
    store = Store(
        Endpoint.parse(where.ledger_url, where.ledger_db, _ANSWER_SEC),
        where.partitions,
        lambda _: None,
        LedgerTail(site.nats),
        where.remembered_denials,
    )
    positions = Positions(site.nats, Endpoint.parse(where.projection_url, where.projection_db, _ANSWER_SEC))
    publisher = Publisher(site.nats)
    try:
        manifest = (await site.snapshots.valid()).manifest
        if manifest.partitions not in (0, where.partitions):
            raise RecoveryError(f"the snapshot has {manifest.partitions} partitions, not {where.partitions}")
        incarnation = await _cut_off(site)
        await store.open()
        await positions.open()
        await publisher.start()
        await _name(store, manifest, where.partitions)
        work = _Rebuild(site, manifest, store, positions, publisher, clock, Rebuilt(incarnation))
        await work.run(say)
        return work.done
    except FAILURES as error:
        raise RecoveryError(str(error) or type(error).__name__) from error
    finally:
        await publisher.close()
        await positions.close()
        await store.close()


async def _cut_off(site: Site) -> str:
    """Step 1; returns the incarnation."""
    where = site.where
    incarnation = new_ulid()
    connection = Connection(Endpoint.parse(where.ledger_url, where.ledger_db, _ANSWER_SEC))
    try:
        await connection.open()
        for partition in range(where.partitions):
            await connection.request("SET", keys.rebuilding(partition), incarnation)
        await connection.request("SET", keys.LIFE, incarnation)
        await connection.request("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        # The watermarks are made anew. LEDGER may have lost what they speak of: then each of them would keep
        # the partitions out of use that are rebuilt before its own.
        for partition in range(where.partitions):
            await connection.request("UNLINK", keys.relayed(partition))
    finally:
        await connection.close()
    await asyncio.sleep(SETTLE_SEC)
    return incarnation


async def _name(store: Store, manifest: Manifest, partitions: int) -> None:
    """The ledger is the one that the snapshot was taken of, if there is one."""
    if manifest.identity:
        await store.reads.request("HSET", keys.IDENTITY, "id", manifest.identity)
    await identify(store.reads, partitions)


class _Rebuild:
    """Steps 2 to 4."""

    def __init__(
        self,
        site: Site,
        manifest: Manifest,
        store: Store,
        positions: Positions,
        publisher: Publisher,
        clock: Clock,
        done: Rebuilt,
    ) -> None:
        self._site = site
        self._manifest = manifest
        self._store = store
        self._positions = positions
        self._publisher = publisher
        self._clock = clock
        self.done = done
        self._contradictions: list[str] = []

    async def run(self, say: Say) -> None:
        partitions = self._site.where.partitions
        known: dict[int, set[str]] = {}
        for partition in range(partitions):
            try:
                known[partition] = await self._partition(partition)
            except (*FAILURES, PublishError) as error:
                self._failed(f"partition {partition} stays denied: {error}", say)
        registry = KvAccountRegistry(self._site.registry)
        for name in await registry.names():
            names = known.get(partition_of(name, partitions))
            if names is None or name in names:
                continue
            entry = await registry.look_up(name)
            if entry is not None and entry.incarnation:
                self._failed(f"account {name} was opened, but no journal knows it", say)
        for contradiction in self._contradictions:
            self._failed(contradiction, say)

    def _failed(self, why: str, say: Say) -> None:
        self.done.failures.append(why)
        say(why)

    async def _partition(self, partition: int) -> set[str]:
        """Rebuilds one partition; returns the names of its accounts."""
        outbox = await self._outbox(partition)
        folded = await fold(self._site, self._manifest, partition, interest=interest(outbox))
        await self._salvage(folded, outbox)
        for _ in range(_ROUNDS):
            await self._write(folded)
            if not await fold_on(self._site.nats, folded):
                break
        else:
            raise LedgerError("LEDGER goes on while the partition is rebuilt: who publishes to it?")
        await self._store.reads.request("UNLINK", keys.rebuilding(partition))
        await self._store.continuity.ensure(partition)
        self.done.accounts += len(folded.accounts)
        self.done.orders += sum(len(one.orders) for one in folded.accounts.values())
        return set(folded.accounts)

    async def _outbox(self, partition: int) -> list[OutboxEntry]:
        found = []
        for _, flat in await self._store.reads.request("XRANGE", keys.outbox(partition), "-", "+"):
            named = dict(zip(flat[::2], flat[1::2], strict=True))
            found.append(OutboxEntry.read(named[keys.ENVELOPE]))
        return found

    async def _salvage(self, folded: Folded, outbox: list[OutboxEntry]) -> None:
        """Publishes what only the outbox has; nothing of it may be lost."""
        found = salvage(folded, outbox)
        for entry, why in found.contradicting:
            commit = entry.commit
            name = f"{self.done.incarnation}:{commit.account}:{commit.seq}"
            await self._publisher.publish(LEDGER_SUBJECT, letter(folded.partition, entry, why), name)
            self._contradictions.append(
                f"account {commit.account}: the outbox's events {commit.seq} to {entry.last_seq} contradict "
                f"LEDGER ({why}); they were put to the dead letters"
            )
        for entry in found.continuing:
            commit = entry.commit
            await self._publisher.publish(
                f"ledger.{folded.partition}.{commit.account}",
                codec.join_commits([entry.envelope]),
                f"{commit.account}:{commit.seq}",
            )
            self.done.salvaged += 1
        await fold_on(self._site.nats, folded)

    async def _write(self, folded: Folded) -> None:
        """Step 3, for one partition."""
        partition = folded.partition
        await self._remove(partition)
        names = list(folded.accounts)
        for start in range(0, len(names), _ACCOUNTS_AT_ONCE):
            some = [folded.accounts[name] for name in names[start : start + _ACCOUNTS_AT_ONCE]]
            await asyncio.gather(*(self._account(one) for one in some))
        known = self._manifest.checkpoints[partition] if self._manifest.checkpoints else 0
        reached = await checkpoint(self._site.nats, partition, known, folded.accounts)
        js = self._site.nats.jetstream()
        kept = (await js.stream_info(LEDGER)).state.first_seq
        await self._store.reads.request("SET", keys.checkpoint(partition), reached)
        await self._store.reads.request("SET", keys.relayed(partition), max(folded.sequence, kept - 1, 0))

    async def _account(self, folded: FoldedAccount) -> None:
        name = folded.account.account
        now_ns = self._clock.now_ns()
        ids = sorted(folded.orders)
        copy = Copy()
        for start in range(0, max(1, len(ids)), _ORDERS_AT_ONCE):
            draft = Draft.restoring(copy, folded, ids[start : start + _ORDERS_AT_ONCE], now_ns)
            copy = await self._store.restore(name, draft, self.done.incarnation)
        shown = {
            symbol: (
                PositionChange(symbol, position.quantity, position.last_price, folded.account.event_seq),
                now_ns,
            )
            for symbol, position in folded.account.positions.items()
            if position.last_price
        }
        if shown:
            await self._positions.show(name, shown)

    async def _remove(self, partition: int) -> None:
        """Removes every key of the partition's accounts."""
        cursor: Argument = 0
        pattern = f"*{keys.tag(partition)}*"
        while True:
            cursor, found = await self._request("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
            for start in range(0, len(found), _KEYS_AT_ONCE):
                some = [
                    key
                    for key in found[start : start + _KEYS_AT_ONCE]
                    if key.partition(b":")[0].decode() not in _KEPT_KEYS
                ]
                if some:
                    await self._request("UNLINK", *some)
            if int(cursor) == 0:
                return

    async def _request(self, *arguments: Argument) -> Any:
        return await self._store.reads.request(*arguments)
