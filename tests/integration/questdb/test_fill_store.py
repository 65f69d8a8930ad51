"""The fill store on real servers, which die in the middle."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import msgspec
import psycopg
import pytest
from nats.js.errors import NotFoundError

from services.messages import encode
from services.questdb.fill_store import DURABLE, FillStore
from services.questdb.queries import count_fills, wait_applied
from services.questdb.schema import FILLS
from services.runtime.connections import QuestdbPool, open_questdb
from services.runtime.local_stack import NatsServer, QuestDbServer
from services.runtime.publisher import Publisher
from services.runtime.streams import EXECUTIONS
from tests.integration.questdb.support import connected, fill, pool_of, publish, store_of
from tests.support import eventually, nested


async def rows_of(pool: QuestdbPool, account: str) -> list[tuple[Any, ...]]:
    columns = "fill_id, quantity, price, timestamp, stream_seq"
    return await pool.execute(f"SELECT {columns} FROM fills WHERE account = %s ORDER BY timestamp", [account])


async def stored(pool: QuestdbPool, account: str, count: int) -> bool:
    try:
        return await count_fills(pool, account=account) >= count
    except (psycopg.Error, OSError, TimeoutError):
        return False  # a test has killed the server


async def stopped(store: FillStore, task: asyncio.Task[None]) -> None:
    store.stop()
    await asyncio.wait_for(task, 10)


async def test_fills_are_stored_exactly_and_acknowledged(
    empty_nats: NatsServer, empty_questdb: QuestDbServer, account: str
) -> None:
    async with connected(empty_nats) as (client, publisher), pool_of(empty_questdb) as pool:
        store = store_of(client, publisher, pool)
        task = asyncio.create_task(store.run())
        exact = Decimal("12345678901234567890.123456789012345678")
        await publish(publisher, [fill(account, 1, quantity=exact, price=Decimal("0.000000000000000001"))])
        await eventually(lambda: stored(pool, account, 1))
        ((fill_id, quantity, price, timestamp, sequence),) = await rows_of(pool, account)
        assert (fill_id, quantity, price, sequence) == (f"{account}-f1", exact, Decimal("1E-18"), 1)
        assert timestamp.isoformat() == "2023-11-14T22:13:20.000002"

        async def acknowledged() -> bool:
            info = await client.jetstream().consumer_info(EXECUTIONS, DURABLE)
            return bool(info.num_ack_pending == 0 and info.num_pending == 0)

        await eventually(acknowledged)
        await stopped(store, task)


async def test_a_fill_without_id_and_timestamp_gets_its_sequence_and_stream_time(
    empty_nats: NatsServer, empty_questdb: QuestDbServer, account: str
) -> None:
    async with connected(empty_nats) as (client, publisher), pool_of(empty_questdb) as pool:
        bare = b'{"account":"%s","symbol":"BTCUSDT","side":"buy","quantity":1,"price":2}' % account.encode()
        ack = await publisher.publish(f"fills.{account}", bare, "bare")
        message = await client.jetstream().get_msg(EXECUTIONS, ack.sequence, direct=True)
        store = store_of(client, publisher, pool)
        task = asyncio.create_task(store.run())
        await eventually(lambda: stored(pool, account, 1))
        ((fill_id, _, _, timestamp, sequence),) = await rows_of(pool, account)
        assert (fill_id, sequence) == (str(ack.sequence), ack.sequence)
        assert message.time is not None
        assert timestamp == message.time.replace(tzinfo=None)
        await stopped(store, task)


async def test_a_fill_without_a_time_that_is_told_again_is_one_row(
    empty_nats: NatsServer, empty_questdb: QuestDbServer, account: str
) -> None:
    async with connected(empty_nats) as (client, publisher), pool_of(empty_questdb) as pool:
        store = store_of(client, publisher, pool)
        task = asyncio.create_task(store.run())
        await publish(publisher, [fill(account, 1, timestamp=None)])
        await eventually(lambda: stored(pool, account, 1))
        # Not at once, and not under the message id that JetStream would recognise.
        again = encode(fill(account, 1, timestamp=None))
        sequence = (await publisher.publish(f"fills.{account}", again, "again")).sequence

        async def repeated() -> bool:
            return [row[-1] for row in await rows_of(pool, account)][-1:] == [sequence]

        await eventually(repeated)
        await wait_applied(pool, FILLS)
        assert len(await rows_of(pool, account)) == 1
        await stopped(store, task)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"not json", "malformed"),
        (b'{"account":"other","symbol":"BTCUSDT","side":"buy","quantity":1,"price":2}', "subject"),
        (b'{"account":"%s","symbol":"BTC\\u0000","side":"buy","quantity":1,"price":2}', "symbol"),
        (b'{"account":"%s","symbol":"BTCUSDT","side":"buy","quantity":-1,"price":2}', "quantity"),
        (b'{"account":"%s","symbol":"BTCUSDT","side":"buy","quantity":1,"price":2,"version":9}', "version"),
        (b"\xff\xfe", ""),
        pytest.param(
            nested(b'{"account":"%s","symbol":"BTCUSDT","side":"buy","quantity":1,"price":2}'),
            "recursion",
            id="nested",
        ),
        pytest.param(
            b'{"account":"' + b"o" * 1_900_000 + b'","symbol":"A","side":"buy","quantity":1,"price":2}',
            "account",
            id="long",
        ),
    ],
)
async def test_an_unusable_message_goes_to_the_dead_letters_and_holds_nobody_up(
    empty_nats: NatsServer, empty_questdb: QuestDbServer, account: str, payload: bytes, reason: str
) -> None:
    payload = payload.replace(b"%s", account.encode())
    async with connected(empty_nats) as (client, publisher), pool_of(empty_questdb) as pool:
        await publisher.publish(f"fills.{account}", payload, "bad")
        await publish(publisher, [fill(account, 1)])
        store = store_of(client, publisher, pool)
        task = asyncio.create_task(store.run())
        await eventually(lambda: stored(pool, account, 1))
        js = client.jetstream()

        async def set_aside() -> bool:
            return bool((await js.stream_info("DEADLETTER")).state.messages == 1)

        await eventually(set_aside)
        letter = msgspec.json.decode((await js.get_last_msg("DEADLETTER", "deadletter.fills")).data or b"")
        assert reason in letter["reason"]
        assert (letter["stream"], letter["sequence"]) == (EXECUTIONS, 1)

        async def nothing_pending() -> bool:
            return not (await js.consumer_info(EXECUTIONS, DURABLE)).num_ack_pending

        await eventually(nothing_pending)
        await stopped(store, task)


async def test_killed_questdb_holds_exactly_the_published_fills_once_it_is_back(
    empty_nats: NatsServer, empty_questdb: QuestDbServer, account: str
) -> None:
    count = 5000
    async with connected(empty_nats) as (client, publisher), pool_of(empty_questdb) as pool:
        store = store_of(client, publisher, pool, batch_size=200)
        task = asyncio.create_task(store.run())
        publishing = asyncio.create_task(publish_many(publisher, account, count))
        await eventually(lambda: stored(pool, account, 300), within_sec=20)
        empty_questdb.kill()
        await publishing
        empty_questdb.start()
        await empty_questdb.until_healthy()
        await eventually(lambda: stored(pool, account, count), within_sec=40, every_sec=0.2)
        await wait_applied(pool, FILLS)
        rows = await rows_of(pool, account)
        assert [row[0] for row in rows] == [f"{account}-f{number}" for number in range(count)]
        await stopped(store, task)


async def publish_many(publisher: Publisher, account: str, count: int) -> None:
    for start in range(0, count, 50):
        fills = [fill(account, number) for number in range(start, min(start + 50, count))]
        await asyncio.gather(*(publish(publisher, [one]) for one in fills))


async def test_a_restarted_nats_does_not_leave_the_store_waiting(
    empty_nats: NatsServer, empty_questdb: QuestDbServer, account: str
) -> None:
    async with connected(empty_nats) as (client, publisher), pool_of(empty_questdb) as pool:
        store = store_of(client, publisher, pool)
        task = asyncio.create_task(store.run())
        await publish(publisher, [fill(account, 1)])
        await eventually(lambda: stored(pool, account, 1))
        empty_nats.kill()
        empty_nats.start()
        await empty_nats.until_healthy()
        await eventually(lambda: client.is_connected)
        await publish(publisher, [fill(account, 2)])
        await eventually(lambda: stored(pool, account, 2), within_sec=10)
        await stopped(store, task)


async def test_two_workers_share_the_work_and_store_each_fill_once(
    empty_nats: NatsServer, empty_questdb: QuestDbServer, account: str
) -> None:
    count = 1000
    async with (
        connected(empty_nats) as (client, publisher),
        connected(empty_nats) as (other_client, other_publisher),
        pool_of(empty_questdb) as pool,
    ):
        stores = [
            store_of(client, publisher, pool, batch_size=50),
            store_of(other_client, other_publisher, pool, batch_size=50),
        ]
        tasks = [asyncio.create_task(store.run()) for store in stores]
        await publish_many(publisher, account, count)
        await eventually(lambda: stored(pool, account, count), within_sec=20)
        await wait_applied(pool, FILLS)
        assert len(await rows_of(pool, account)) == count
        for store, task in zip(stores, tasks, strict=True):
            await stopped(store, task)


async def test_a_stopped_store_gives_back_what_it_could_not_write(
    empty_nats: NatsServer, empty_questdb: QuestDbServer, account: str
) -> None:
    async with connected(empty_nats) as (client, publisher), pool_of(empty_questdb) as pool:
        await publish(publisher, [fill(account, number) for number in range(10)])
        empty_questdb.kill()
        store = store_of(client, publisher, pool)
        task = asyncio.create_task(store.run())

        async def delivered() -> bool:
            try:
                info = await client.jetstream().consumer_info(EXECUTIONS, DURABLE)
            except NotFoundError:
                return False
            return bool(info.num_ack_pending == 10)

        await eventually(delivered)
        await stopped(store, task)
        empty_questdb.start()
        await empty_questdb.until_healthy()
        store = store_of(client, publisher, pool)
        task = asyncio.create_task(store.run())
        # Well before the 10 s after which an unanswered message would come again.
        await eventually(lambda: stored(pool, account, 10), within_sec=7)
        await stopped(store, task)


async def test_a_store_that_died_unacknowledged_is_repeated_without_doubles(
    empty_nats: NatsServer, empty_questdb: QuestDbServer, account: str
) -> None:
    async with connected(empty_nats) as (client, publisher), pool_of(empty_questdb) as pool:
        fills = [fill(account, number) for number in range(20)]
        await publish(publisher, fills)
        store = store_of(client, publisher, pool)
        task = asyncio.create_task(store.run())
        await eventually(lambda: stored(pool, account, 20))
        await stopped(store, task)
        # As if no acknowledgement had arrived: the consumer forgets, everything is delivered again.
        await client.jetstream().delete_consumer(EXECUTIONS, DURABLE)
        store = store_of(client, publisher, pool)
        task = asyncio.create_task(store.run())

        async def again() -> bool:
            try:
                info = await client.jetstream().consumer_info(EXECUTIONS, DURABLE)
            except NotFoundError:
                return False  # the store has not made it again yet
            delivered = 0 if info.delivered is None else info.delivered.stream_seq
            return info.num_ack_pending == 0 and delivered == 20

        await eventually(again, within_sec=10)
        await wait_applied(pool, FILLS)
        rows = await rows_of(pool, account)
        assert [row[3] for row in rows] == sorted({row[3] for row in rows})
        assert len(rows) == 20
        await stopped(store, task)


async def test_a_frozen_questdb_holds_the_fills_up_and_loses_none(
    empty_nats: NatsServer, empty_questdb: QuestDbServer, account: str
) -> None:
    pool = open_questdb(empty_questdb.pg_url, empty_questdb.http_url, timeout_sec=1)
    async with connected(empty_nats) as (client, publisher):
        store = store_of(client, publisher, pool)
        task = asyncio.create_task(store.run())
        await publish(publisher, [fill(account, 1)])
        await eventually(lambda: stored(pool, account, 1), within_sec=20)
        empty_questdb.pause()
        await publish(publisher, [fill(account, number) for number in range(2, 20)])

        async def held() -> bool:
            info = await client.jetstream().consumer_info(EXECUTIONS, DURABLE)
            return bool(info.num_ack_pending == 18)

        await eventually(held)
        empty_questdb.resume()
        await eventually(lambda: stored(pool, account, 19), within_sec=30)
        await stopped(store, task)
    await pool.close()


async def test_a_consumer_that_is_deleted_under_the_store_is_made_again(
    empty_nats: NatsServer, empty_questdb: QuestDbServer, account: str
) -> None:
    async with connected(empty_nats) as (client, publisher), pool_of(empty_questdb) as pool:
        store = store_of(client, publisher, pool)
        task = asyncio.create_task(store.run())
        await publish(publisher, [fill(account, 1)])
        await eventually(lambda: stored(pool, account, 1), within_sec=20)
        await client.jetstream().delete_consumer(EXECUTIONS, DURABLE)
        await publish(publisher, [fill(account, 2)])
        await eventually(lambda: stored(pool, account, 2), within_sec=20)
        await stopped(store, task)


async def test_a_frozen_nats_is_waited_for(
    empty_nats: NatsServer, empty_questdb: QuestDbServer, account: str
) -> None:
    async with connected(empty_nats) as (client, publisher), pool_of(empty_questdb) as pool:
        store = store_of(client, publisher, pool)
        task = asyncio.create_task(store.run())
        await publish(publisher, [fill(account, 1)])
        await eventually(lambda: stored(pool, account, 1), within_sec=20)
        empty_nats.pause()
        await eventually(lambda: not client.is_connected, within_sec=15)
        empty_nats.resume()
        await eventually(lambda: client.is_connected, within_sec=15)
        await publish(publisher, [fill(account, 2)])
        await eventually(lambda: stored(pool, account, 2), within_sec=20)
        await stopped(store, task)
