"""Reading a real stream: every message once and in order, whatever happens to the server."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from nats.js.api import ConsumerConfig
from nats.js.errors import BadRequestError

from services.runtime import journal_reader
from services.runtime.journal_reader import WINDOW, Message, StreamReader, StreamRegressed
from services.runtime.local_stack import NatsServer
from services.runtime.nats_client import NatsClient, open_nats
from services.runtime.publisher import Publisher
from tests.integration.runtime.pausing import frozen
from tests.support import eventually


@pytest.fixture
async def publisher(nats_client: NatsClient) -> AsyncIterator[Publisher]:
    one = Publisher(nats_client)
    await one.start()
    yield one
    await one.close()


async def fill(publisher: Publisher, stream: str, first: int, count: int, subjects: int = 1) -> None:
    """Stores `count` messages whose payload is their number, one after the other."""
    numbers = range(first, first + count)
    for start in range(0, count, 256):
        # What is published together on one connection is stored in that order.
        await asyncio.gather(
            *(
                publisher.publish(
                    f"{stream}.s{number % subjects}", b"%d" % number, f"id-{number}", timeout=20
                )
                for number in numbers[start : start + 256]
            )
        )


async def restart(server: NatsServer, client: NatsClient) -> None:
    """Kills the server and starts it again; returns when the client is back."""
    before = client.stats["reconnects"]
    server.kill()
    server.start()
    await server.until_healthy()
    await eventually(lambda: client.stats["reconnects"] > before and client.is_connected)


class Collector:
    """Reads in the background and keeps what came."""

    def __init__(self, reader: StreamReader, max_messages: int = 512) -> None:
        self.reader = reader
        self.messages: list[Message] = []
        self.sizes: list[int] = []
        self._max_messages = max_messages
        self._task = asyncio.create_task(self._collect())

    async def _collect(self) -> None:
        async for batch in self.reader.batches(self._max_messages):
            self.messages += batch
            self.sizes.append(len(batch))
            assert self.reader.position == batch[-1].sequence

    async def count(self, number: int, within_sec: float = 15.0) -> None:
        def enough() -> bool:
            if self._task.done():
                self._task.result()
            return len(self.messages) >= number

        await eventually(enough, within_sec=within_sec)

    async def end(self) -> list[int]:
        """Ends the reading; the numbers that came, in order of arrival."""
        await self.reader.close()
        await asyncio.wait_for(self._task, 5)
        return [int(message.data) for message in self.messages]


async def test_messages_come_once_in_order_with_what_was_stored(
    nats_client: NatsClient, publisher: Publisher, stream: str
) -> None:
    await fill(publisher, stream, 0, 5000)
    collector = Collector(StreamReader(nats_client, stream))
    await collector.count(5000)
    assert await collector.end() == list(range(5000))
    assert [message.sequence for message in collector.messages] == list(range(1, 5001))
    message = collector.messages[7]
    assert (message.subject, message.headers) == (f"{stream}.s0", {"Nats-Msg-Id": "id-7"})
    assert abs(message.time_ns - collector.messages[8].time_ns) < 60_000_000_000


async def test_what_is_stored_together_comes_together(
    nats_client: NatsClient, publisher: Publisher, stream: str
) -> None:
    await fill(publisher, stream, 0, 2000)
    collector = Collector(StreamReader(nats_client, stream), max_messages=100)
    await collector.count(2000)
    await collector.end()
    assert max(collector.sizes) <= 100
    assert len(collector.sizes) < 400


async def test_a_new_message_comes_without_delay(
    nats_client: NatsClient, publisher: Publisher, stream: str
) -> None:
    collector = Collector(StreamReader(nats_client, stream))
    await eventually(
        lambda: collector.reader._consumer is not None and collector.reader._consumer.outstanding
    )
    loop = asyncio.get_running_loop()
    delays = []
    for number in range(50):
        started = loop.time()
        await publisher.publish(f"{stream}.a", b"%d" % number, f"id-{number}")
        await collector.count(number + 1)
        delays.append(loop.time() - started)
    assert sorted(delays)[25] < 0.1
    assert await collector.end() == list(range(50))


async def test_reading_starts_at_a_sequence(
    nats_client: NatsClient, publisher: Publisher, stream: str
) -> None:
    await fill(publisher, stream, 0, 100)
    collector = Collector(StreamReader(nats_client, stream, start_sequence=91))
    await collector.count(10)
    assert await collector.end() == list(range(90, 100))


async def test_reading_may_start_behind_the_last_message(
    nats_client: NatsClient, publisher: Publisher, stream: str
) -> None:
    await fill(publisher, stream, 0, 10)
    collector = Collector(StreamReader(nats_client, stream, start_sequence=11))
    await fill(publisher, stream, 10, 5)
    await collector.count(5)
    assert await collector.end() == list(range(10, 15))


async def test_reading_starts_at_the_first_message_that_is_left(
    nats_client: NatsClient, publisher: Publisher, stream: str
) -> None:
    await fill(publisher, stream, 0, 20)
    await nats_client.jetstream().purge_stream(stream, seq=11)
    collector = Collector(StreamReader(nats_client, stream))
    await collector.count(10)
    assert await collector.end() == list(range(10, 20))


@pytest.mark.parametrize("wanted", [(1,), (0, 3)])
async def test_only_the_wanted_subjects_come(
    nats_client: NatsClient, publisher: Publisher, stream: str, wanted: tuple[int, ...]
) -> None:
    await fill(publisher, stream, 0, 400, subjects=4)
    reader = StreamReader(nats_client, stream, subjects=[f"{stream}.s{one}" for one in wanted])
    collector = Collector(reader)
    expected = [number for number in range(400) if number % 4 in wanted]
    await collector.count(len(expected))
    await eventually(lambda: reader.pending == 0)
    assert await collector.end() == expected


async def test_pending_tells_how_far_behind_the_reader_is(
    nats_client: NatsClient, publisher: Publisher, stream: str
) -> None:
    await fill(publisher, stream, 0, 3000)
    async with StreamReader(nats_client, stream) as reader:
        read = 0
        async for batch in reader.batches(100):
            read += len(batch)
            assert reader.pending == 3000 - read
            if read == 3000:
                break


async def test_a_slow_reader_never_holds_more_than_a_window(
    nats_client: NatsClient, publisher: Publisher, stream: str
) -> None:
    await fill(publisher, stream, 0, 4 * WINDOW)
    async with StreamReader(nats_client, stream) as reader:
        read: list[Message] = []
        async for batch in reader.batches(50):
            read += batch
            await nats_client.flush()  # whatever the server would send has arrived now
            consumer = reader._consumer
            assert consumer is not None
            assert len(reader._arrived) + consumer.outstanding <= WINDOW
            if len(read) == 4 * WINDOW:
                break
    assert [int(message.data) for message in read] == list(range(4 * WINDOW))


async def test_a_killed_and_restarted_server_loses_and_repeats_nothing(
    nats_server: NatsServer, nats_client: NatsClient, publisher: Publisher, stream: str
) -> None:
    await fill(publisher, stream, 0, 20_000)
    reader = StreamReader(nats_client, stream)
    read: list[Message] = []
    kills = 0
    async for batch in reader.batches(100):
        read += batch
        if len(read) >= 5000 * (kills + 1) and kills < 3:
            kills += 1
            await restart(nats_server, nats_client)
        if len(read) >= 20_000:
            break
    assert [int(message.data) for message in read] == list(range(20_000))
    assert reader.restarts >= 1
    collector = Collector(reader)
    await fill(publisher, stream, 20_000, 100)
    await collector.count(100)
    assert await collector.end() == list(range(20_000, 20_100))


async def test_an_idle_reader_goes_on_after_a_restart_of_the_server(
    nats_server: NatsServer, nats_client: NatsClient, publisher: Publisher, stream: str
) -> None:
    collector = Collector(StreamReader(nats_client, stream))
    await fill(publisher, stream, 0, 10)
    await collector.count(10)
    for round_number in range(1, 3):
        await restart(nats_server, nats_client)
        await fill(publisher, stream, round_number * 10, 10)
        await collector.count(10 + round_number * 10)
    assert await collector.end() == list(range(30))


async def test_a_deleted_consumer_is_made_again_where_it_was(
    nats_client: NatsClient, publisher: Publisher, stream: str
) -> None:
    js = nats_client.jetstream()
    collector = Collector(StreamReader(nats_client, stream))
    for round_number in range(3):
        await fill(publisher, stream, round_number * 1000, 1000)
        await collector.count(round_number * 1000 + 500)
        for consumer in await js.consumers_info(stream):
            await js.delete_consumer(stream, consumer.name)
    await collector.count(3000)
    assert collector.reader.restarts >= 2
    assert await collector.end() == list(range(3000))


async def test_a_frozen_server_loses_and_repeats_nothing(
    nats_server: NatsServer, nats_client: NatsClient, publisher: Publisher, stream: str
) -> None:
    await fill(publisher, stream, 0, 5000)
    reader = StreamReader(nats_client, stream, silence_sec=0.5)
    read: list[Message] = []
    task: asyncio.Task[None] | None = None

    async def freeze() -> None:
        with frozen(nats_server):
            # The client does not tolerate it for long: it gives the connection up.
            await eventually(lambda: not nats_client.is_connected, within_sec=10)

    async for batch in reader.batches(100):
        read += batch
        if len(read) >= 1000 and task is None:
            task = asyncio.create_task(freeze())
            await asyncio.sleep(0)
        if len(read) >= 5000:
            break
    assert task is not None
    await task
    await eventually(lambda: nats_client.is_connected)
    collector = Collector(reader)
    await fill(publisher, stream, 5000, 100)
    await collector.count(100)
    read += collector.messages
    await collector.end()
    assert [int(message.data) for message in read] == list(range(5100))


@pytest.fixture
def short_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that run out soon, and frequent heartbeats."""
    monkeypatch.setattr(journal_reader, "_REQUEST_SEC", 0.3)
    monkeypatch.setattr(journal_reader, "HEARTBEAT_SEC", 0.1)


