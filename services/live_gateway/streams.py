"""What the server says of a stream, and reading one up to its present end."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import msgspec
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from nats.js.errors import NotFoundError

from services.runtime.journal_reader import Message, StreamReader
from services.runtime.nats_client import NatsClient
from services.runtime.tasks import end

_TIMEOUT_SEC: Final = 2.0
_SILENCE_SEC: Final = 5.0
"""After so long without a message the server is asked whether there is one."""
_PATIENCE_SEC: Final = 30.0
"""How long it may owe one."""


class StreamMissing(Exception):
    """The stream does not exist."""


class StreamUnavailable(Exception):
    """The server does not give what the stream holds; the message says why."""


UNAVAILABLE: Final = (NatsError, JetStreamError, StreamMissing, StreamUnavailable, OSError, TimeoutError)
"""What a call to the server raises when it has to be made again later."""


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
    """The messages after sequence `after`, up to the end that `state` tells: all that the stream holds there.
    Later ones may come with them.

    Silence proves nothing, a server that stalls keeps its connections: it ends before that end only when the
    server says that nothing is stored in between. Raises `StreamUnavailable` when that is not certain for
    30 s, and when the stream is another one or shorter meanwhile; `StreamMissing`; `StreamRegressed`.
    """
    if not state.messages or state.last_seq <= after:
        return
    position = after
    loop = asyncio.get_running_loop()
    async with StreamReader(client, stream, start_sequence=after + 1) as reader:
        batches = reader.batches()
        coming: asyncio.Task[list[Message]] | None = None
        heard = loop.time()
        try:
            while position < state.last_seq:
                # One request for a batch lasts until it comes: a generator that is cancelled has ended.
                coming = coming or loop.create_task(_next(batches), name=f"reading {stream}")
                done, _ = await asyncio.wait((coming,), timeout=_SILENCE_SEC)
                if done:
                    batch, coming = coming.result(), None
                    yield batch
                    position, heard = batch[-1].sequence, loop.time()
                elif await _nothing_more(client, stream, position, state):
                    return  # the last messages were deleted
                elif loop.time() - heard >= _PATIENCE_SEC:
                    raise StreamUnavailable(
                        f"{stream}: what is stored after message {position} does not come"
                    )
        finally:
            if coming is not None:
                await end(coming)


async def _next(batches: AsyncIterator[list[Message]]) -> list[Message]:
    return await anext(batches)


async def _nothing_more(client: NatsClient, stream: str, position: int, state: StreamState) -> bool:
    """Whether the server says that nothing is stored after `position`, up to the end that `state` tells."""
    js = client.jetstream(timeout=_TIMEOUT_SEC)
    try:
        try:
            following = (await js.get_msg(stream, seq=position + 1, subject=">", next=True)).seq
        except NotFoundError:
            following = None
        now = await stream_state(client, stream)
    except (NatsError, JetStreamError, StreamUnavailable, OSError, TimeoutError):
        return False
    if now.created != state.created or now.last_seq < state.last_seq:
        raise StreamUnavailable(f"{stream} is not any more what it was when its end was asked for")
    return following is None or following > state.last_seq
