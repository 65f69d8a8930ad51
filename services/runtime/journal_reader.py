"""Reading a stream in order, every message once, from a given sequence on, as lists of what has arrived.

The server pushes into an inbox through an ephemeral consumer without acknowledgements; flow control keeps it
from running ahead of the reader, heartbeats tell that it lives. Every gap and every silence ends in the same
way: the consumer is made again, from the last delivered sequence + 1. The reader stores nothing; where to
start is the caller's checkpoint.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import msgspec
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError
from nats.js.errors import Error as JetStreamError

from services.runtime.telemetry import get_logger

HEARTBEAT_SEC: Final = 1.0
SILENCE_SEC: Final = 3.0
RETRY_SEC: Final = 0.25
INACTIVE_SEC: Final = 30.0
_API_TIMEOUT_SEC: Final = 2.0

_log = get_logger("runtime.journal_reader")


class StreamRegressed(Exception):
    """The stream ends before a message that was already read: the server lost data it had acknowledged."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """One stored message."""

    sequence: int
    """Its sequence in the stream, from 1."""
    subject: str
    """The subject it is stored under."""
    data: bytes
    headers: Mapping[str, str] | None
    time_ns: int
    """When the server stored it, nanoseconds since the epoch."""


class StreamReader:
    """Reads one stream (or some of its subjects) in order. Use as an asynchronous context manager."""

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

        No `subjects`: all. `silence_sec`: without any sign of the server for so long, the consumer is made
        again.
        """
        self._client = client
        self._js = client.jetstream(timeout=_API_TIMEOUT_SEC)
        self._stream = stream
        self._subjects = list(subjects)
        self._silence_sec = silence_sec
        self._loop = asyncio.get_running_loop()
        self._arrived: deque[Message] = deque()
        self._owed: str | None = None
        self._wake = asyncio.Event()
        self._received = start_sequence - 1
        self._delivered = start_sequence - 1
        self._known_last = start_sequence - 1
        self._consumer_sequence = 0
        self._consumer = ""
        self._subscription: Subscription | None = None
        self._broken = "not started"
        self._last_sign = 0.0
        self._pending = 0
        self._closed = False
        self._restarts = -1

    @property
    def position(self) -> int:
        """Sequence of the last message handed out (`start_sequence` - 1 before the first)."""
        return self._delivered

    @property
    def pending(self) -> int:
        """Messages that match and were stored after the last one received, as the server said with that
        one."""
        return self._pending + len(self._arrived)

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

    async def batches(self, max_messages: int = 512) -> AsyncIterator[list[Message]]:
        """Yields lists of 1 … `max_messages` messages, in order, for ever; ends after `close`.

        Whatever has arrived is one list; nothing is awaited to fill it. Survives the server's absence. Raises
        `StreamRegressed`.
        """
        while not self._closed:
            if self._broken:
                await self._open_consumer()
                continue
            if not self._arrived:
                await self._acknowledge_flow()
                self._wake.clear()
                remaining = self._last_sign + self._silence_sec - self._loop.time()
                if remaining <= 0:
                    self._broken = f"silent for {self._silence_sec:g} s"
                    continue
                try:
                    async with asyncio.timeout(remaining):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                continue
            if len(self._arrived) <= max_messages:
                batch = list(self._arrived)
                self._arrived.clear()
            else:
                batch = [self._arrived.popleft() for _ in range(max_messages)]
            self._delivered = batch[-1].sequence
            yield batch

    def reconnected(self) -> None:
        """May be called after a reconnection, to look at once whether the consumer still exists."""
        if not self._broken:
            self._broken = "reconnected"
        self._wake.set()

    async def close(self) -> None:
        """Ends `batches` and removes the consumer."""
        self._closed = True
        self._wake.set()
        await self._drop_consumer()

    async def _open_consumer(self) -> None:
        if self._restarts >= 0:
            _log.info(
                "stream reader restarts", stream=self._stream, after=self._received, because=self._broken
            )
        self._restarts += 1
        await self._drop_consumer()
        try:
            await self._create_consumer()
        except (NatsError, JetStreamError, OSError, TimeoutError) as error:
            if isinstance(error, APIError) and error.code == 400:
                raise
            self._broken = f"{type(error).__name__}: {error}"
            await asyncio.sleep(RETRY_SEC)

    async def _create_consumer(self) -> None:
        last = (await self._js.stream_info(self._stream)).state.last_seq
        if last < self._received and last < self._known_last:
            raise StreamRegressed(f"{self._stream} ends at {last}, but {self._received} was already read")
        inbox = self._client.new_inbox()
        self._consumer_sequence = 0
        self._consumer = ""
        self._owed = None
        self._broken = ""
        self._last_sign = self._loop.time()
        # Unlimited here: flow control bounds what is on its way, and a drop would only mean reading it again.
        self._subscription = await self._client.subscribe(
            inbox, cb=self._on_message, pending_msgs_limit=0, pending_bytes_limit=0
        )
        config = ConsumerConfig(
            deliver_subject=inbox,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=self._received + 1,
            ack_policy=AckPolicy.NONE,
            max_deliver=1,
            flow_control=True,
            idle_heartbeat=HEARTBEAT_SEC,
            inactive_threshold=INACTIVE_SEC,
            mem_storage=True,
            num_replicas=1,
        )
        if len(self._subjects) == 1:
            config.filter_subject = self._subjects[0]
        elif self._subjects:
            config.filter_subjects = self._subjects
        info = await self._js.add_consumer(self._stream, config)
        self._consumer = info.name or ""
        self._pending = (info.num_pending or 0) if not self._consumer_sequence else self._pending

    async def _drop_consumer(self) -> None:
        subscription, self._subscription = self._subscription, None
        consumer, self._consumer = self._consumer, ""
        if self._client.is_closed:
            return
        try:
            if subscription is not None:
                await subscription.unsubscribe()
            if consumer and self._client.is_connected:
                await self._client.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{consumer}", b"")
        except NatsError as error:
            _log.debug("consumer not removed", stream=self._stream, error=str(error))

    async def _acknowledge_flow(self) -> None:
        owed, self._owed = self._owed, None
        if owed is not None and self._client.is_connected:
            await self._client.publish(owed, b"")

    async def _on_message(self, raw: Msg) -> None:
        if raw.subject and self._subscription is not None and raw.sid != self._subscription._id:
            return
        self._last_sign = self._loop.time()
        reply = raw.reply
        if not reply.startswith("$JS.ACK."):
            self._on_control(raw)
            return
        if self._broken:
            return
        tokens = reply.split(".")
        # $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>, or with two
        # tokens (domain, account) before the stream's name.
        if len(tokens) > 9:
            del tokens[2:4]
        consumer_sequence = int(tokens[6])
        if consumer_sequence != self._consumer_sequence + 1:
            self._break(f"gap after consumer sequence {self._consumer_sequence}")
            return
        self._consumer_sequence = consumer_sequence
        sequence = int(tokens[5])
        self._received = self._known_last = sequence
        self._pending = int(tokens[8])
        self._arrived.append(Message(sequence, raw.subject, raw.data, raw.headers, int(tokens[7])))
        self._wake.set()

    def _on_control(self, raw: Msg) -> None:
        headers: Mapping[str, Any] = raw.headers or {}
        if raw.reply:
            # Flow control: answered when everything before it was taken, which is what bounds the buffer.
            self._owed = raw.reply
        elif "Nats-Consumer-Stalled" in headers:
            self._owed = headers["Nats-Consumer-Stalled"]
        last = headers.get("Nats-Last-Consumer")
        if last is not None and not self._broken and int(last) != self._consumer_sequence:
            self._break(f"heartbeat at {last}, received {self._consumer_sequence}")
        self._wake.set()

    def _break(self, reason: str) -> None:
        self._broken = reason
        self._wake.set()
