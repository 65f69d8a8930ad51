"""The end of stream LEDGER, as `continuity` compares it with the store."""

from collections.abc import AsyncIterator, Sequence
from typing import Final

from nats.errors import Error as NatsError
from nats.js.api import StreamState
from nats.js.errors import NotFoundError

from services.ledger.codec import Commit, UnknownFormat, decode_commits
from services.ledger.errors import LedgerUnavailable
from services.runtime.journal_reader import Message, StreamReader
from services.runtime.nats_client import NatsClient
from services.runtime.streams import LEDGER

API_TIMEOUT_SEC: Final = 2.0


class LedgerTail:
    """A `JournalTail` on JetStream."""

    def __init__(self, client: NatsClient) -> None:
        self._client = client

    @property
    def life(self) -> str:
        """See `JournalTail.life`."""
        return self._client.server_id

    async def check(self, carried: int) -> None:
        """See `JournalTail.check`."""
        try:
            await _state(self._client, carried)
        except (NatsError, TimeoutError, OSError) as error:
            raise LedgerUnavailable(f"LEDGER cannot be read: {error!r}") from error

    async def after(self, partition: int, sequence: int) -> AsyncIterator[Sequence[tuple[str, int]]]:
        """See `JournalTail.after`."""
        try:
            async for batch in journal_messages(self._client, partition, sequence):
                yield [_told(message) for message in batch]
        except (NatsError, TimeoutError, OSError) as error:
            raise LedgerUnavailable(f"LEDGER cannot be read: {error!r}") from error


async def journal_messages(
    client: NatsClient, partition: int, after: int, until: int = 0
) -> AsyncIterator[list[Message]]:
    """The messages of `partition` in LEDGER after the sequence `after`, to `until` or to the present end.

    Raises `LedgerUnavailable` when messages after `after` are no longer kept or the stream ends before it,
    and errors of the connection.
    """
    js = client.jetstream(timeout=API_TIMEOUT_SEC)
    subject = f"ledger.{partition}.*"
    try:
        newest = (await js.get_last_msg(LEDGER, subject)).seq or 0
    except NotFoundError:
        newest = 0
    kept = (await _state(client, after)).first_seq
    if after + 1 < kept:
        raise LedgerUnavailable(
            f"LEDGER is kept from message {kept} on, but the ledger is at message {after} of it "
            "(trade2026 ledger rebuild)"
        )
    last = min(newest, until) if until else newest
    if last <= after:
        return
    async with StreamReader(client, LEDGER, subjects=(subject,), start_sequence=after + 1) as reader:
        async for batch in reader.batches():
            wanted = [message for message in batch if message.sequence <= last]
            if wanted:
                yield wanted
            if len(wanted) < len(batch) or batch[-1].sequence >= last:
                return


async def _state(client: NatsClient, known: int) -> StreamState:
    """LEDGER's state. Raises `LedgerUnavailable` when it ends before message `known`, which it had.

    A stream that is purged or trimmed keeps counting; this one has lost messages.
    """
    state = (await client.jetstream(timeout=API_TIMEOUT_SEC).stream_info(LEDGER)).state
    if state.last_seq < known:
        raise LedgerUnavailable(
            f"LEDGER has lost messages: it ends at {state.last_seq}, and was at {known} (docs/recovery.md)"
        )
    return state


def commits_of(message: Message) -> tuple[Commit, ...]:
    """The commits of a message; raises `LedgerUnavailable` for a format that is not known here."""
    try:
        return decode_commits(message.data)
    except UnknownFormat as error:
        raise LedgerUnavailable(f"message {message.sequence} of LEDGER is not readable: {error}") from error


def _told(message: Message) -> tuple[str, int]:
    last = commits_of(message)[-1]
    return last.account, last.seq + len(last.events) - 1
