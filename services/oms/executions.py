"""The drop copy: everything that happens to an account, in order, from any event on, without gap or double.

Stream LEDGER is the journal of every account; its messages hold consecutive commits, and each event has a
number in its account. Where to begin reading is found by bisection over the stream, a handful of single
messages instead of the account's history. A reader that does not keep up holds back the server, and fills no
memory here.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final

from nats.errors import Error as NatsError
from nats.js.api import RawStreamMsg
from nats.js.errors import Error as JetStreamError
from nats.js.errors import NotFoundError

from services.ledger.codec import Commit, UnknownFormat, decode_commits
from services.ledger.events import Event
from services.ledger.partition import partition_of
from services.runtime.errors import FailedPrecondition, ResourceExhausted, Unavailable
from services.runtime.journal_reader import Message, StreamReader
from services.runtime.nats_client import NatsClient
from services.runtime.streams import LEDGER
from services.runtime.tasks import end
from services.runtime.telemetry import gauge, get_logger

MAX_STREAMS: Final = 1_000
"""Drop copies of one worker."""
API_TIMEOUT_SEC: Final = 2.0

_open: Final = gauge("oms_drop_copies", "Drop copies that are followed.")
_log = get_logger("oms.executions")


@dataclass(frozen=True, slots=True)
class NumberedEvent:
    """An event of an account. `time_ns` is when it was committed."""

    number: int
    time_ns: int
    event: Event


@dataclass(frozen=True, slots=True)
class Start:
    """Where a drop copy begins: the stream's sequence to read from, and the last event not to be told."""

    sequence: int
    seen: int


