"""Messages that cannot be used, kept with the reason for a person to look at: stream DEADLETTER.

Whoever reads a stream of the platform puts aside what it cannot use, in this one shape, under a subject that
names what was refused; the messages behind it are not held up.
"""

import base64
from typing import Final, Protocol

import msgspec

from services.messages import UNREADABLE, VERSION, BadMessage
from services.runtime.publisher import Publisher
from services.runtime.telemetry import counter, get_logger

ORDERS_SUBJECT: Final = "deadletter.orders"
"""Of ORDERS, refused by the venue."""
EXECUTIONS_SUBJECT: Final = "deadletter.executions"
"""Of EXECUTIONS, refused by oms: not applied to an account."""
FILLS_SUBJECT: Final = "deadletter.fills"
"""Of EXECUTIONS, refused by the fill store: not a row of `fills`."""
LEDGER_SUBJECT: Final = "deadletter.ledger"
"""Of LEDGER, refused by the log of orders; of an outbox, refused by a rebuild."""
LARGEST_DATA: Final = 64 * 1024
"""Bytes that are kept of a payload which its stream goes on keeping."""
LONGEST_REASON: Final = 1024
"""Characters of a reason that are kept: it may quote the payload, and a letter has to fit into a message."""

_log = get_logger("dead_letters")
_put: Final = counter("dead_letters", "Messages put aside with a reason, by subject", ("subject",))


class StoredMessage(Protocol):
    """A message as a stream delivered it."""

    @property
    def sequence(self) -> int: ...
    @property
    def subject(self) -> str: ...
    @property
    def data(self) -> bytes: ...
    @property
    def time_ns(self) -> int: ...


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """The payload on `deadletter.>`."""

    version: int = VERSION
    reason: str
    """What is wrong, as a sentence that names the member."""
    stream: str
    sequence: int
    subject: str
    """The subject under which the stream holds the message."""
    time_ns: int
    """When the stream stored it, nanoseconds since the epoch."""
    text: str | None = None
    """The payload, if it is UTF-8 text."""
    base64: str | None = None
    """The payload otherwise."""
    truncated: bool = False
    """Only the beginning of the payload is here; the stream has the rest."""


_decode: Final = msgspec.json.Decoder(DeadLetter).decode


def dead_letter(
    stream: str, message: StoredMessage, reason: str, largest_data: int | None = LARGEST_DATA
) -> bytes:
    """The payload that keeps `message` of `stream`, which was refused for `reason`.

    Of its data, up to `largest_data` bytes; None: all, because nobody else keeps it.
    """
    kept = message.data[:largest_data]
    truncated = len(kept) < len(message.data)
    text: str | None = None
    encoded: str | None = None
    try:
        text = kept.decode()
    except UnicodeDecodeError:
        encoded = base64.b64encode(kept).decode()
    return msgspec.json.encode(
        DeadLetter(
            reason=reason[:LONGEST_REASON],
            stream=stream,
            sequence=message.sequence,
            subject=message.subject,
            time_ns=message.time_ns,
            text=text,
            base64=encoded,
            truncated=truncated,
        )
    )


def read_dead_letter(payload: bytes) -> DeadLetter:
    """The letter in a message of `deadletter.>`. Raises `BadMessage` for anything else."""
    try:
        return _decode(payload)
    except UNREADABLE as error:
        raise BadMessage(str(error)) from None


def refusal(error: Exception, **where: object) -> str:
    """Why a message is put aside of which the reading raised `error`.

    Anything but a `BadMessage` is a fault of this program, and logged with `where`. Were it to end the
    process, the next one would meet the same message, and nothing behind it would ever be read. Lack of
    memory says nothing of the message: that is raised.
    """
    if isinstance(error, BadMessage):
        return str(error)
    if isinstance(error, MemoryError):
        raise error
    _log.error("message failed", exc_info=error, **where)
    return f"internal error: {type(error).__name__}"


def count(subject: str) -> None:
    """A message was put aside under `subject`."""
    _put.labels(subject).inc()


class DeadLetters:
    """Puts messages of one stream aside."""

    def __init__(self, publisher: Publisher, subject: str, stream: str) -> None:
        self._publisher = publisher
        self._subject = subject
        self._stream = stream

    async def put(self, message: StoredMessage, reason: str) -> None:
        """Stores `message` with `reason`; once, however often it is called.

        Raises `PublishError` when that is not certain.
        """
        msg_id = f"{self._subject}:{message.sequence}"
        await self._publisher.publish(self._subject, dead_letter(self._stream, message, reason), msg_id)
        count(self._subject)
