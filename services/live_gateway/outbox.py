"""Tells what was decided: publishes journaled messages in order until the stream has them, each once.

One window of messages is in flight at a time. While all is well that is one write and one acknowledgement
each. When anything of a window is left open (no answer, a broken connection, a start after a crash), the
stream itself is read from the last position that is certain, what it holds is settled, and only the rest is
published again, verbatim and under the same message id. Nothing younger is published before, so an
account's reports keep their order and none is stored twice, however long the interruption was.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from nats.errors import Error as NatsError

from services.live_gateway.positions import Movement
from services.live_gateway.records import Outgoing
from services.live_gateway.streams import UNAVAILABLE, StreamMissing, read_until, stream_state
from services.runtime.journal_reader import StreamRegressed
from services.runtime.nats_client import MESSAGE_ID, NatsClient
from services.runtime.publisher import PubAck, Publisher, PublishError
from services.runtime.streams import ensure_streams
from services.runtime.telemetry import get_logger

WINDOW: Final = 1024
_RETRY_FIRST_SEC: Final = 0.05
_RETRY_LAST_SEC: Final = 1.0

_log = get_logger("live_gateway.outbox")

_OUTCOMES: Final = (PubAck, PublishError, NatsError)


class Waiting(NamedTuple):
    """A message in the outbox."""

    message: Outgoing
    movement: Movement | None
    """What it does to a position, when it is a trade."""
    batch: int
    """Number of the transaction that it was journaled with."""


class Outbox:
    """The messages for one stream. `run` is to be owned by the worker."""

    def __init__(
        self,
        client: NatsClient,
        publisher: Publisher,
        stream: str,
        *,
        created: str,
        sequence: int,
        on_settled: Callable[[list[Waiting]], None],
    ) -> None:
        """`created`, `sequence`: the stream, and up to where in it everything of ours is known to be settled.

        `on_settled` gets each window's messages once the stream has all of them.
        """
        self._client = client
        self._publisher = publisher
        self._stream = stream
        self._on_settled = on_settled
        self._waiting: deque[Waiting] = deque()
        self._in_flight = 0
        self._arrived = asyncio.Event()
        self._scanned = sequence
        self._last_batch = 0
        self.blocked = ""
        """Why messages wait although they were tried; empty while all is well."""
        self.created = created
        self.sequence = sequence
        """The positions that `on_settled` was told of stand at this sequence of the stream."""
        self.certain_sequence = sequence
        """Nothing of what is not published up to `published_batch` stands in the stream up to here."""
        self.published_batch = 0
        """Number of the last batch that is published whole; 0: none since the start."""

    @property
    def size(self) -> int:
        """Messages that are not known to be in the stream."""
        return len(self._waiting) + self._in_flight

    def add(self, batch: int, messages: Iterable[tuple[Outgoing, Movement | None]]) -> None:
        """Appends a journaled batch; numbers grow."""
        self._waiting.extend(Waiting(message, movement, batch) for message, movement in messages)
        self._last_batch = batch
        self._arrived.set()

    async def run(self) -> None:
        """Publishes for ever. What waits at the start may have been published before a crash, in part."""
        restored_batch = self._last_batch
        await self._drop_stored()
        while True:
            if not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            window = self._next_window()
            await self._settle(window)
            self._in_flight = 0
            self._note_batch(window[-1].batch, restored_batch)
            self._on_settled(window)

    async def _drop_stored(self) -> None:
        """Settles those of the waiting messages that the stream has."""
        stored = await self._when_available({one.message.msg_id for one in self._waiting})
        settled = [one for one in self._waiting if one.message.msg_id in stored]
        self._waiting = deque(one for one in self._waiting if one.message.msg_id not in stored)
        self.sequence = max(self.sequence, *stored.values(), 0)
        self.blocked = ""
        if settled:
            self._note_batch(0, self._last_batch)
            self._on_settled(settled)

    def _note_batch(self, batch: int, restored_batch: int) -> None:
        """Moves on what is journaled of the progress, when a batch was completed.

        While restored batches wait, the stream may hold some of their messages already, so that the next
        start has to look for them from the old sequence on.
        """
        if not self._waiting:
            self.published_batch = self._last_batch
        elif self._waiting[0].batch != batch:
            self.published_batch = self._waiting[0].batch - 1
        else:
            return
        if self.published_batch >= restored_batch:
            self.certain_sequence = self.sequence

    def _next_window(self) -> list[Waiting]:
        """Takes whole batches, as many as fit; or a part of one that does not fit."""
        waiting = self._waiting
        window = [waiting.popleft() for _ in range(min(WINDOW, len(waiting)))]
        if waiting and waiting[0].batch == window[-1].batch != window[0].batch:
            while window[-1].batch == waiting[0].batch:
                waiting.appendleft(window.pop())
        self._in_flight = len(window)
        return window

    async def _settle(self, window: list[Waiting]) -> None:
        """Returns when the stream has every message of the window."""
        waiting = [one.message for one in window]
        acknowledged: list[int] = []
        recreated = False
        retry_sec = _RETRY_FIRST_SEC
        while waiting:
            outcomes = await self._publish(waiting)
            left = []
            for message, outcome in zip(waiting, outcomes, strict=True):
                if isinstance(outcome, PubAck):
                    acknowledged.append(outcome.sequence)
                    recreated |= outcome.sequence <= self.sequence and not outcome.duplicate
                else:
                    left.append(message)
                    self.blocked = str(outcome)
            if left:
                _log.warning("not acknowledged", stream=self._stream, count=len(left), error=self.blocked)
                await asyncio.sleep(retry_sec)
                retry_sec = min(retry_sec * 2, _RETRY_LAST_SEC)
                stored = await self._when_available({one.msg_id for one in left})
                acknowledged += stored.values()
                left = [one for one in left if one.msg_id not in stored]
            waiting = left
        if recreated:
            await self._when_available(set())
        self.sequence, self.blocked = max(self.sequence, *acknowledged, 0), ""

    async def _when_available(self, msg_ids: set[str]) -> dict[str, int]:
        """Which of these messages the stream holds, message id → sequence; waits for the server."""
        retry_sec = _RETRY_FIRST_SEC
        while True:
            try:
                return await self._stored(msg_ids)
            except (*UNAVAILABLE, StreamRegressed) as error:
                self.blocked = str(error) or type(error).__name__
                _log.warning("stream unavailable", stream=self._stream, error=self.blocked)
                await asyncio.sleep(retry_sec)
                retry_sec = min(retry_sec * 2, _RETRY_LAST_SEC)

    async def _publish(self, messages: list[Outgoing]) -> list[PubAck | PublishError | NatsError]:
        publish = self._publisher.publish
        outcomes = await asyncio.gather(
            *(publish(one.subject, one.payload, one.msg_id) for one in messages), return_exceptions=True
        )
        for outcome in outcomes:
            if not isinstance(outcome, _OUTCOMES):
                raise outcome
        return [outcome for outcome in outcomes if isinstance(outcome, _OUTCOMES)]

    async def _stored(self, msg_ids: set[str]) -> dict[str, int]:
        """Looks into what the stream got since the last window, or the last look; notices another stream."""
        try:
            state = await stream_state(self._client, self._stream)
        except StreamMissing:
            await ensure_streams(self._client.jetstream(), (self._stream,))
            state = await stream_state(self._client, self._stream)
        if state.created != self.created or state.last_seq < self.sequence:
            if self.created:
                _log.warning("stream was recreated", stream=self._stream, created=state.created)
            self.created, self.sequence, self.certain_sequence = state.created, 0, 0
            self._scanned = 0
        found: dict[str, int] = {}
        after = max(self._scanned, self.sequence)
        if msg_ids:
            async for batch in read_until(self._client, self._stream, after, state):
                for message in batch:
                    msg_id = message.headers.get(MESSAGE_ID, "")
                    if msg_id in msg_ids:
                        found[msg_id] = message.sequence
        self._scanned = state.last_seq
        return found
