"""The connection to NATS: it comes back by itself and never repeats a message."""

import asyncio

import pytest
from nats.errors import BadSubjectError, MaxPayloadError, OutboundBufferLimitError

from services.runtime.local_stack import NatsServer
from services.runtime.nats_client import NatsClient, open_nats, read_headers
from tests.integration.runtime.pausing import frozen
from tests.support import eventually


async def test_nats_comes_back_with_its_subscriptions(nats_server: NatsServer) -> None:
    events: list[str] = []

    async def disconnected() -> None:
        events.append("disconnected")

    async def reconnected() -> None:
        events.append("reconnected")

    client = await open_nats(
        nats_server.url, "test", on_disconnected=disconnected, on_reconnected=reconnected
    )
    client.when_lost(lambda: events.append("lost"))
    subscription = await client.subscribe("runtime.hello")
    nats_server.kill()
    await eventually(lambda: events == ["lost", "disconnected"])
    nats_server.start()
    nats_server.wait_healthy()
    await eventually(lambda: events == ["lost", "disconnected", "reconnected"])
    await client.publish("runtime.hello", b"x")
    assert (await subscription.next_msg(5)).data == b"x"
    await client.close()


async def test_nothing_that_was_published_while_nats_was_away_is_sent_later(nats_server: NatsServer) -> None:
    client = await open_nats(nats_server.url, "test")
    subscription = await client.subscribe("runtime.late")
    await client.flush()
    nats_server.kill()
    # In the buffer of a connection that is already dead, but not known to be.
    await client.publish("runtime.late", b"before")
    await eventually(lambda: not client.is_connected)
    with pytest.raises(OutboundBufferLimitError):
        await client.publish("runtime.late", b"while away")
    with pytest.raises(OutboundBufferLimitError):
        await client.publish_identified("runtime.late", b"while away", "", "an id")
    nats_server.start()
    nats_server.wait_healthy()
    await eventually(lambda: client.is_connected)
    await client.publish("runtime.late", b"after")
    assert (await subscription.next_msg(5)).data == b"after"
    await client.close()


async def test_a_frozen_nats_is_noticed_and_left(nats_server: NatsServer) -> None:
    client = await open_nats(nats_server.url, "test")
    with frozen(nats_server):
        await eventually(lambda: not client.is_connected, within_sec=10)
    await eventually(lambda: client.is_connected, within_sec=10)
    await client.close()


async def test_the_first_connection_waits_for_nats(nats_server: NatsServer) -> None:
    nats_server.kill()
    opening = asyncio.create_task(open_nats(nats_server.url, "test"))
    done, _ = await asyncio.wait([opening], timeout=0.5)
    assert not done
    nats_server.start()
    nats_server.wait_healthy()
    client = await asyncio.wait_for(opening, 10)
    assert client.is_connected
    await client.close()


async def test_closing_nats_tells_its_users_once(nats_server: NatsServer) -> None:
    closed: list[int] = []

    async def on_closed() -> None:
        closed.append(1)

    lost: list[int] = []
    client = await open_nats(nats_server.url, "test", on_closed=on_closed)

    def listener() -> None:
        lost.append(1)

    client.when_lost(listener)
    await client.close()
    assert (lost, closed) == ([1], [1])
    other = NatsClient()
    other.when_lost(listener)
    other.forget(listener)
    assert other._lost == []


async def test_identified_message_is_one_like_any_other(nats_client: NatsClient) -> None:
    subscription = await nats_client.subscribe("runtime.identified")
    await nats_client.publish_identified("runtime.identified", b"data", "runtime.reply", "new:a-1")
    message = await subscription.next_msg(5)
    assert (message.data, message.reply) == (b"data", "runtime.reply")
    assert message.headers == {"Nats-Msg-Id": "new:a-1"}


@pytest.mark.parametrize("subject", ["", "two words", "line\r\nPUB x 0\r\n"])
async def test_identified_message_has_no_other_subject_than_the_library_takes(
    nats_client: NatsClient, subject: str
) -> None:
    with pytest.raises((BadSubjectError, ValueError)):
        await nats_client.publish_identified(subject, b"data", "", "an-id")


async def test_id_that_would_end_its_header_is_made_harmless(nats_client: NatsClient) -> None:
    subscription = await nats_client.subscribe("runtime.identified")
    await nats_client.publish_identified("runtime.identified", b"data", "", "an\r\nOther: id")
    assert list((await subscription.next_msg(5)).headers or {}) == ["Nats-Msg-Id"]


async def test_identified_message_that_is_too_long_is_refused(nats_client: NatsClient) -> None:
    with pytest.raises(MaxPayloadError):
        await nats_client.publish_identified("runtime.long", bytes(nats_client.max_payload + 1), "", "an-id")


async def test_messages_are_taken_directly_in_order_and_over_a_restart(
    nats_client: NatsClient, nats_server: NatsServer
) -> None:
    taken: list[tuple[str, str, bytes, dict[str, str]]] = []
    subscription = await nats_client.subscribe_directly(
        "runtime.direct.*", lambda *message: taken.append((*message[:3], read_headers(message[3])))
    )
    await nats_client.publish("runtime.direct.a", b"1")
    await nats_client.publish_identified("runtime.direct.b", b"2", "runtime.reply", "an-id")
    await eventually(lambda: len(taken) == 2)
    nats_server.kill()
    nats_server.start()
    await eventually(lambda: not nats_client.is_connected or nats_client.stats["reconnects"])
    await eventually(lambda: nats_client.is_connected, within_sec=10)
    await nats_client.publish("runtime.direct.c", b"3")
    await eventually(lambda: len(taken) == 3)
    assert taken == [
        ("runtime.direct.a", "", b"1", {}),
        ("runtime.direct.b", "runtime.reply", b"2", {"Nats-Msg-Id": "an-id"}),
        ("runtime.direct.c", "", b"3", {}),
    ]
    await subscription.unsubscribe()
    await nats_client.publish("runtime.direct.d", b"4")
    await nats_client.flush()
    assert len(taken) == 3


async def test_what_taking_a_message_raises_does_not_end_the_reading(nats_client: NatsClient) -> None:
    taken: list[bytes] = []

    def take(subject: str, reply: str, data: bytes, headers: bytes | None) -> None:
        if data == b"bad":
            raise ValueError("cannot be taken")
        taken.append(data)

    await nats_client.subscribe_directly("runtime.direct.errors", take)
    for data in (b"1", b"bad", b"2"):
        await nats_client.publish("runtime.direct.errors", data)
    await eventually(lambda: taken == [b"1", b"2"])


async def test_message_under_a_subject_that_is_no_text_is_taken_like_any_other(
    nats_client: NatsClient,
) -> None:
    taken: list[str] = []
    await nats_client.subscribe_directly("runtime.text.*", lambda *message: taken.append(message[0]))
    await nats_client._send_command(b"PUB runtime.text.\xff 1\r\nx\r\n")
    await nats_client.publish("runtime.text.a", b"x")
    await eventually(lambda: len(taken) == 2)
    assert taken == ["runtime.text.\ufffd", "runtime.text.a"]
