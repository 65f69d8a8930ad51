"""The table of streams on a real JetStream."""

import asyncio

import pytest
from nats.js.api import StorageType, StreamConfig

from services.ledger.partition import partition_of
from services.runtime.journal_reader import StreamReader
from services.runtime.local_stack import NatsServer
from services.runtime.nats_client import NatsClient, open_nats
from services.runtime.publisher import Publisher
from services.runtime.streams import (
    ACCOUNTS_BUCKET,
    DEADLETTER,
    EXECUTIONS,
    LEDGER,
    ORDERS,
    STREAMS,
    StreamMismatch,
    ensure_bucket,
    ensure_streams,
)

ALL = (ORDERS, EXECUTIONS, LEDGER, DEADLETTER)


@pytest.fixture
async def client(empty_nats: NatsServer, nats_client: NatsClient) -> NatsClient:
    return nats_client


async def test_every_stream_of_the_table_is_made_and_found_again(client: NatsClient) -> None:
    js = client.jetstream()
    await ensure_streams(js, ALL)
    await ensure_streams(js, ALL)
    assert set(STREAMS) == set(ALL)
    for name in ALL:
        config = (await js.stream_info(name)).config
        assert config.storage == StorageType.FILE
        assert config.discard == "new"
        assert config.max_age == 0
        assert config.duplicate_window == 120
        assert (config.max_bytes or 0) > 0


async def test_services_that_start_together_do_not_disturb_each_other(empty_nats: NatsServer) -> None:
    clients = await asyncio.gather(*(open_nats(empty_nats.url, "test") for _ in range(4)))
    await asyncio.gather(*(ensure_streams(one.jetstream(), ALL) for one in clients))
    await asyncio.gather(*(ensure_bucket(one.jetstream(), ACCOUNTS_BUCKET) for one in clients))
    for one in clients:
        await one.close()


async def test_executions_are_stored_under_the_partition_that_the_ledger_computes(client: NatsClient) -> None:
    js = client.jetstream()
    await ensure_streams(js, (EXECUTIONS,))
    publisher = Publisher(client)
    await publisher.start()
    accounts = ["test_account", "test_account_7", "desk-1", "A", "z" * 64, *(f"a{n}" for n in range(40))]
    for account in accounts:
        for kind in ("fills", "executions"):
            ack = await publisher.publish(f"{kind}.{account}", b"{}", f"{kind}{account}")
            stored = await js.get_msg(EXECUTIONS, ack.sequence)
            assert stored.subject == f"{partition_of(account)}.{kind}.{account}"
    await publisher.close()


async def test_the_owner_of_a_partition_reads_its_reports_alone_and_in_order(client: NatsClient) -> None:
    await ensure_streams(client.jetstream(), (EXECUTIONS,))
    publisher = Publisher(client)
    await publisher.start()
    accounts = [f"account_{number}" for number in range(32)]
    mine = partition_of(accounts[0])
    for number, account in enumerate(accounts * 3):
        kind = "fills" if number % 2 else "executions"
        await publisher.publish(f"{kind}.{account}", b"%d" % number, f"id-{number}")
    expected = [number for number, account in enumerate(accounts * 3) if partition_of(account) == mine]
    read: list[int] = []
    async with StreamReader(client, EXECUTIONS, subjects=(f"{mine}.>",)) as reader:
        async for batch in reader.batches():
            read += [int(message.data) for message in batch]
            if len(read) >= len(expected):
                break
    assert read == expected
    await publisher.close()


async def test_plain_subscribers_see_the_subject_that_was_published(client: NatsClient) -> None:
    await ensure_streams(client.jetstream(), (EXECUTIONS,))
    subscription = await client.subscribe("fills.>")
    await client.publish("fills.test_account", b"{}")
    assert (await subscription.next_msg(5)).subject == "fills.test_account"


async def test_limits_that_an_operator_set_are_left_alone(client: NatsClient) -> None:
    js = client.jetstream()
    await ensure_streams(js, (ORDERS,))
    config = (await js.stream_info(ORDERS)).config
    config.max_bytes = 123_456_789
    await js.update_stream(config)
    await ensure_streams(js, (ORDERS,))
    assert (await js.stream_info(ORDERS)).config.max_bytes == 123_456_789


async def test_a_stream_with_other_subjects_is_refused(client: NatsClient) -> None:
    js = client.jetstream()
    await js.add_stream(StreamConfig(name=ORDERS, subjects=["orders.>"]))
    with pytest.raises(StreamMismatch, match=r"stream ORDERS: subjects is .*discard is"):
        await ensure_streams(js, (ORDERS,))


async def test_another_number_of_partitions_than_the_data_has_is_refused(client: NatsClient) -> None:
    js = client.jetstream()
    await ensure_streams(js, (EXECUTIONS,), partitions=16)
    with pytest.raises(StreamMismatch, match="subject_transform"):
        await ensure_streams(js, (EXECUTIONS,), partitions=8)


async def test_a_bucket_is_made_once_and_keeps_its_content(client: NatsClient) -> None:
    js = client.jetstream()
    first = await ensure_bucket(js, ACCOUNTS_BUCKET)
    await first.put("test_account", b"1")
    again = await ensure_bucket(js, ACCOUNTS_BUCKET)
    assert (await again.get("test_account")).value == b"1"
