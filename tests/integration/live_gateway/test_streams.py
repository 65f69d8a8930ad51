"""Reading a stream up to its end: whole, or an error; never less without one."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.live_gateway import streams
from services.live_gateway.streams import StreamState, StreamUnavailable, read_until, stream_state
from services.runtime.journal_reader import WINDOW, Message
from services.runtime.local_stack import NatsServer
from services.runtime.streams import EXECUTIONS, ensure_streams
from tests.integration.live_gateway.venue_process import Exchange
from tests.integration.runtime.pausing import frozen
from tests.support import eventually

COUNT = 4 * WINDOW
"""More than a reader asks for at once."""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_SILENCE_SEC", 0.2)
    monkeypatch.setattr(streams, "_TIMEOUT_SEC", 0.2)


async def _stored(exchange: Exchange, count: int) -> StreamState:
    """The stream after that many messages."""
    publish = exchange.publisher.publish
    await asyncio.gather(*(publish("fills.alice", b"", f"m-{number}") for number in range(count)))
    return await stream_state(exchange.client, EXECUTIONS)


async def _sequences(reading: AsyncIterator[list[Message]]) -> list[int]:
    return [message.sequence async for batch in reading for message in batch]


async def test_server_that_stalls_for_longer_than_the_silence_ends_no_reading_early(
    exchange: Exchange, empty_nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    ask = streams._nothing_more

    async def counted(*where: object) -> bool:
        nonlocal asked
        asked += 1
        return await ask(*where)  # type: ignore[arg-type]

    monkeypatch.setattr(streams, "_nothing_more", counted)
    reading = read_until(exchange.client, EXECUTIONS, 0, await _stored(exchange, COUNT))
    first = await anext(reading)
    with frozen(empty_nats):
        rest = asyncio.create_task(_sequences(reading))
        await eventually(lambda: asked >= 2 or rest.done(), within_sec=10)
    assert [message.sequence for message in first] + await rest == list(range(1, COUNT + 1))


async def test_server_that_owes_messages_for_too_long_is_an_error(
    exchange: Exchange, empty_nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_PATIENCE_SEC", 0.5)
    reading = read_until(exchange.client, EXECUTIONS, 0, await _stored(exchange, COUNT))
    await anext(reading)
    with frozen(empty_nats), pytest.raises(StreamUnavailable, match="does not come"):
        await _sequences(reading)


@pytest.mark.parametrize("deleted", [(5,), (3, 4, 5), (1, 2, 3, 4, 5)])
async def test_deleted_messages_at_the_end_are_not_waited_for(
    exchange: Exchange, deleted: tuple[int, ...]
) -> None:
    state = await _stored(exchange, 5)
    for sequence in deleted:
        await exchange.client.jetstream().delete_msg(EXECUTIONS, sequence)
    read = await _sequences(read_until(exchange.client, EXECUTIONS, 0, state))
    assert read == [sequence for sequence in range(1, 6) if sequence not in deleted]


async def test_stream_that_is_made_anew_meanwhile_is_an_error(exchange: Exchange) -> None:
    state = await _stored(exchange, 5)
    js = exchange.client.jetstream()
    await js.delete_stream(EXECUTIONS)
    await ensure_streams(js, (EXECUTIONS,))
    await _stored(exchange, 2)
    with pytest.raises(StreamUnavailable, match="not any more"):
        await _sequences(read_until(exchange.client, EXECUTIONS, 0, state))
