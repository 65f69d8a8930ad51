"""The relay of a partition's owner: outbox → LEDGER → positions, orders that were activated → trim.

Commits of one account leave in their order, one message in flight; what queues up meanwhile goes together in
the next message. Accounts do not wait for each other. A message that was not acknowledged is published again
under the same id, and an entry leaves the outbox only after everything that follows from it was done, so that
a crash between two steps repeats a step and never skips one.

What was read belongs to one life of the store (see `continuity`): when the connection breaks, it is
forgotten, and reading begins again with the oldest entry once the store is known to continue LEDGER. Commits
that the store has lost are not published behind its back, and nothing is to a LEDGER that has lost messages.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import msgspec
import nats.errors

from services.ledger import codec, keys
from services.ledger.connection import Connection, Endpoint
from services.ledger.continuity import LIFE_REQUESTS, Continuity, JournalTail, life_of
from services.ledger.errors import LedgerError, NotConnected, RequestRefused, Unanswered
from services.ledger.events import Activated
from services.ledger.order import Order
from services.ledger.partition import PARTITIONS
from services.ledger.positions import Positions
from services.ledger.store import LOAD_LIBRARY, function, load_if_lost
from services.runtime.publisher import PubAck, PublishError
from services.runtime.tasks import end
from services.runtime.telemetry import counter, gauge, get_logger

T = TypeVar("T")

_log = get_logger("ledger.relay")
_backlog = gauge("ledger_relay_backlog", "Commits read from the outbox and not yet carried to LEDGER")
_retries = counter("ledger_relay_retries", "Steps of the relay that had to be repeated")

_BLOCK_MS: Final = 200
_READ_COUNT: Final = 256
_TRIM_INTERVAL: Final = 0.2
_BEGIN_WAIT: Final = 0.1
_RETRY_WAIT: Final = 0.05
_RETRY_WAIT_MAX: Final = 1.0
_ACTIVATED: Final = b'"activated":'
"""In every envelope with such an event, and hardly ever in another one."""
_VALKEY_ERRORS: Final = (NotConnected, Unanswered, RequestRefused)


class JournalPublisher(Protocol):
    """`services.runtime.publisher.Publisher`, as far as the relay uses it."""

    async def publish(self, subject: str, payload: bytes, msg_id: str, timeout: float = ...) -> PubAck:
        """Publishes to JetStream; raises `PublishError` when no acknowledgement came."""


@dataclass(frozen=True, slots=True)
class RelayOptions:
    """Where the outboxes are, and how much goes at once."""

    url: str = "redis://127.0.0.1:6379"
    db: int = 0
    partitions: int = PARTITIONS
    max_message_bytes: int = 256 * 1024
    """Commits are joined in one message up to this size; a single commit may be larger."""
    max_backlog: int = 20_000
    """Commits read and not yet carried at which reading pauses."""
    realtime_positions: bool = True
    """False: positions are published and projected at reconciliation only."""


class _Head(msgspec.Struct):
    """What the relay needs to know of an outbox entry."""

    account: str
    seq: int
    time_ns: int


_HEAD: Final = msgspec.json.Decoder(_Head)


@dataclass(slots=True)
class _Entry:
    entry_id: bytes
    head: _Head
    envelope: bytes
    positions: bytes | None
    sequence: int = 0
    """Of its message in LEDGER."""
    done: bool = False


class _Owned:
    """One owned partition: how far its outbox is read, and what of it is still under way."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.outbox = keys.outbox(partition).encode()
        self.cursor: bytes = b"0-0"
        self.entries: deque[_Entry] = deque()
        self.queues: dict[str, deque[_Entry]] = {}
        self.carriers: set[asyncio.Task[None]] = set()
        self.trim_to: bytes | None = None
        self.relayed = 0
        """Highest sequence in LEDGER of what lies before the trim point."""
        self.active = True
        self.life = ""
        """The life of the store that is read; empty: not begun."""
        self.session = 0
        """Rises whenever reading begins again."""
        self.beginning: asyncio.Task[None] | None = None


Activate = Callable[[Sequence[Order]], Awaitable[object]]
"""Sends orders that a commit activated to the venue; repeated after a `PublishError`, and after a crash."""