@pytest.mark.usefixtures("short_requests")
async def test_a_request_that_ran_out_is_renewed_without_a_new_consumer(
    nats_client: NatsClient, publisher: Publisher, stream: str
) -> None:
    reader = StreamReader(nats_client, stream, silence_sec=1)
    collector = Collector(reader)
    await eventually(lambda: reader._consumer is not None and reader._consumer._requests >= 4)
    await fill(publisher, stream, 0, 10)
    await collector.count(10)
    assert reader.restarts == 0
    assert await collector.end() == list(range(10))


@pytest.mark.usefixtures("short_requests")
async def test_a_reader_that_paused_goes_on_with_its_consumer(
    nats_client: NatsClient, publisher: Publisher, stream: str
) -> None:
    reader = StreamReader(nats_client, stream, silence_sec=0.3)
    await fill(publisher, stream, 0, 10)
    read: list[Message] = []

    def nothing_asked() -> bool:
        return reader._consumer is not None and reader._consumer.outstanding == 0

    async for batch in reader.batches():
        read += batch
        if len(read) == 10:
            # Its last request runs out, and the server has nothing more to say.
            await eventually(nothing_asked)
            await asyncio.sleep(1)
            await fill(publisher, stream, 10, 10)
        if len(read) >= 20:
            break
    assert [int(message.data) for message in read] == list(range(20))
    assert reader.restarts == 0
    await reader.close()


