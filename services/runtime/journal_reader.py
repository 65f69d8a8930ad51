"""Reading a stream in order, every message once, from a given sequence on, as lists of what has arrived.

The server sends to an inbox what an ephemeral consumer without acknowledgements is asked for. Requests are
renewed while messages are taken, so at most `WINDOW` messages are on their way or waiting here, however far
behind a reader is. Heartbeats tell that the server still knows of the request. Every gap, error and silence
ends in the same way: a new consumer from the last received sequence + 1. The reader stores nothing; where to
start is the caller's checkpoint.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Final, Self

import msgspec
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import BadRequestError

from services.runtime.nats_client import NatsClient, read_headers
from services.runtime.telemetry import get_logger

WINDOW: Final = 1024
"""Messages that are asked for and not yet handed out."""
HEARTBEAT_SEC: Final = 1.0
SILENCE_SEC: Final = 3.0
RETRY_SEC: Final = 0.25
_REQUEST_SEC: Final = 30.0
_INACTIVE_SEC: Final = 60.0
_API_TIMEOUT_SEC: Final = 5.0
_NANOSECONDS: Final = 1_000_000_000

_log = get_logger("runtime.journal_reader")


class StreamRegressed(Exception):
    """The stream ends before a message that was already read: the server lost what it had acknowledged."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """One stored message."""

    sequence: int
    """Its sequence in the stream, from 1."""
    subject: str
    """The subject it is stored under."""
    data: bytes
    raw_headers: bytes | None
    """Its headers as they came; `headers` reads them."""
    time_ns: int
    """When the server stored it, nanoseconds since the epoch."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers by name."""
        return read_headers(self.raw_headers)


