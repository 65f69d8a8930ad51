"""Connections to the real servers: they come back by themselves and never repeat a command."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest
import redis.asyncio
import redis.exceptions

from services.runtime.connections import open_questdb, open_valkey
from services.runtime.local_stack import QuestDbServer, ValkeyServer
from tests.integration.runtime.pausing import frozen
from tests.support import eventually


@pytest.fixture
async def valkey(valkey_server: ValkeyServer) -> AsyncIterator[redis.asyncio.Redis]:
    client = open_valkey(valkey_server.url, 5, 4, timeout_sec=0.3)
    yield client
    await client.aclose()


async def test_valkey_answers_in_bytes_on_the_chosen_database(valkey: redis.asyncio.Redis) -> None:
    await valkey.set("runtime:key", "value")
    assert await valkey.get("runtime:key") == b"value"
    assert valkey.connection_pool.connection_kwargs["db"] == 5


async def test_valkey_is_back_after_a_restart(
    valkey_server: ValkeyServer, valkey: redis.asyncio.Redis
) -> None:
    await valkey.set("runtime:key", "value")
    valkey_server.kill()
    with pytest.raises((redis.exceptions.ConnectionError, redis.exceptions.TimeoutError)):
        await valkey.get("runtime:key")
    valkey_server.start()
    valkey_server.wait_healthy()

    async def answers() -> bool:
        try:
            return await valkey.get("runtime:key") == b"value"
        except redis.exceptions.ConnectionError:
            return False  # an old connection of the pool; it is replaced

    await eventually(answers)


async def test_a_command_without_an_answer_raises_and_is_never_sent_again(
    valkey_server: ValkeyServer, valkey: redis.asyncio.Redis
) -> None:
    await valkey.set("runtime:counter", 0)
    with frozen(valkey_server):
        loop = asyncio.get_running_loop()
        started = loop.time()
        with pytest.raises(redis.exceptions.TimeoutError):
            await valkey.incr("runtime:counter")
        assert loop.time() - started < 2
    # The command was in the frozen server's receive buffer: it happened, once.
    assert await eventually(lambda: valkey.get("runtime:counter")) == b"1"


async def test_callers_beyond_the_connections_wait_for_a_free_one(valkey_server: ValkeyServer) -> None:
    client = open_valkey(valkey_server.url, 5, 4, timeout_sec=20, name="test-many")
    answers = await asyncio.gather(*(client.incr("runtime:many") for _ in range(200)))
    assert len(set(answers)) == 200
    ours = [one for one in await client.client_list() if one["name"] == "test-many"]
    assert 1 < len(ours) <= 4
    await client.aclose()


async def test_no_connection_of_the_pool_outlives_a_restart_of_questdb(questdb_server: QuestDbServer) -> None:
    """Every caller after the restart is served, not only who gets the connection of the health probe."""
    size = 3
    pool = open_questdb(questdb_server.pg_url, questdb_server.http_url, size=size, timeout_sec=5)
    together = asyncio.Barrier(size)

    async def ask() -> list[tuple[int]]:
        async with pool.connection() as connection:
            await together.wait()
            return await (await connection.execute("SELECT 1")).fetchall()

    try:
        assert await asyncio.gather(*(ask() for _ in range(size))) == [[(1,)]] * size
        questdb_server.kill()
        questdb_server.start()
        await questdb_server.until_healthy()
        assert await asyncio.gather(*(ask() for _ in range(size))) == [[(1,)]] * size
    finally:
        await pool.close()


async def test_questdb_answers_and_is_back_after_a_restart(questdb_server: QuestDbServer) -> None:
    pool = open_questdb(questdb_server.pg_url, questdb_server.http_url, size=2, timeout_sec=5)
    try:
        assert await pool.execute("SELECT 1 + 1") == [(2,)]
        questdb_server.kill()
        with pytest.raises((psycopg.Error, TimeoutError)):
            await pool.ping()
        questdb_server.start()
        await questdb_server.until_healthy()
        assert await pool.execute("SELECT %s::int + 1", (41,)) == [(42,)]
    finally:
        await pool.close()


async def test_questdb_connections_are_kept_and_bounded(questdb_server: QuestDbServer) -> None:
    pool = open_questdb(questdb_server.pg_url, questdb_server.http_url, size=2, timeout_sec=5)
    seen: set[int] = set()
    most = busy = 0
    together = asyncio.Barrier(2)

    async def use() -> None:
        nonlocal busy, most
        async with pool.connection() as connection:
            busy += 1
            most = max(most, busy)
            seen.add(id(connection))
            await together.wait()  # never comes when only one is lent at a time
            await connection.execute("SELECT 1")
            busy -= 1

    try:
        await asyncio.gather(*(use() for _ in range(10)))
        assert most == 2
        assert len(seen) == 2
    finally:
        await pool.close()


async def test_a_questdb_connection_that_saw_an_error_is_replaced(questdb_server: QuestDbServer) -> None:
    pool = open_questdb(questdb_server.pg_url, questdb_server.http_url, size=1, timeout_sec=5)
    try:
        async with pool.connection() as first:
            pass
        with pytest.raises(psycopg.Error):
            await pool.execute("SELECT nonsense FROM nowhere")
        async with pool.connection() as second:
            assert second is not first
        assert first.closed
        assert await pool.execute("SELECT 1") == [(1,)]
    finally:
        await pool.close()


async def test_a_frozen_questdb_is_a_timeout(questdb_server: QuestDbServer) -> None:
    pool = open_questdb(questdb_server.pg_url, questdb_server.http_url, size=1, timeout_sec=0.5)
    try:
        await pool.ping()
        with frozen(questdb_server):
            loop = asyncio.get_running_loop()
            started = loop.time()
            with pytest.raises(TimeoutError, match=r"no answer in 0\.5 s"):
                await pool.ping()
            assert loop.time() - started < 3

        async def answers() -> bool:
            try:
                await pool.ping()
            except (TimeoutError, psycopg.Error):
                return False
            return True

        await eventually(answers, within_sec=10)
    finally:
        await pool.close()