async def test_a_reader_that_lingers_is_given_what_comes_meanwhile_in_one_list(
    nats_client: NatsClient, publisher: Publisher, stream: str
) -> None:
    reader = StreamReader(nats_client, stream)
    batches = reader.batches(100, linger_sec=2)
    first = asyncio.ensure_future(anext(batches))
    await fill(publisher, stream, 0, 1)
    await eventually(lambda: reader.pending == 1)
    await fill(publisher, stream, 1, 9)
    assert [int(message.data) for message in await first] == list(range(10))
    # A full list does not wait.
    await fill(publisher, stream, 10, 100)
    await eventually(lambda: reader.pending == 100)
    async with asyncio.timeout(1):
        assert len(await anext(batches)) == 100
    # A reader that is closed while it lingers hands out nothing more.
    last = asyncio.ensure_future(anext(batches, None))
    await fill(publisher, stream, 110, 1)
    await eventually(lambda: reader.pending == 1)
    await reader.close()
    assert await last is None


async def test_a_lost_message_is_noticed_and_read_again(
    nats_client: NatsClient, publisher: Publisher, stream: str
) -> None:
    reader = StreamReader(nats_client, stream)
    collector = Collector(reader)
    await fill(publisher, stream, 0, 10)
    await collector.count(10)
    assert reader._consumer is not None
    # As if the connection had swallowed a message at the end, then one in the middle.
    for missing in (1, 0):
        reader._consumer._sequence -= missing
        before = reader.restarts
        if missing == 0:
            reader._consumer._sequence -= 1
            await fill(publisher, stream, 10, 10)
        await eventually(lambda before=before: reader.restarts > before)  # type: ignore[misc]
        await eventually(lambda: reader.live)
    await collector.count(20)
    assert await collector.end() == list(range(20))


