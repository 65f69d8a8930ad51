"""The connection to NATS: nats-py's, with the options that safety needs, and with short ways for the
messages that every order makes.

An order costs oms a dozen messages. By the library's own way each one that comes is built, its headers are
read, and it is queued for the task of its subscription; that costs several times what is done with it.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import nats.aio.client
from nats.aio.subscription import Subscription

from services.runtime.telemetry import get_logger

CONNECT_TIMEOUT_SEC: Final = 2
RECONNECT_WAIT_SEC: Final = 0.1
MESSAGE_ID: Final = "Nats-Msg-Id"
_VERSION: Final = b"NATS/1.0"
_PLAIN: Final = re.compile(r"[!-~]+")
"""What may stand in the line of a command, and in a header."""

Take: TypeAlias = Callable[[str, str, bytes, bytes | None], None]
"""Takes a message: its subject, where to reply (empty: nowhere), its data, and its headers as they came."""

_log = get_logger("runtime.nats_client")


class NatsClient(nats.aio.client.Client):
    """A NATS connection that tells its users at once when it broke; opened by `open_nats`."""

    def __init__(self) -> None:
        super().__init__()
        self._lost: list[Callable[[], None]] = []
        self._direct: dict[int, Take] = {}

    @property
    def server_id(self) -> str:
        """Id of the server process that is, or was last, connected to; a server that is started anew has
        another."""
        return str(self._server_info.get("server_id", ""))

    def when_lost(self, listener: Callable[[], None]) -> None:
        """Calls `listener` whenever the connection breaks or is closed."""
        self._lost.append(listener)

    def forget(self, listener: Callable[[], None]) -> None:
        """Undoes `when_lost`."""
        if listener in self._lost:
            self._lost.remove(listener)

    async def subscribe_directly(self, subject: str, take: Take) -> Subscription:
        """Has `take` called for each message, in order, where the connection is read.

        For inboxes: what comes before this returns is dropped. What `take` raises is logged.
        """
        subscription = await self.subscribe(subject)
        self._direct[subscription._id] = take
        return subscription

    async def publish_identified(self, subject: str, payload: bytes, reply: str, msg_id: str) -> None:
        """`publish` of a message with an id and nothing else in its headers; raises as that does."""
        plain = _PLAIN.fullmatch(subject) and _PLAIN.fullmatch(msg_id)
        if not plain or self._status != self.CONNECTED or len(payload) > self._max_payload:
            await self.publish(subject, payload, reply, {MESSAGE_ID: msg_id})
            return
        headers = b"%b\r\n%b: %b\r\n\r\n" % (_VERSION, MESSAGE_ID.encode(), msg_id.encode())
        sizes = (len(headers), len(headers) + len(payload))
        line = b"HPUB %b %b %d %d\r\n" % (subject.encode(), reply.encode(), *sizes)
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += len(payload)
        await self._send_command(b"%b%b%b\r\n" % (line, headers, payload))
        if self._flush_queue is not None and self._flush_queue.empty():
            await self._flush_pending()

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        take = self._direct.get(sid)
        if take is None:
            await super()._process_msg(sid, subject, reply, data, headers or b"")
            return
        # Anybody may publish a subject that is no text: it is a message like any other that nobody can use.
        name = subject.decode(errors="replace")
        try:
            take(name, reply.decode(errors="replace"), data, headers)
        except Exception as error:
            # The library would stop reading the connection, and say nothing.
            _log.error("message not taken", subject=name, exc_info=error)

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        self._direct.pop(sid, None)
        super()._remove_sub(sid, max_msgs)


def read_headers(raw: bytes | None) -> dict[str, str]:
    """Headers as they came, by name; the server's own messages have a `Status`, perhaps a `Description`."""
    found: dict[str, str] = {}
    first, _, rest = (raw or b"").partition(b"\r\n")
    status, _, description = first.removeprefix(_VERSION).strip().partition(b" ")
    if status:
        found["Status"] = status.decode(errors="replace")
    if description:
        found["Description"] = description.decode(errors="replace")
    for line in rest.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            found[name.strip().decode(errors="replace")] = value.strip().decode(errors="replace")
    return found


async def open_nats(
    url: str,
    name: str,
    *,
    on_disconnected: Callable[[], Awaitable[None]] | None = None,
    on_reconnected: Callable[[], Awaitable[None]] | None = None,
    on_closed: Callable[[], Awaitable[None]] | None = None,
) -> NatsClient:
    """A connection that re-opens itself for ever; the first one is awaited for ever too (bound it with a
    timeout).

    A publish while disconnected raises at once instead of being kept and sent later. A frozen server is
    noticed within three seconds. `on_closed` is called when the library gives up for good: that has to end
    the worker.
    """
    client = NatsClient()

    async def disconnected() -> None:
        # What was not on the wire yet would be sent after the reconnection, when its sender has given up long
        # ago.
        client._pending.clear()
        client._pending_data_size = 0
        for listener in list(client._lost):
            listener()
        if client.is_closed:
            return
        _log.warning("nats disconnected", connection=name)
        if on_disconnected is not None:
            await on_disconnected()

    async def reconnected() -> None:
        _log.info("nats reconnected", connection=name)
        if on_reconnected is not None:
            await on_reconnected()

    async def closed() -> None:
        if on_closed is not None:
            await on_closed()

    async def failed(error: Exception) -> None:
        _log.debug("nats error", connection=name, error=f"{type(error).__name__}: {error}")

    await client.connect(
        servers=url.split(","),
        name=name,
        pending_size=-1,
        ping_interval=1,
        max_outstanding_pings=2,
        allow_reconnect=True,
        max_reconnect_attempts=-1,
        reconnect_time_wait=RECONNECT_WAIT_SEC,  # type: ignore[arg-type] # it is slept
        connect_timeout=CONNECT_TIMEOUT_SEC,
        disconnected_cb=disconnected,
        reconnected_cb=reconnected,
        closed_cb=closed,
        error_cb=failed,
    )
    return client
