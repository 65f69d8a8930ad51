"""What the server says of a stream, and reading one up to its present end."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from services.runtime.connections import NatsClient
from services.runtime.journal_reader import Message, StreamReader

_TIMEOUT_SEC: Final = 2.0
_SILENCE_SEC: Final = 5.0


class StreamMissing(Exception):
    """The stream does not exist."""


class StreamUnavailable(Exception):
    """The server answered with an error; the message has it."""


class StreamState(msgspec.Struct, frozen=True):
    """One stream at one moment."""

    created: str
    """When it was created; another value means another stream of the same name."""
    messages: int
    first_seq: int
    last_seq: int


class _State(msgspec.Struct):
    messages: int = 0
    first_seq: int = 0
    last_seq: int = 0


class _Error(msgspec.Struct):
    code: int = 0
    description: str = ""


class _Info(msgspec.Struct):
    created: str = ""
    state: _State = msgspec.field(default_factory=_State)
    error: _Error | None = None


_decode: Final = msgspec.json.Decoder(_Info).decode


async def stream_state(client: NatsClient, stream: str) -> StreamState:
    """Asks the server. Raises `StreamMissing`, `StreamUnavailable`, or the client's errors."""
    answer = await client.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=_TIMEOUT_SEC)
    info = _decode(answer.data)
    if info.error is not None:
        kind = StreamMissing if info.error.code == 404 else StreamUnavailable
        raise kind(f"{stream}: {info.error.description}")
    return StreamState(info.created, info.state.messages, info.state.first_seq, info.state.last_seq)


async def read_until(
    client: NatsClient, stream: str, after: int, state: StreamState
) -> AsyncIterator[list[Message]]:
    """The messages after sequence `after`, up to the end that `state` tells. Later ones may come with them.

    Raises `TimeoutError` when the server is gone for long.
    """
    if not state.messages or state.last_seq <= after:
        return
    position = after
    async with StreamReader(client, stream, start_sequence=after + 1) as reader:
        batches = aiter(reader.batches())
        while position < state.last_seq:
            try:
                async with asyncio.timeout(_SILENCE_SEC):
                    batch = await anext(batches)
            except TimeoutError:
                if not client.is_connected:
                    raise
                return  # the last messages were deleted: nothing of them will come
            yield batch
            position = batch[-1].sequence
