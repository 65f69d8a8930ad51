"""The outbox on real NATS, whose duplicate window is 100 ms here: it must not be what prevents doubles."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager

import pytest

from services.live_gateway.outbox import WINDOW, Outbox, Waiting
from services.live_gateway.records import Outgoing
from services.live_gateway.streams import stream_state
from services.runtime.streams import EXECUTIONS, ensure_streams
from tests.integration.live_gateway.venue_process import Exchange
from tests.support import eventually

DUPLICATE_WINDOW_SEC = 0.1


@pytest.fixture
async def stream(exchange: Exchange) -> str:
    """When the stream was created."""
    js = exchange.client.jetstream()
    config = (await js.stream_info(EXECUTIONS)).config
    config.duplicate_window = DUPLICATE_WINDOW_SEC
    await js.update_stream(config)
    return (await stream_state(exchange.client, EXECUTIONS)).created


def _message(number: int) -> Outgoing:
    return Outgoing("fills.alice", f"venue-{number}", str(number).encode())


async def _store(exchange: Exchange, numbers: list[int]) -> None:
    """What an earlier process has published."""
    for number in numbers:
        await exchange.publisher.publish("fills.alice", str(number).encode(), f"venue-{number}")
    await asyncio.sleep(2 * DUPLICATE_WINDOW_SEC)


class _Settled(list[int]):
    def __call__(self, window: list[Waiting]) -> None:
        self.extend(int(one.message.payload) for one in window)


def _outbox(exchange: Exchange, created: str, sequence: int, settled: _Settled) -> Outbox:
    return Outbox(
        exchange.client,
        exchange.publisher,
        EXECUTIONS,
        created=created,
        sequence=sequence,
        on_settled=settled,
    )


@asynccontextmanager
async def _running(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _numbers(exchange: Exchange) -> list[int]:
    return [int(message.data) for message in await exchange.stored()]


async def test_restored_backlog_of_many_windows_that_is_stored_is_not_published_again(
    exchange: Exchange, stream: str
) -> None:
    count = 3 * WINDOW
    numbers = list(range(1, count + 1))
    await asyncio.gather(
        *(exchange.publisher.publish("fills.alice", b"%d" % one, f"venue-{one}") for one in numbers)
    )
    await asyncio.sleep(2 * DUPLICATE_WINDOW_SEC)
    outbox = _outbox(exchange, stream, 0, settled := _Settled())
    for batch in range(3):
        part = numbers[batch * WINDOW : (batch + 1) * WINDOW]
        outbox.add(batch + 1, [(_message(number), None) for number in part])
    async with _running(outbox.run()):
        await eventually(lambda: outbox.size == 0)
    assert settled == numbers
    assert (outbox.published_batch, outbox.sequence, outbox.certain_sequence) == (3, count, count)
    assert (await stream_state(exchange.client, EXECUTIONS)).messages == count


@pytest.mark.parametrize("stored", [[], [1], [1, 2, 3], [2], [4], [1, 2, 3, 4, 5]])
async def test_restored_messages_that_are_not_stored_are_published_and_the_others_are_not(
    exchange: Exchange, stream: str, stored: list[int]
) -> None:
    await _store(exchange, stored)
    outbox = _outbox(exchange, stream, 0, settled := _Settled())
    outbox.add(1, [(_message(1), None), (_message(2), None)])
    outbox.add(2, [(_message(3), None)])
    outbox.add(4, [(_message(4), None), (_message(5), None)])
    async with _running(outbox.run()):
        await eventually(lambda: outbox.size == 0)
    rest = [number for number in range(1, 6) if number not in stored]
    assert await _numbers(exchange) == stored + rest
    assert sorted(settled) == [1, 2, 3, 4, 5]
    assert (outbox.published_batch, outbox.certain_sequence) == (4, 5)


async def test_sequence_is_not_certain_before_all_restored_messages_are_stored(
    exchange: Exchange, stream: str
) -> None:
    await _store(exchange, [3])
    outbox = _outbox(exchange, stream, 0, _Settled())
    outbox.add(1, [(_message(number), None) for number in range(1, WINDOW + 10)])
    outbox.add(2, [(_message(9_999), None)])
    seen: set[tuple[int, int]] = set()

    def watch(_: list[Waiting]) -> None:
        seen.add((outbox.published_batch, outbox.certain_sequence))

    outbox._on_settled = watch
    async with _running(outbox.run()):
        await eventually(lambda: outbox.size == 0)
    assert seen == {(0, 0), (2, WINDOW + 10)}


async def test_other_stream_of_that_name_is_noticed_by_its_sequences(exchange: Exchange, stream: str) -> None:
    outbox = _outbox(exchange, stream, 0, _Settled())
    async with _running(outbox.run()):
        outbox.add(1, [(_message(number), None) for number in range(1, 11)])
        await eventually(lambda: outbox.sequence == 10)
        js = exchange.client.jetstream()
        await js.delete_stream(EXECUTIONS)
        await ensure_streams(js, (EXECUTIONS,))
        outbox.add(2, [(_message(11), None)])
        await eventually(lambda: outbox.size == 0)
    assert (outbox.sequence, outbox.published_batch) == (1, 2)
    assert outbox.created == (await stream_state(exchange.client, EXECUTIONS)).created != stream


async def test_missing_stream_is_made_and_nothing_is_lost(exchange: Exchange, stream: str) -> None:
    outbox = _outbox(exchange, stream, 0, settled := _Settled())
    await exchange.client.jetstream().delete_stream(EXECUTIONS)
    async with _running(outbox.run()):
        outbox.add(1, [(_message(number), None) for number in range(1, 4)])
        await eventually(lambda: outbox.size == 0)
    assert settled == await _numbers(exchange) == [1, 2, 3]
    assert outbox.blocked == ""


async def test_windows_hold_whole_batches_unless_one_is_larger(exchange: Exchange, stream: str) -> None:
    sizes: list[int] = []
    outbox = _outbox(exchange, stream, 0, _Settled())
    outbox._on_settled = lambda window: sizes.append(len(window))
    number = iter(range(1, 100_000))
    for batch, size in enumerate([WINDOW - 10, 20, 2 * WINDOW + 5, 3], start=1):
        outbox.add(batch, [(_message(next(number)), None) for _ in range(size)])
    async with _running(outbox.run()):
        await eventually(lambda: outbox.size == 0, within_sec=10)
    assert sizes == [WINDOW - 10, 20, WINDOW, WINDOW, 8]
