"""Publishing to a real JetStream: acknowledgements, refusals, and outcomes that stay unknown."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from nats.js.api import StreamConfig

from services.runtime.local_stack import NatsServer
from services.runtime.nats_client import NatsClient, open_nats
from services.runtime.publisher import PubAck, Publisher, PublishRefused, PublishUnknown
from tests.integration.runtime.pausing import frozen


@pytest.fixture
async def publisher(nats_client: NatsClient) -> AsyncIterator[Publisher]:
    one = Publisher(nats_client)
    await one.start()
    yield one
    await one.close()


async def test_an_acknowledged_message_is_stored_under_its_sequence(
    nats_client: NatsClient, publisher: Publisher, stream: str
) -> None:
    ack = await publisher.publish(f"{stream}.a", b"payload", "id-1")
    assert ack == PubAck(stream, 1, False)
    stored = await nats_client.jetstream().get_msg(stream, ack.sequence)
    assert (stored.subject, stored.data) == (f"{stream}.a", b"payload")
    assert publisher.in_flight == 0


async def test_a_message_id_that_was_stored_before_is_told_as_a_duplicate(
    publisher: Publisher, stream: str
) -> None:
    first = await publisher.publish(f"{stream}.a", b"payload", "id-1")
    again = await publisher.publish(f"{stream}.a", b"payload", "id-1")
    assert again == PubAck(stream, first.sequence, True)


async def test_thousands_in_flight_each_get_their_own_acknowledgement(
    nats_client: NatsClient, publisher: Publisher, stream: str
) -> None:
    async def publish(number: int) -> int:
        return (await publisher.publish(f"{stream}.a", b"%d" % number, f"id-{number}")).sequence

    sequences = await asyncio.gather(*(publish(number) for number in range(3000)))
    assert sorted(sequences) == list(range(1, 3001))
    for number in (0, 1500, 2999):
        stored = await nats_client.jetstream().get_msg(stream, sequences[number])
        assert stored.data == b"%d" % number


async def test_a_subject_without_a_stream_is_refused(publisher: Publisher) -> None:
    with pytest.raises(PublishRefused, match="no stream"):
        await publisher.publish("nobody.listens", b"payload", "id-1")


@pytest.mark.parametrize("limit", [{"max_msgs": 1}, {"max_bytes": 600}])
async def test_a_full_stream_refuses(
    nats_client: NatsClient, publisher: Publisher, stream: str, limit: dict[str, int]
) -> None:
    js = nats_client.jetstream()
    config = (await js.stream_info(stream)).config
    await js.update_stream(StreamConfig(**{**config.__dict__, **limit}))
    await publisher.publish(f"{stream}.a", b"x" * 300, "id-1")
    with pytest.raises(PublishRefused, match="maximum"):
        await publisher.publish(f"{stream}.a", b"x" * 300, "id-2")
    assert (await js.stream_info(stream)).state.messages == 1


async def test_a_payload_above_the_server_s_limit_is_refused(publisher: Publisher, stream: str) -> None:
    with pytest.raises(PublishRefused, match="more than the server takes"):
        await publisher.publish(f"{stream}.a", b"x" * (4 << 20), "id-1")


async def test_more_than_the_bound_in_flight_is_refused(nats_client: NatsClient, stream: str) -> None:
    publisher = Publisher(nats_client, max_in_flight=2)
    await publisher.start()
    outcomes = await asyncio.gather(
        *(publisher.publish(f"{stream}.a", b"x", f"id-{number}") for number in range(3)),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [PubAck, PubAck, PublishRefused]
    await publisher.close()


async def test_no_acknowledgement_in_time_is_unknown_and_the_same_id_settles_it(
    nats_server: NatsServer, publisher: Publisher, stream: str
) -> None:
    with frozen(nats_server), pytest.raises(PublishUnknown, match=r"no acknowledgement in 0\.1 s"):
        await publisher.publish(f"{stream}.a", b"x", "id-1", timeout=0.1)
    # The frozen server had the message in its receive buffer: publishing again finds it.
    assert await publisher.publish(f"{stream}.a", b"x", "id-1") == PubAck(stream, 1, True)


async def test_what_is_in_flight_when_the_server_dies_is_unknown_at_once_and_nothing_is_sent_again(
    nats_server: NatsServer,
) -> None:
    back = asyncio.Event()

    async def reconnected() -> None:
        back.set()

    client = await open_nats(nats_server.url, "test", on_reconnected=reconnected)
    js = client.jetstream()
    await js.add_stream(StreamConfig(name="test_killed", subjects=["test_killed.>"]))
    publisher = Publisher(client)
    await publisher.start()
    try:
        with frozen(nats_server):
            waiting = [
                asyncio.create_task(publisher.publish("test_killed.a", b"x", f"id-{number}", timeout=60))
                for number in range(100)
            ]
            await asyncio.sleep(0)
            nats_server.kill()
        outcomes = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10)
        assert {type(outcome) for outcome in outcomes} == {PublishUnknown}

        with pytest.raises(PublishRefused, match="not connected"):
            await publisher.publish("test_killed.a", b"x", "while-away")

        nats_server.start()
        nats_server.wait_healthy()
        await asyncio.wait_for(back.wait(), 10)
        ack = await publisher.publish("test_killed.a", b"x", "afterwards")
        assert ack == PubAck("test_killed", 1, False)
    finally:
        await js.delete_stream("test_killed")
        await publisher.close()
        await client.close()


async def test_a_cancelled_call_leaves_nothing_behind(
    nats_server: NatsServer, publisher: Publisher, stream: str
) -> None:
    with frozen(nats_server):
        call = asyncio.create_task(publisher.publish(f"{stream}.a", b"x", "id-1"))
        await asyncio.sleep(0)
        assert publisher.in_flight == 1
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert publisher.in_flight == 0


async def test_closing_makes_what_is_in_flight_unknown(
    nats_server: NatsServer, nats_client: NatsClient, stream: str
) -> None:
    publisher = Publisher(nats_client)
    await publisher.start()
    with frozen(nats_server):
        call = asyncio.create_task(publisher.publish(f"{stream}.a", b"x", "id-1"))
        await asyncio.sleep(0)
        await publisher.close()
        with pytest.raises(PublishUnknown, match="closed"):
            await call