class StreamReader:
    """Reads one stream, or some of its subjects, in order. To be closed, or used in `async with`."""

    def __init__(
        self,
        client: NatsClient,
        stream: str,
        *,
        subjects: Sequence[str] = (),
        start_sequence: int = 1,
        silence_sec: float = SILENCE_SEC,
    ) -> None:
        """Starts at the first stored message with sequence ≥ `start_sequence` that matches one of `subjects`.

        No `subjects`: all. `silence_sec`: after so long without a sign of the server the consumer is made
        again.
        """
        self._client = client
        self._stream = stream
        self._subjects = tuple(subjects)
        self._silence_sec = silence_sec
        self._received = start_sequence - 1
        self._delivered = start_sequence - 1
        self._pending = 0
        self._arrived: deque[Message] = deque()
        self._wake = asyncio.Event()
        self._consumer: _Consumer | None = None
        self._restarts = -1
        self._told = ""
        self._closed = False

    @property
    def position(self) -> int:
        """Sequence of the last message handed out; `start_sequence` - 1 before the first."""
        return self._delivered

    @property
    def pending(self) -> int:
        """Matching messages that were stored, but not handed out yet, when the server last told: 0 is caught
        up.

        Known from the first list on; before it, 0.
        """
        return self._pending + len(self._arrived)

    @property
    def live(self) -> bool:
        """Whether the server is sending what it has; False while a consumer has to be made. For health."""
        return self._consumer is not None and self._consumer.asked and not self._consumer.broken

    @property
    def restarts(self) -> int:
        """How often the consumer had to be made again."""
        return max(self._restarts, 0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def batches(self, max_messages: int = 512, linger_sec: float = 0.0) -> AsyncIterator[list[Message]]:
        """Yields lists of 1 … `max_messages` messages, in order, for ever; ends after `close`.

        Whatever has arrived is one list; nothing is awaited to fill it. A reader for whom nobody waits gives
        others `linger_sec` to arrive too: fewer, longer lists. Outlives any absence of the server. Raises
        `StreamRegressed`, and `nats.js.errors.BadRequestError` for subjects that the stream cannot have.
        """
        while not self._closed:
            consumer = self._consumer
            if consumer is not None:
                await consumer.request(WINDOW - consumer.outstanding - len(self._arrived))
            if self._arrived:
                if linger_sec and len(self._arrived) < max_messages and await self._closed_within(linger_sec):
                    return
                yield self._take(max_messages)
                continue
            if consumer is None or consumer.broken:
                await self._open(consumer)
                continue
            self._wake.clear()
            await self._wake.wait()

    async def close(self) -> None:
        """Ends `batches` and removes the consumer."""
        self._closed = True
        self._wake.set()
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.drop()

    async def _closed_within(self, seconds: float) -> bool:
        await asyncio.sleep(seconds)
        return self._closed

    def _take(self, max_messages: int) -> list[Message]:
        if len(self._arrived) <= max_messages:
            batch = list(self._arrived)
            self._arrived.clear()
        else:
            batch = [self._arrived.popleft() for _ in range(max_messages)]
        self._delivered = batch[-1].sequence
        return batch

    async def _open(self, previous: "_Consumer | None") -> None:
        if previous is not None:
            if previous.broken != self._told:
                self._told = previous.broken
                _log.warning(
                    "stream reader restarts",
                    stream=self._stream,
                    after=self._received,
                    reason=previous.broken,
                )
            await previous.drop()
        consumer = self._consumer = _Consumer(self._client, self._stream, self, self._silence_sec)
        try:
            await consumer.open(self._subjects, self._received)
        except BadRequestError:
            raise
        except (NatsError, OSError, TimeoutError) as error:
            consumer.broken = f"{type(error).__name__}: {error}"
            await asyncio.sleep(RETRY_SEC)
        else:
            self._restarts += 1
            self._told = ""

    def _on_message(self, message: Message, pending: int) -> None:
        self._received = message.sequence
        self._pending = pending
        self._arrived.append(message)
        self._wake.set()

    def _on_change(self) -> None:
        self._wake.set()


class _Consumer:
    """One life of the consumer on the server. It never mends itself: once `broken`, it is replaced."""

    def __init__(self, client: NatsClient, stream: str, reader: StreamReader, silence_sec: float) -> None:
        self.broken = ""
        self.outstanding = 0
        """Messages asked for and not arrived."""
        self._client = client
        self._stream = stream
        self._reader = reader
        self._name = ""
        self._inbox = client.new_inbox()
        self._subscription: Subscription | None = None
        self._requests = 0
        self._sequence = 0
        self._reconnects = client.stats["reconnects"]
        self._loop = asyncio.get_running_loop()
        self._last_sign = self._loop.time()
        self._silence_sec = silence_sec
        self._watch: asyncio.TimerHandle | None = None

    async def open(self, subjects: Sequence[str], after: int) -> None:
        """Makes the consumer, so that its first message is the first one after the sequence `after`."""
        js = self._client.jetstream(timeout=_API_TIMEOUT_SEC)
        last = (await js.stream_info(self._stream)).state.last_seq
        if last < after:
            raise StreamRegressed(f"stream {self._stream} ends at {last}, but {after} was already read")
        self._subscription = await self._client.subscribe_directly(f"{self._inbox}.*", self._on_message)
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=after + 1,
            ack_policy=AckPolicy.NONE,
            inactive_threshold=_INACTIVE_SEC,
            mem_storage=True,
            num_replicas=1,
        )
        if len(subjects) == 1:
            config.filter_subject = subjects[0]
        elif subjects:
            config.filter_subjects = list(subjects)
        info = await js.add_consumer(self._stream, config)
        self._name = info.name
        self._last_sign = self._loop.time()
        self._look()

    @property
    def asked(self) -> bool:
        """Whether it was made and asked for messages."""
        return self._requests > 0

    async def request(self, count: int) -> None:
        """Asks for `count` messages more, once that is half a window, so that requests stay rare."""
        if count < WINDOW // 2 or self.broken:
            return
        self._requests += 1
        if not self.outstanding:
            # Nothing was asked for, so nothing could be heard.
            self._last_sign = self._loop.time()
        self.outstanding += count
        request = {
            "batch": count,
            "expires": round(_REQUEST_SEC * _NANOSECONDS),
            "idle_heartbeat": round(HEARTBEAT_SEC * _NANOSECONDS),
        }
        try:
            await self._client.publish(
                f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._name}",
                msgspec.json.encode(request),
                reply=f"{self._inbox}.{self._requests}",
            )
        except NatsError as error:
            self._break(type(error).__name__)

    def _look(self) -> None:
        """Breaks the consumer when the server forgot its requests: after a reconnection, or a long silence.

        Looks again and again until it is broken.
        """
        if self.broken:
            return
        if self._client.stats["reconnects"] != self._reconnects:
            self._break("reconnected")
        elif self.outstanding > 0 and self._loop.time() - self._last_sign > self._silence_sec:
            self._break(f"silent for {self._silence_sec:g} s")
        else:
            self._watch = self._loop.call_later(HEARTBEAT_SEC / 2, self._look)

    async def drop(self) -> None:
        """Ends the subscription, and the consumer if the server can be told."""
        self.broken = self.broken or "closed"
        if self._watch is not None:
            self._watch.cancel()
        try:
            if self._subscription is not None and not self._client.is_closed:
                await self._subscription.unsubscribe()
            if self._name and self._client.is_connected:
                await self._client.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._name}")
        except NatsError as error:
            _log.debug("consumer not removed", stream=self._stream, error=type(error).__name__)

    def _on_message(self, subject: str, reply: str, data: bytes, headers: bytes | None) -> None:
        self._last_sign = self._loop.time()
        if self.broken:
            return
        if not reply:
            self._on_status(read_headers(headers))
            return
        # $JS.ACK.<stream>.<consumer>.<deliveries>.<stream sequence>.<consumer sequence>.<time>.<pending>;
        # newer servers put a domain and an account before the stream's name.
        tokens = reply.split(".")
        first = 5 if len(tokens) == 9 else 7
        sequence, own, time_ns, pending = tokens[first : first + 4]
        if int(own) != self._sequence + 1:
            self._break(f"gap after message {self._sequence} of the consumer")
            return
        self._sequence += 1
        self.outstanding -= 1
        message = Message(int(sequence), subject, data, headers, int(time_ns))
        self._reader._on_message(message, int(pending))

    def _on_status(self, headers: Mapping[str, str]) -> None:
        status = headers.get("Status")
        if status == "100":
            last = headers.get("Nats-Last-Consumer")
            if last is not None and int(last) != self._sequence:
                self._break(f"the server sent {last} messages, {self._sequence} arrived")
        elif status in ("404", "408"):
            # The request is over. What it did not bring is asked for again.
            self.outstanding -= int(headers.get("Nats-Pending-Messages", 0))
            self._reader._on_change()
        else:
            self._break(f"{status} {headers.get('Description', '')}")

    def _break(self, reason: str) -> None:
        self.broken = reason
        self._reader._on_change()
