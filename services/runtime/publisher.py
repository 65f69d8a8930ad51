"""Publishing to JetStream with many messages in flight on one connection.

One inbox subscription takes all acknowledgements, one future stands for each message. Nothing is ever sent
twice by itself: the outcome of a message whose acknowledgement did not come is `PublishUnknown`, and the
caller settles it by publishing again under the same message id.
"""

import asyncio
from typing import Final, TypeAlias

import msgspec
from nats.aio.subscription import Subscription
from nats.errors import (
    ConnectionClosedError,
    ConnectionDrainingError,
    MaxPayloadError,
    OutboundBufferLimitError,
)

from services.runtime.nats_client import NatsClient, read_headers

DEFAULT_TIMEOUT_SEC: Final = 5.0
LATE_SEC: Final = 0.1
"""How late it may be told that no acknowledgement came: one timer looks after all messages."""

# Errors after which the server has certainly not stored the message (err_code of its answer).
_NOT_STORED: Final = frozenset(
    {
        10047,  # storage resources exceeded
        10054,  # message larger than the stream allows
        10060,  # expected stream does not match
        10071,  # wrong last sequence
        10077,  # store refused it: maximum messages or bytes reached with discard=new
        10109,  # stream sealed
    }
)


class PublishError(Exception):
    """A message was not acknowledged."""


class PublishUnknown(PublishError):
    """No acknowledgement came: the message may be stored, now or a little later."""


class PublishRefused(PublishError):
    """The message is certainly not stored: the stream is full or missing, or it never left this process."""


class PubAck(msgspec.Struct, frozen=True, gc=False):
    """The server's acknowledgement: the message is stored."""

    stream: str
    sequence: int = msgspec.field(name="seq")
    """Sequence of the stored message; of the first one for a duplicate."""
    duplicate: bool = False
    """A message with this id had been stored before; this one was dropped."""


class _ApiError(msgspec.Struct, gc=False):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Answer(msgspec.Struct, gc=False):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: _ApiError | None = None


_decode: Final = msgspec.json.Decoder(_Answer).decode


_Waiting: TypeAlias = tuple[asyncio.Future[PubAck], float, float]
"""An acknowledgement that is waited for: until when, in loop time, and for how many seconds."""
_NOBODY: Final = (None, 0.0, 0.0)


class Publisher:
    """Publishes on one connection. One a worker is enough; `start` before use, `close` at the end."""

    def __init__(self, client: NatsClient, max_in_flight: int = 16_384) -> None:
        """More than `max_in_flight` unacknowledged messages are refused at once."""
        self._client = client
        self._max_in_flight = max_in_flight
        self._loop = asyncio.get_running_loop()
        self._inbox = client.new_inbox()
        self._waiting: dict[str, _Waiting] = {}
        self._timed = False
        self._next = 0
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Subscribes to the acknowledgements."""
        self._subscription = await self._client.subscribe_directly(f"{self._inbox}.*", self._on_answer)
        await self._client.flush()
        self._client.when_lost(self._lost)

    @property
    def in_flight(self) -> int:
        """Messages whose outcome is not known yet."""
        return len(self._waiting)

    async def publish(
        self, subject: str, payload: bytes, msg_id: str, timeout: float = DEFAULT_TIMEOUT_SEC
    ) -> PubAck:
        """Publishes one message and returns when the stream has stored it.

        `msg_id` makes it recognisable for the stream's duplicate window. Raises `PublishRefused` when it is
        certainly not stored, and `PublishUnknown` when no answer came within `timeout` seconds (told up to
        `LATE_SEC` later), when the connection broke, or when the server's error leaves it open. A cancelled
        call's message may be stored as well.
        """
        if len(self._waiting) >= self._max_in_flight:
            raise PublishRefused(f"{self._max_in_flight} messages are in flight")
        self._next += 1
        token = str(self._next)
        future: asyncio.Future[PubAck] = self._loop.create_future()
        self._waiting[token] = (future, self._loop.time() + timeout, timeout)
        if not self._timed:
            self._timed = True
            self._loop.call_later(LATE_SEC, self._keep_time)
        try:
            try:
                await self._client.publish_identified(subject, payload, f"{self._inbox}.{token}", msg_id)
            except (OutboundBufferLimitError, ConnectionClosedError, ConnectionDrainingError) as error:
                raise PublishRefused("not connected") from error
            except MaxPayloadError as error:
                raise PublishRefused(f"{len(payload)} bytes are more than the server takes") from error
            return await future
        finally:
            self._waiting.pop(token, None)

    async def close(self) -> None:
        """Ends the subscription; messages in flight become `PublishUnknown`."""
        self._client.forget(self._lost)
        self._give_up("the publisher was closed before the acknowledgement")
        if self._subscription is not None and not self._client.is_closed:
            await self._subscription.unsubscribe()

    def _lost(self) -> None:
        self._give_up("the connection broke before the acknowledgement")

    def _give_up(self, reason: str) -> None:
        for future, _, _ in self._waiting.values():
            if not future.done():
                future.set_exception(PublishUnknown(reason))

    def _keep_time(self) -> None:
        """Gives up the messages whose time is over, again and again while any wait."""
        now = self._loop.time()
        for future, until, timeout in self._waiting.values():
            if until <= now and not future.done():
                future.set_exception(PublishUnknown(f"no acknowledgement in {timeout:g} s"))
        self._timed = bool(self._waiting)
        if self._timed:
            self._loop.call_later(LATE_SEC, self._keep_time)

    def _on_answer(self, subject: str, reply: str, data: bytes, headers: bytes | None) -> None:
        future, _, _ = self._waiting.get(subject.rpartition(".")[2], _NOBODY)
        if future is None or future.done():
            return
        outcome = _outcome(data, headers)
        if isinstance(outcome, PubAck):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)


def _outcome(data: bytes, headers: bytes | None) -> PubAck | PublishError:
    if not data:
        status = read_headers(headers).get("Status", "")
        if status == "503":
            return PublishRefused("no stream takes this subject")
        return PublishUnknown(f"empty answer, status {status or 'missing'}")
    try:
        answer = _decode(data)
    except msgspec.DecodeError as error:
        return PublishUnknown(f"unreadable acknowledgement: {error}")
    if answer.error is not None:
        text = f"{answer.error.description} ({answer.error.err_code})"
        return PublishRefused(text) if answer.error.err_code in _NOT_STORED else PublishUnknown(text)
    if not answer.stream:
        return PublishUnknown("the answer is no acknowledgement")
    return PubAck(answer.stream, answer.seq, answer.duplicate)
