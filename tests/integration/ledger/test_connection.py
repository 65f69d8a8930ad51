"""What the pipelined connection sends when, and that its answers stay in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import redis

from services.ledger.connection import ENOUGH, Connection, Endpoint
from services.ledger.errors import Unanswered
from services.runtime.local_stack import ValkeyServer
from tests.integration.ledger.proxy import FaultyProxy, faulty_proxy
from tests.support import eventually

PATIENT_SEC = 30.0


@pytest.fixture
async def proxy(empty_valkey: ValkeyServer) -> AsyncIterator[FaultyProxy]:
    async with faulty_proxy("127.0.0.1", empty_valkey.port, seed=11) as made:
        yield made


@contextlib.asynccontextmanager
async def connected(proxy: FaultyProxy) -> AsyncIterator[Connection]:
    connection = Connection(Endpoint.parse(proxy.url, timeout=PATIENT_SEC))
    await connection.open()
    try:
        yield connection
    finally:
        await connection.close()


async def count_up(connection: Connection, times: int) -> list[asyncio.Future[int]]:
    """Sends so many requests, each in a turn of the loop of its own."""
    sent = []
    for _ in range(times):
        sent.append(connection.request("INCR", "count"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    return sent


async def test_what_comes_while_enough_is_unanswered_gathers_and_keeps_its_order(
    proxy: FaultyProxy, empty_valkey: ValkeyServer
) -> None:
    with redis.Redis.from_url(empty_valkey.url) as direct:

        async def counted(number: int) -> bool:
            return int(direct.get("count") or 0) == number

        async with connected(proxy) as connection:
            proxy.talking.clear()
            sent = await count_up(connection, ENOUGH)
            await eventually(lambda: counted(ENOUGH))
            sent += await count_up(connection, 6)
            await asyncio.sleep(0.1)
            assert await counted(ENOUGH)
            proxy.talking.set()
            assert await asyncio.gather(*sent) == list(range(1, ENOUGH + 7))
            assert await connection.request("INCR", "count") == ENOUGH + 7


async def test_what_gathered_fails_with_the_connection_and_is_not_sent_by_the_next_one(
    proxy: FaultyProxy, empty_valkey: ValkeyServer
) -> None:
    async with connected(proxy) as connection:
        proxy.talking.clear()
        sent = await count_up(connection, ENOUGH + 6)
        proxy.break_all()
        answers = await asyncio.gather(*sent, return_exceptions=True)
        assert [type(answer) for answer in answers] == [Unanswered] * (ENOUGH + 6)
        proxy.talking.set()
        assert await connection.wait_connected(PATIENT_SEC)
        last = await connection.request("INCR", "count")
        assert last <= ENOUGH + 1