class Relay:
    """Carries the outboxes of the partitions that this worker owns; a `PartitionListener`."""

    def __init__(
        self,
        options: RelayOptions,
        publisher: JournalPublisher,
        positions: Positions,
        activate: Activate,
        journal: JournalTail,
    ) -> None:
        self._options = options
        self._publisher = publisher
        self._positions = positions
        self._activate = activate
        self._owned: dict[int, _Owned] = {}
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._queued = 0
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        blocking = Endpoint.parse(options.url, options.db, 1.0 + _BLOCK_MS / 1000)
        self._reader = Connection(
            blocking, prepare=LIFE_REQUESTS, life=life_of, invalidated=self._on_disconnected
        )
        self._writer = Connection(
            Endpoint.parse(options.url, options.db),
            prepare=(LOAD_LIBRARY, *LIFE_REQUESTS),
            life=life_of,
            invalidated=self._on_disconnected,
        )
        self._continuity = Continuity(self._writer, options.partitions, journal)

    @property
    def backlog(self) -> int:
        """Commits read from the outboxes whose way is not finished."""
        return self._queued

    @property
    def full(self) -> bool:
        """Whether so many commits wait that no more are read: LEDGER does not take them, or not as fast."""
        return self._queued >= self._options.max_backlog

    async def acquired(self, partition: int, fence: int) -> None:
        """Starts with the oldest entry of the partition's outbox."""
        owned = self._owned[partition] = _Owned(partition)
        self._begin_soon(owned)

    async def lost(self, partition: int) -> None:
        """Ends the partition's carriers. What they had not finished is repeated by the next owner."""
        owned = self._owned.pop(partition, None)
        if owned is None:
            return
        owned.active = False
        if owned.beginning is not None:
            await end(owned.beginning)
        await self._end_carriers(owned)
        self._count(-sum(not entry.done for entry in owned.entries))
        try:
            await self._trim(owned)
        except _VALKEY_ERRORS as error:
            # An entry that stays is carried again by the next owner, which is harmless.
            _log.debug("the outbox was not trimmed", error=str(error))

    async def open(self) -> None:
        """Connects; raises `NotConnected`."""
        await self._reader.open()
        await self._writer.open()

    async def run(self, stop: asyncio.Event) -> None:
        """Reads and carries until `stop`. Own it as a task: when it raises, nothing is carried any more."""
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(self._read_all())
            trimming = tasks.create_task(self._trim_all())
            stopping = tasks.create_task(stop.wait())
            waiting: list[asyncio.Future[Any]] = [stopping, self._failed]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            reading.cancel()
            trimming.cancel()
        if self._failed.done():
            self._failed.result()
        for partition in list(self._owned):
            await self.lost(partition)

    async def close(self) -> None:
        await self._reader.close()
        await self._writer.close()

    def _on_disconnected(self, _: object) -> None:
        """What was read may be lost in the store that comes back."""
        for owned in self._owned.values():
            owned.life = ""
            for task in owned.carriers:
                task.cancel()
            self._begin_soon(owned)

    def _begin_soon(self, owned: _Owned) -> None:
        if owned.active and owned.beginning is None:
            task = asyncio.create_task(self._begin(owned), name=f"relay {owned.partition}")
            owned.beginning = task
            task.add_done_callback(lambda task: self._begun(owned, task))

    def _begun(self, owned: _Owned, task: "asyncio.Task[None]") -> None:
        owned.beginning = None
        self._note_failure(task)
        if not task.cancelled() and not owned.life:
            # The connection broke again in the meantime.
            self._begin_soon(owned)

    async def _begin(self, owned: _Owned) -> None:
        """Starts with the oldest entry, once the partition may be used."""
        told = ""
        while True:
            await self._end_carriers(owned)
            self._count(-sum(not entry.done for entry in owned.entries))
            owned.entries.clear()
            owned.queues = {}
            owned.cursor, owned.trim_to, owned.relayed = b"0-0", None, 0
            owned.session += 1
            try:
                await self._continuity.ensure(owned.partition)
            except LedgerError as error:
                if str(error) != told:
                    told = str(error)
                    _log.warning("partition not relayed", partition=owned.partition, error=told)
            life = self._reader.life
            if (
                self._reader.connected
                and self._continuity.holds(owned.partition)
                and life == self._continuity.life
            ):
                owned.life = life
                self._changed.set()
                return
            await asyncio.sleep(_BEGIN_WAIT)

    async def _end_carriers(self, owned: _Owned) -> None:
        await end(*owned.carriers)

    async def _read_all(self) -> None:
        while True:
            await self._room.wait()
            read = {one.outbox: (one, one.session) for one in self._owned.values() if one.life}
            if not read:
                self._changed.clear()
                if not any(one.life for one in self._owned.values()):
                    await self._changed.wait()
                continue
            try:
                answer = await self._reader.request(
                    "XREAD", "COUNT", _READ_COUNT, "BLOCK", _BLOCK_MS, "STREAMS",
                    *read, *(one.cursor for one, _ in read.values()),
                )  # fmt: skip
            except NotConnected:
                await self._reader.wait_connected(1.0)
                continue
            except (Unanswered, RequestRefused) as error:
                _log.warning("the outbox could not be read", error=str(error))
                await asyncio.sleep(_RETRY_WAIT)
                continue
            if answer:
                for name, found in answer.items() if isinstance(answer, dict) else answer:
                    one, session = read[name]
                    if one.active and one.life and one.session == session:
                        self._take(one, found)

    def _take(self, owned: _Owned, found: Sequence[tuple[bytes, Sequence[bytes]]]) -> None:
        for entry_id, flat in found:
            owned.cursor = entry_id
            named = dict(zip(flat[::2], flat[1::2], strict=True))
            envelope = named[keys.ENVELOPE]
            entry = _Entry(entry_id, _HEAD.decode(envelope), envelope, named.get(keys.POSITIONS))
            owned.entries.append(entry)
            account = entry.head.account
            queue = owned.queues.get(account)
            if queue is not None:
                queue.append(entry)
                continue
            owned.queues[account] = deque((entry,))
            task = asyncio.create_task(self._carry(owned, account), name=f"relay {account}")
            owned.carriers.add(task)
            task.add_done_callback(lambda task: self._carried(owned, task))
        self._count(len(found))

    def _carried(self, owned: _Owned, task: "asyncio.Task[None]") -> None:
        owned.carriers.discard(task)
        self._note_failure(task)

    def _note_failure(self, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._failed.done():
            self._failed.set_exception(error)

    async def _carry(self, owned: _Owned, account: str) -> None:
        """Carries what is queued for one account, message after message."""
        queue = owned.queues[account]
        while queue:
            group = [queue.popleft()]
            size = len(group[0].envelope)
            while queue and size + len(queue[0].envelope) < self._options.max_message_bytes:
                size += len(queue[0].envelope)
                group.append(queue.popleft())
            sequence = await self._publish(owned.partition, account, group)
            if self._options.realtime_positions:
                await self._show(account, group)
            for entry in group:
                if _ACTIVATED in entry.envelope:
                    await self._send_activated(account, entry)
            for entry in group:
                entry.sequence = sequence
                entry.done = True
            self._count(-len(group))
            self._advance(owned)
        del owned.queues[account]

    async def _publish(self, partition: int, account: str, group: Sequence[_Entry]) -> int:
        """Publishes the group as one message; returns its sequence in LEDGER."""
        first, last = group[0].head.seq, group[-1].head.seq
        # The id names the content: an earlier try may have been cut off at another commit.
        msg_id = f"{account}:{first}" if first == last else f"{account}:{first}-{last}"
        payload = codec.join_commits([entry.envelope for entry in group])

        async def publish() -> PubAck:
            # No wait lies between the two, so this is the server that was looked at.
            await self._continuity.ensure(partition)
            return await self._publisher.publish(f"ledger.{partition}.{account}", payload, msg_id)

        ack = await self._until_done("ledger events are published again", account, publish)
        return ack.sequence

    async def _show(self, account: str, group: Sequence[_Entry]) -> None:
        changes = {
            change.symbol: (change, entry.head.time_ns)
            for entry in group
            if entry.positions is not None
            for change in codec.decode_positions(entry.positions)
        }
        if changes:
            await self._until_done(
                "positions are published again", account, lambda: self._positions.show(account, changes)
            )

    async def _send_activated(self, account: str, entry: _Entry) -> None:
        events = codec.decode_commit(entry.envelope).events
        orders = [event.order for event in events if isinstance(event, Activated)]
        if orders:
            await self._until_done("activated orders are sent again", account, lambda: self._activate(orders))

    async def _until_done(self, again: str, account: str, step: Callable[[], Awaitable[T]]) -> T:
        """Repeats a step until it succeeds; the first failure is worth a warning."""
        failures = 0
        while True:
            try:
                return await step()
            except (LedgerError, PublishError, nats.errors.Error) as error:
                log = _log.debug if failures else _log.warning
                log(again, account=account, error=str(error))
            failures += 1
            _retries.inc()
            await asyncio.sleep(min(_RETRY_WAIT_MAX, _RETRY_WAIT * 2 ** min(failures, 10)))

    def _advance(self, owned: _Owned) -> None:
        """Moves the trim point past the entries that are done, up to the first that is not."""
        entries = owned.entries
        last: bytes | None = None
        while entries and entries[0].done:
            entry = entries.popleft()
            last = entry.entry_id
            owned.relayed = max(owned.relayed, entry.sequence)
        if last is not None:
            milliseconds, _, number = last.partition(b"-")
            owned.trim_to = b"%s-%d" % (milliseconds, int(number) + 1)

    async def _trim_all(self) -> None:
        while True:
            await asyncio.sleep(_TRIM_INTERVAL)
            try:
                # Together, hence in one write that the server syncs once.
                await asyncio.gather(*(self._trim(owned) for owned in self._owned.values()))
            except _VALKEY_ERRORS as error:
                _log.debug("the outbox was not trimmed", error=str(error))
                if isinstance(error, RequestRefused) and self._writer.connected:
                    await load_if_lost(self._writer, error)

    async def _trim(self, owned: _Owned) -> None:
        until = owned.trim_to
        if until is not None and owned.life and owned.life == self._writer.life:
            # What was carried was committed before: the store continues LEDGER up to here. And nothing leaves
            # the outbox before it is known where LEDGER has it.
            noted = self._writer.request(
                "FCALL", function("relayed"), 1, keys.relayed(owned.partition), owned.relayed
            )
            trimmed = self._writer.request("XTRIM", owned.outbox, "MINID", until)
            await asyncio.gather(noted, trimmed)
            if owned.trim_to == until:
                owned.trim_to = None

    def _count(self, change: int) -> None:
        self._queued += change
        _backlog.set(self._queued)
        if self.full:
            self._room.clear()
        elif not self._room.is_set():
            self._room.set()
