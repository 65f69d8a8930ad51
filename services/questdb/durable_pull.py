"""Messages of a stream through a durable pull consumer that several processes share.

The server remembers what was acknowledged; what was not, it delivers again, to anybody. A pull can vanish
without a word when the server restarts: each asks for heartbeats, and silence makes this side ask again.
Asking twice at worst delivers more than was asked for.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Final, Self

import msgspec
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError
from nats.js.errors import Error as JetStreamError

from services.runtime.nats_client import NatsClient, read_headers
from services.runtime.telemetry import get_logger

HEARTBEAT_SEC: Final = 1.0
SILENCE_SEC: Final = 3.0
EXPIRES_SEC: Final = 10.0
LARGEST_PULL: Final = 200
"""Messages asked for at once: the client library hands over what has arrived without giving way to others."""
RETRY_SEC: Final = 0.25
_API_TIMEOUT_SEC: Final = 2.0
_YIELD_EVERY: Final = 50
_HEARTBEAT_STATUS: Final = "100"

_log = get_logger("questdb.durable_pull")


class Delivered(msgspec.Struct, frozen=True, gc=False):
    """One message, delivered at least once."""

    sequence: int
    """Its sequence in the stream, from 1."""
    subject: str
    """The subject it is stored under."""
    data: bytes
    time_ns: int
    """When the server stored it, nanoseconds since the epoch."""
    deliveries: int
    """How often it was delivered, this time included."""
    reply: str
    """Where its acknowledgement goes."""


class DurablePull:
    """One process's share of a durable consumer. Use as an asynchronous context manager."""

    def __init__(
        self,
        client: NatsClient,
        stream: str,
        durable: str,
        subject: str,
        *,
        max_ack_pending: int,
        ack_wait_sec: float,
    ) -> None:
        """`subject` filters stored subjects. At most `max_ack_pending` messages are unacknowledged over all
        processes; one that is not acknowledged within `ack_wait_sec` is delivered again."""
        self._client = client
        self._stream = stream
        self._durable = durable
        self._config = ConsumerConfig(
            durable_name=durable,
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ack_wait_sec,
            max_ack_pending=max_ack_pending,
            max_deliver=-1,
            filter_subject=subject,
        )
        self._js = client.jetstream(timeout=_API_TIMEOUT_SEC)
        self._loop = asyncio.get_running_loop()
        self._arrived: deque[Delivered] = deque()
        self._wanted = 1
        self._first_arrival = 0.0
        self._wake = asyncio.Event()
        self._subscription: Subscription | None = None
        self._inbox = ""
        self._pull = 0
        self._outstanding = 0
        self._last_sign = 0.0
        self._bound = False
        self._bind_at = 0.0
        self._closed = False
        self.pulls_lost = 0
        """How often a pull fell silent and was asked for again."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def batch(self, size: int, linger_sec: float) -> list[Delivered]:
        """The next messages: `size` of them, or those that came within `linger_sec` of the first.

        Waits for the first as long as it takes, over outages too. Returns what is there, perhaps nothing,
        once `close` or `interrupt` was called. Raises `APIError` when the server refuses the consumer as
        such.
        """
        self._wanted = size
        while not self._closed:
            now = self._loop.time()
            if len(self._arrived) >= size or (self._arrived and now >= self._first_arrival + linger_sec):
                break
            if not self._bound:
                await self._bind()
                continue
            if now >= self._last_sign + SILENCE_SEC:
                self._lost(f"silent for {SILENCE_SEC:g} s")
                continue
            if self._outstanding <= 0:
                await self._ask(min(size - len(self._arrived), LARGEST_PULL))
            self._wake.clear()
            until = self._last_sign + SILENCE_SEC
            if self._arrived:
                until = min(until, self._first_arrival + linger_sec)
            try:
                async with asyncio.timeout_at(until):
                    await self._wake.wait()
            except TimeoutError:
                pass
        taken = [self._arrived.popleft() for _ in range(min(size, len(self._arrived)))]
        self._first_arrival = self._loop.time()
        return taken

    async def acknowledge(self, messages: Iterable[Delivered]) -> None:
        """Says that `messages` are done. An acknowledgement that is lost means another delivery, no more."""
        await self._answer(messages, b"+ACK")

    async def terminate(self, messages: Iterable[Delivered]) -> None:
        """Says that `messages` are never to be delivered again, although they could not be used."""
        await self._answer(messages, b"+TERM")

    async def release(self, messages: Iterable[Delivered]) -> None:
        """Gives `messages` back, so that another process gets them at once."""
        await self._answer(messages, b"-NAK")

    def interrupt(self) -> None:
        """Makes a waiting `batch` return; nothing more is asked for."""
        self._closed = True
        self._wake.set()

    async def close(self) -> None:
        """Gives back what nobody took, and ends the subscription. The consumer stays, with what it
        remembers."""
        self.interrupt()
        await self.release(self._arrived)
        self._arrived.clear()
        await self._unsubscribe()

    async def _bind(self) -> None:
        """Makes the consumer exist and listens to a fresh inbox."""
        await asyncio.sleep(max(0.0, self._bind_at - self._loop.time()))
        try:
            await self._unsubscribe()
            await self._js.add_consumer(self._stream, self._config)
            self._inbox = self._client.new_inbox()
            self._subscription = await self._client.subscribe_directly(f"{self._inbox}.*", self._on_message)
        except (NatsError, JetStreamError, OSError, TimeoutError) as error:
            if isinstance(error, APIError) and error.code == 400:
                raise
            _log.debug("consumer not ready", consumer=self._durable, error=f"{type(error).__name__}: {error}")
            self._bind_at = self._loop.time() + RETRY_SEC
        else:
            self._bound = True
            self._outstanding = 0
            self._last_sign = self._loop.time()

    async def _ask(self, count: int) -> None:
        self._pull += 1
        request = {
            "batch": count,
            "expires": int(EXPIRES_SEC * 1e9),
            "idle_heartbeat": int(HEARTBEAT_SEC * 1e9),
        }
        try:
            await self._client.publish(
                f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._durable}",
                msgspec.json.encode(request),
                reply=f"{self._inbox}.{self._pull}",
            )
        except NatsError as error:
            _log.debug("pull not sent", consumer=self._durable, error=f"{type(error).__name__}: {error}")
            await asyncio.sleep(RETRY_SEC)
        else:
            self._outstanding = count

    def _lost(self, why: str) -> None:
        self.pulls_lost += 1
        self._bound = False
        self._bind_at = self._loop.time() + RETRY_SEC
        _log.info("pulling again", consumer=self._durable, because=why)

    def _on_message(self, subject: str, reply: str, data: bytes, headers: bytes | None) -> None:
        self._last_sign = self._loop.time()
        if not reply.startswith("$JS.ACK."):
            self._on_status(subject, read_headers(headers))
            return
        tokens = reply.split(".")
        # $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>, or with two
        # tokens (domain, account) before the stream's name.
        if len(tokens) > 9:
            del tokens[2:4]
        if not self._arrived:
            self._first_arrival = self._last_sign
        self._arrived.append(Delivered(int(tokens[5]), subject, data, int(tokens[7]), int(tokens[4]), reply))
        self._outstanding -= 1
        if self._outstanding <= 0 or len(self._arrived) in (1, self._wanted):
            self._wake.set()

    def _on_status(self, subject: str, headers: Mapping[str, str]) -> None:
        status = headers.get("Status", "")
        if status == _HEARTBEAT_STATUS or subject.rpartition(".")[2] != str(self._pull):
            return
        # The pull ended: expired (408), nothing there (404), or something about the consumer (409, 503).
        self._outstanding = 0
        if status not in ("404", "408"):
            self._lost(f"{status} {headers.get('Description', '')}".strip())
        self._wake.set()

    async def _answer(self, messages: Iterable[Delivered], answer: bytes) -> None:
        for count, message in enumerate(messages, 1):
            try:
                await self._client.publish(message.reply, answer)
            except NatsError as error:
                _log.debug("not answered", consumer=self._durable, error=f"{type(error).__name__}: {error}")
                return
            if count % _YIELD_EVERY == 0:
                await asyncio.sleep(0)

    async def _unsubscribe(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is None or self._client.is_closed:
            return
        try:
            await subscription.unsubscribe()
        except NatsError as error:
            _log.debug("not unsubscribed", consumer=self._durable, error=str(error))