class DropCopies:
    """Follows accounts; one a worker."""

    def __init__(self, nats: NatsClient, partitions: int) -> None:
        self._nats = nats
        self._js = nats.jetstream(timeout=API_TIMEOUT_SEC)
        self._partitions = partitions
        self._followed = 0
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Ends every drop copy, with an error that tells the client to come back."""
        self._stopping.set()

    async def follow(
        self,
        account: str,
        after: int,
        *,
        live_only: bool,
        heartbeat_sec: float,
        holding: AbstractAsyncContextManager[object],
    ) -> AsyncIterator[NumberedEvent | int]:
        """Events after number `after` (or after now), for ever, and heartbeats.

        `holding` is entered when it is certain that there is something to follow, and left at the end. When
        nothing came for `heartbeat_sec`, the number of the last event told is yielded. Raises
        `FailedPrecondition` when `after` is not a number to resume from, `ResourceExhausted`, and
        `Unavailable` when the stream cannot be read or oms stops.
        """
        if self._followed >= MAX_STREAMS:
            raise ResourceExhausted(f"{MAX_STREAMS} drop copies are followed here")
        self._followed += 1
        _open.inc()
        try:
            start = await self._start(account, after, live_only)
            reading = StreamReader(
                self._nats, LEDGER, subjects=(self._subject(account),), start_sequence=start.sequence
            )
            async with holding, reading as reader:
                async for item in self._tell(reader, start.seen, heartbeat_sec):
                    yield item
        finally:
            self._followed -= 1
            _open.dec()

    async def _tell(
        self, reader: StreamReader, seen: int, heartbeat_sec: float
    ) -> AsyncIterator[NumberedEvent | int]:
        loop = asyncio.get_running_loop()
        batches = reader.batches()
        stopped = loop.create_task(self._stopping.wait(), name="drop copy stop")
        # The generator must not be cancelled for a heartbeat: one request for a batch lasts until it comes.
        coming: asyncio.Task[list[Message]] = loop.create_task(_next(batches), name="drop copy")
        try:
            while True:
                done, _ = await asyncio.wait(
                    (coming, stopped), timeout=heartbeat_sec, return_when=asyncio.FIRST_COMPLETED
                )
                if stopped in done:
                    raise Unavailable("oms is stopping; resume after the last event", reason="NOT_READY")
                if coming not in done:
                    yield seen
                    continue
                batch = coming.result()
                for message in batch:
                    for numbered in events_after(decode(message.data), seen):
                        seen = numbered.number
                        yield numbered
                coming = loop.create_task(_next(batches), name="drop copy")
        finally:
            await end(coming)
            await end(stopped)

    def _subject(self, account: str) -> str:
        return f"ledger.{partition_of(account, self._partitions)}.{account}"

    async def _start(self, account: str, after: int, live_only: bool) -> Start:
        try:
            return await self._find(self._subject(account), after, live_only)
        except (NatsError, JetStreamError, TimeoutError, OSError) as error:
            _log.warning("drop copy not started", account=account, error=f"{type(error).__name__}: {error}")
            raise Unavailable("the journal of the ledger cannot be read now") from None

    async def _find(self, subject: str, after: int, live_only: bool) -> Start:
        newest = await self._last(subject)
        if newest is None:
            if after:
                raise _not_there(after, 0)
            return Start(1, 0)
        last_number = last_event(decode(newest.data or b""))
        newest_sequence = newest.seq or 0
        if live_only:
            return Start(newest_sequence + 1, last_number)
        if after > last_number:
            raise _not_there(after, last_number)
        if after == last_number:
            return Start(newest_sequence + 1, after)
        if after == 0:
            first = await self._next(subject, 1)
            return _checked(first, after)
        # Invariant: the message at `low` begins at or before the wanted event, or is the first; the one at
        # `high` begins after it, or is the newest.
        low, high, found = 1, newest_sequence, None
        while low < high:
            middle = (low + high + 1) // 2
            candidate = await self._next(subject, middle)
            if candidate is not None and first_event(decode(candidate.data or b"")) <= after + 1:
                low = max(middle, candidate.seq or 0)
                found = candidate
                if low >= high:
                    break
            else:
                high = middle - 1
        if found is None:
            found = await self._next(subject, low)
        return _checked(found, after)

    async def _last(self, subject: str) -> RawStreamMsg | None:
        try:
            return await self._js.get_last_msg(LEDGER, subject, direct=True)
        except NotFoundError:
            return None

    async def _next(self, subject: str, sequence: int) -> RawStreamMsg | None:
        """The first message of `subject` at or after `sequence`."""
        try:
            return await self._js.get_msg(LEDGER, seq=sequence, subject=subject, next=True, direct=True)
        except NotFoundError:
            return None


async def _next(batches: AsyncIterator[list[Message]]) -> list[Message]:
    return await anext(batches)


def events_after(commits: tuple[Commit, ...], seen: int) -> list[NumberedEvent]:
    """The events of one message with numbers above `seen`. Messages may repeat and overlap.

    Raises `Unavailable` when the next number is missing: the journal has a hole.
    """
    events: list[NumberedEvent] = []
    for commit in commits:
        for number, event in enumerate(commit.events, commit.seq):
            if number <= seen:
                continue
            if number != seen + 1:
                _log.error("journal has a gap", account=commit.account, after=seen, found=number)
                raise Unavailable(f"event {seen + 1} of account {commit.account} is missing in the journal")
            seen = number
            events.append(NumberedEvent(number, commit.time_ns, event))
    return events


def decode(data: bytes) -> tuple[Commit, ...]:
    """The commits of a message. Raises `Unavailable` for a format that this version does not know."""
    try:
        return decode_commits(data)
    except UnknownFormat as error:
        _log.error("journal not readable", error=str(error))
        raise Unavailable("the journal of the ledger holds a format that is not known here") from None


def first_event(commits: tuple[Commit, ...]) -> int:
    """Number of the first event in a message."""
    return commits[0].seq


def last_event(commits: tuple[Commit, ...]) -> int:
    """Number of the last event in a message."""
    return commits[-1].seq + len(commits[-1].events) - 1


def _checked(message: RawStreamMsg | None, after: int) -> Start:
    if message is None:
        raise Unavailable("the journal of the ledger cannot be read now")
    first = first_event(decode(message.data or b""))
    if first > after + 1:
        raise FailedPrecondition(
            f"events up to {first - 1} are no longer kept; resume after {first - 1}",
            reason="EVENTS_EXPIRED",
            metadata={"oldest_sequence": str(first)},
        )
    return Start(message.seq or 1, after)


def _not_there(after: int, last: int) -> FailedPrecondition:
    return FailedPrecondition(
        f"the account has no event {after}; its last one is {last}",
        reason="SEQUENCE_UNKNOWN",
        metadata={"last_sequence": str(last)},
    )