async def test_a_stream_that_lost_what_was_read_is_an_error(
    nats_client: NatsClient, publisher: Publisher, stream: str
) -> None:
    await fill(publisher, stream, 0, 10)
    with pytest.raises(StreamRegressed, match="ends at 10, but 11 was already read"):
        async for _ in StreamReader(nats_client, stream, start_sequence=12).batches():
            pass


async def test_subjects_that_overlap_are_an_error(nats_client: NatsClient, stream: str) -> None:
    with pytest.raises(BadRequestError):
        async for _ in StreamReader(nats_client, stream, subjects=[f"{stream}.>", f"{stream}.a"]).batches():
            pass


async def test_closing_removes_the_consumer_and_ends_the_reading(
    nats_client: NatsClient, publisher: Publisher, stream: str
) -> None:
    collector = Collector(StreamReader(nats_client, stream))
    await fill(publisher, stream, 0, 1)
    await collector.count(1)
    js = nats_client.jetstream()
    assert len(await js.consumers_info(stream)) == 1
    await collector.end()

    async def none_left() -> bool:
        return not await js.consumers_info(stream)

    await eventually(none_left)


async def test_a_reader_waits_for_a_server_that_is_away_when_it_starts(
    nats_server: NatsServer, publisher: Publisher, stream: str
) -> None:
    await fill(publisher, stream, 0, 10)
    client = await open_nats(nats_server.url, "test")
    nats_server.kill()
    await eventually(lambda: not client.is_connected)
    collector = Collector(StreamReader(client, stream))
    reader = collector.reader
    await eventually(lambda: reader._consumer is not None and reader._consumer.broken != "")
    assert not reader.live
    nats_server.start()
    nats_server.wait_healthy()
    await collector.count(10)
    assert collector.reader.live
    assert await collector.end() == list(range(10))
    assert not reader.live
    await client.close()


async def test_readers_do_not_disturb_other_consumers(
    nats_client: NatsClient, publisher: Publisher, stream: str
) -> None:
    js = nats_client.jetstream()
    await js.add_consumer(stream, ConsumerConfig(durable_name="store"))
    await fill(publisher, stream, 0, 10)
    collector = Collector(StreamReader(nats_client, stream))
    await collector.count(10)
    await collector.end()
    assert (await js.consumer_info(stream, "store")).num_pending == 10
