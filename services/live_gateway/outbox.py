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
from nats.js.errors import Error as JetStreamError

from services.live_gateway.positions import Movement
from services.live_gateway.records import Outgoing
from services.live_gateway.streams import StreamMissing, StreamUnavailable, read_until, stream_state
from services.runtime.connections import NatsClient
from services.runtime.journal_reader import StreamRegressed
from services.runtime.publisher import PubAck, Publisher, PublishError
from services.runtime.streams import ensure_streams
from services.runtime.telemetry import get_logger

WINDOW: Final = 1024
_RETRY_FIRST_SEC: Final = 0.05
_RETRY_LAST_SEC: Final = 1.0

_log = get_logger("live_gateway.outbox")

_UNAVAILABLE: Final = (
    NatsError,
    JetStreamError,
    StreamMissing,
    StreamUnavailable,
    StreamRegressed,
    OSError,
    TimeoutError,
)


_OUTCOMES: Final = (PubAck, PublishError, NatsError)


class Waiting(NamedTuple):
    """A message in the outbox."""

    message: Outgoing
    movement: Movement | None
    """What it does to a position, when it is a trade."""
    completes: int
    """Number of the batch that is published with it; 0 when more of its batch follows."""


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
        self._sure = False
        self.blocked = ""
        """Why messages wait although they were tried; empty while all is well."""
        self.created = created
        self.sequence = sequence
        """All messages that were settled stand in the stream up to here, and none that was not."""
        self.certain_sequence = sequence
        """The same when `published_batch` was complete: what is journaled with that number."""
        self.published_batch = 0
        """Number of the last batch that is published whole; 0: none since the start."""

    @property
    def size(self) -> int:
        """Messages that are not known to be in the stream."""
        return len(self._waiting) + self._in_flight

    def add(self, batch: int, messages: Iterable[tuple[Outgoing, Movement | None]]) -> None:
        """Appends a journaled batch; numbers grow."""
        waiting = self._waiting
        for message, movement in messages:
            waiting.append(Waiting(message, movement, 0))
        last = waiting.pop()
        waiting.append(last._replace(completes=batch))
        self._arrived.set()

    async def run(self) -> None:
        """Publishes for ever."""
        while True:
            if not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            window = self._next_window()
            await self._settle(window)
            self._in_flight = 0
            if window[-1].completes:
                self.published_batch, self.certain_sequence = window[-1].completes, self.sequence
            self._on_settled(window)

    def _next_window(self) -> list[Waiting]:
        """Takes whole batches, as many as fit; or a part of one that does not fit."""
        waiting = self._waiting
        window: list[Waiting] = []
        whole = 0
        while waiting and len(window) < WINDOW:
            window.append(waiting.popleft())
            if window[-1].completes:
                whole = len(window)
        if whole:
            waiting.extendleft(reversed(window[whole:]))
            del window[whole:]
        self._in_flight = len(window)
        return window

    async def _settle(self, window: list[Waiting]) -> None:
        """Returns when the stream has every message of the window."""
        open_ones = [one.message for one in window]
        reached = self.sequence
        retry_sec = _RETRY_FIRST_SEC
        while True:
            if not self._sure:
                try:
                    stored = await self._stored({one.msg_id for one in open_ones})
                except _UNAVAILABLE as error:
                    _log.warning(
                        "stream unavailable", stream=self._stream, waiting=self.size, error=str(error)
                    )
                    await asyncio.sleep(retry_sec)
                    retry_sec = min(retry_sec * 2, _RETRY_LAST_SEC)
                    continue
                open_ones = [one for one in open_ones if one.msg_id not in stored]
                reached = max(reached, self.sequence, *stored.values(), 0)
                self._sure = True
            outcomes = await self._publish(open_ones)
            failed = []
            for message, outcome in zip(open_ones, outcomes, strict=True):
                if isinstance(outcome, PubAck):
                    reached = max(reached, outcome.sequence)
                else:
                    failed.append((message, outcome))
            if not failed:
                self.sequence, self.blocked = reached, ""
                return
            open_ones = [message for message, _ in failed]
            self._sure = False
            self.blocked = str(failed[0][1])
            _log.warning("not acknowledged", stream=self._stream, count=len(failed), error=self.blocked)
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
        """Which of these messages the stream holds, message id → sequence."""
        try:
            state = await stream_state(self._client, self._stream)
        except StreamMissing:
            await ensure_streams(self._client.jetstream(), (self._stream,))
            state = await stream_state(self._client, self._stream)
        if state.created != self.created or state.last_seq < self.sequence:
            if self.created:
                _log.warning("stream was recreated", stream=self._stream, created=state.created)
            self.created, self.sequence, self.certain_sequence = state.created, 0, 0
        found: dict[str, int] = {}
        async for batch in read_until(self._client, self._stream, self.sequence, state):
            for message in batch:
                msg_id = (message.headers or {}).get("Nats-Msg-Id", "")
                if msg_id in msg_ids:
                    found[msg_id] = message.sequence
        return found
