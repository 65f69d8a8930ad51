"""Messages that cannot be used, kept with the reason for a person to look at."""

import base64
from typing import Final, Protocol

import msgspec

from services.runtime.publisher import Publisher

_LARGEST_DATA: Final = 256 * 1024


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


class DeadLetter(msgspec.Struct, frozen=True):
    """The payload on `deadletter.>`."""

    reason: str
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
        data = message.data[:_LARGEST_DATA]
        try:
            content = {"text": data.decode()}
        except UnicodeDecodeError:
            content = {"base64": base64.b64encode(data).decode()}
        letter = DeadLetter(
            reason, self._stream, message.sequence, message.subject, message.time_ns, **content
        )
        msg_id = f"{self._subject}:{message.sequence}"
        await self._publisher.publish(self._subject, msgspec.json.encode(letter), msg_id)
