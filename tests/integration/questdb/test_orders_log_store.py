"""The log of order events on real servers."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from services.ledger.codec import encode_commit, join_commits
from services.ledger.events import Acknowledged, Event, Filled, Opened, Reserved
from services.ledger.order import OrderState
from services.ledger.partition import partition_of
from services.questdb.orders_log_store import OrdersLogStore
from services.questdb.queries import logged_orders, wait_applied
from services.questdb.schema import ORDERS_LOG
from services.runtime.connections import QuestdbPool
from services.runtime.ids import new_order_id
from services.runtime.local_stack import NatsServer, QuestDbServer
from services.runtime.nats_client import NatsClient
from services.runtime.publisher import Publisher
from services.runtime.streams import LEDGER
from tests.integration.questdb.support import connected, pool_of
from tests.support import eventually, nested
from tests.unit.ledger.making import make_order


class Account:
    """The LEDGER messages of one account."""

    def __init__(self, name: str, publisher: Publisher) -> None:
        self.name = name
        self.partition = partition_of(name)
        self._publisher = publisher
        self._seq = 1
        self._opened_ns = time.time_ns()
        self._venue = itertools.count(1)

    async def commit(self, *events: Event) -> int:
        """Publishes one commit with these events; the number of its first one."""
        first = self._seq
        self._seq += len(events)
        await self.publish(first, events)
        return first

    async def publish(self, first: int, events: Sequence[Event]) -> None:
        """Publishes a commit whose first event has the number `first`."""
        message = join_commits([encode_commit(self.name, first, self._opened_ns + first * 1000, events)])
        subject = f"ledger.{self.partition}.{self.name}"
        await self._publisher.publish(subject, message, f"{self.name}:{first}:{next(self._venue)}")

    def filled(self, order_id: str, quantity: str) -> Filled:
        """A fill of `quantity` at 45,000."""
        made = make_order(self.name, "1")
        number = next(self._venue)
        return Filled(
            order_id=order_id,
            symbol=made.symbol,
            side=made.side,
            quantity=Decimal(quantity),
            price=Decimal(45000),
            fee=Decimal(0),
            exec_id=f"e{number}",
            liquidity="taker",
            venue_ns=self._opened_ns,
            stream_seq=number,
        )


def store_of(client: NatsClient, publisher: Publisher, pool: QuestdbPool) -> OrdersLogStore:
    return OrdersLogStore(client, publisher, pool, batch_size=100, flush_interval_sec=0.1)


async def log_of(pool: QuestdbPool, account: str) -> list[tuple[Any, ...]]:
    columns = "account_seq, event, state, quantity, cumulative"
    query = f"SELECT {columns} FROM orders_log WHERE account = %s ORDER BY account_seq"
    try:
        return await pool.execute(query, [account])
    except (psycopg.Error, OSError, TimeoutError):
        return []  # a test has killed the server, or there is no table yet


async def logged(pool: QuestdbPool, account: str, rows: int) -> list[tuple[Any, ...]]:
    """The rows of `account`, once there are as many."""

    async def enough() -> list[tuple[Any, ...]] | None:
        found = await log_of(pool, account)
        return found if len(found) >= rows else None

    return await eventually(enough, within_sec=20) or []


async def test_each_event_is_a_row_with_the_state_after_it(
    empty_nats: NatsServer, empty_questdb: QuestDbServer, account: str
) -> None:
    async with connected(empty_nats) as (client, publisher), pool_of(empty_questdb) as pool:
        store = store_of(client, publisher, pool)
        task = asyncio.create_task(store.run())
        ledger = Account(account, publisher)
        await store.acquired(ledger.partition, 1)
        order = make_order(account, "3")
        await ledger.commit(Opened("life", Decimal(100_000)), Reserved(order))
        await ledger.commit(Acknowledged(order.order_id, 1))
        await ledger.commit(ledger.filled(order.order_id, "1"), ledger.filled(order.order_id, "2"))
        assert await logged(pool, account, 4) == [
            (2, "reserved", "pending_new", 3, 0),
            (3, "acknowledged", "new", 3, 0),
            (4, "filled", "partially_filled", 3, 1),
            (5, "filled", "filled", 3, 3),
        ]
        await eventually(lambda: store.stored(ledger.partition) == 3)
        found = await logged_orders(pool, [order.order_id, "unknown"])
        assert list(found) == [order.order_id]
        assert found[order.order_id].state is OrderState.FILLED
        assert found[order.order_id].cumulative == 3
        store.stop()
        await asyncio.wait_for(task, 10)


async def test_a_new_owner_goes_on_with_the_orders_of_the_one_before(
    empty_nats: NatsServer, empty_questdb: QuestDbServer, account: str
) -> None:
    async with connected(empty_nats) as (client, publisher), pool_of(empty_questdb) as pool:
        ledger = Account(account, publisher)
        order = make_order(account, "3")
        await ledger.commit(Reserved(order), ledger.filled(order.order_id, "1"))
        found = []
        for rows, quantity in ((2, "1"), (3, "1"), (4, "")):
            store = store_of(client, publisher, pool)
            task = asyncio.create_task(store.run())
            await store.acquired(ledger.partition, rows)
            found = await logged(pool, account, rows)
            store.stop()
            await asyncio.wait_for(task, 10)
            if quantity:
                await ledger.commit(ledger.filled(order.order_id, quantity))
        assert [(row[0], row[2], row[4]) for row in found] == [
            (1, "pending_new", 0),
            (2, "partially_filled", 1),
            (3, "partially_filled", 2),
            (4, "filled", 3),
        ]


async def test_repeated_messages_make_no_second_row(
    empty_nats: NatsServer, empty_questdb: QuestDbServer, account: str
) -> None:
    async with connected(empty_nats) as (client, publisher), pool_of(empty_questdb) as pool:
        ledger = Account(account, publisher)
        order = make_order(account, "3")
        events: list[Event] = [
            Reserved(order),
            ledger.filled(order.order_id, "1"),
            ledger.filled(order.order_id, "2"),
        ]
        store = store_of(client, publisher, pool)
        task = asyncio.create_task(store.run())
        await store.acquired(ledger.partition, 1)
        await ledger.publish(1, events[:2])
        await logged(pool, account, 2)
        await ledger.publish(1, events[:2])
        await ledger.publish(2, events[1:])
        await logged(pool, account, 3)
        await ledger.publish(3, events[2:])
        await eventually(lambda: store.stored(ledger.partition) == 4)
        await wait_applied(pool, ORDERS_LOG)
        assert [(row[0], row[4]) for row in await log_of(pool, account)] == [(1, 0), (2, 1), (3, 3)]
        store.stop()
        await asyncio.wait_for(task, 10)


async def test_killed_questdb_misses_no_event(
    empty_nats: NatsServer, empty_questdb: QuestDbServer, account: str
) -> None:
    count = 300
    async with connected(empty_nats) as (client, publisher), pool_of(empty_questdb) as pool:
        ledger = Account(account, publisher)
        store = store_of(client, publisher, pool)
        task = asyncio.create_task(store.run())
        await store.acquired(ledger.partition, 1)
        order_ids = []
        for number in range(count):
            order = make_order(account, "1")
            order_ids.append(order.order_id)
            await ledger.commit(Reserved(order))
            await ledger.commit(ledger.filled(order.order_id, "1"))
            if number == count // 2:
                await logged(pool, account, 1)
                empty_questdb.kill()
        empty_questdb.start()
        await empty_questdb.until_healthy()
        rows = await logged(pool, account, 2 * count)
        await wait_applied(pool, ORDERS_LOG)
        assert [row[0] for row in await log_of(pool, account)] == list(range(1, 2 * count + 1))
        assert [row[2] for row in rows] == ["pending_new", "filled"] * count
        assert len(await logged_orders(pool, order_ids)) == count
        store.stop()
        await asyncio.wait_for(task, 10)


async def test_a_stream_that_was_made_anew_is_read_from_its_start(
    empty_nats: NatsServer, empty_questdb: QuestDbServer, account: str
) -> None:
    async with connected(empty_nats) as (client, publisher), pool_of(empty_questdb) as pool:
        ledger = Account(account, publisher)
        for _ in range(5):
            await ledger.commit(Reserved(make_order(account, "1")))
        store = store_of(client, publisher, pool)
        task = asyncio.create_task(store.run())
        await store.acquired(ledger.partition, 1)
        await logged(pool, account, 5)
        await store.lost(ledger.partition)
        await client.jetstream().purge_stream(LEDGER)
        await client.jetstream().delete_stream(LEDGER)
        async with connected(empty_nats):
            pass  # makes the streams again
        await ledger.commit(Reserved(make_order(account, "1")))
        await store.acquired(ledger.partition, 2)
        await logged(pool, account, 6)
        store.stop()
        await asyncio.wait_for(task, 10)


@pytest.mark.parametrize(
    "payload",
    [pytest.param(b'[{"v":99}]', id="newer"), pytest.param(b"[" + nested(b'{"v":1}') + b"]", id="nested")],
)
async def test_a_message_that_cannot_be_read_is_set_aside(
    empty_nats: NatsServer, empty_questdb: QuestDbServer, account: str, payload: bytes
) -> None:
    async with connected(empty_nats) as (client, publisher), pool_of(empty_questdb) as pool:
        ledger = Account(account, publisher)
        await publisher.publish(f"ledger.{ledger.partition}.{account}", payload, "bad")
        await ledger.commit(Reserved(make_order(account, "1")))
        store = store_of(client, publisher, pool)
        task = asyncio.create_task(store.run())
        await store.acquired(ledger.partition, 1)
        await logged(pool, account, 1)
        letter = await client.jetstream().get_last_msg("DEADLETTER", "deadletter.ledger")
        assert b'"sequence":1' in (letter.data or b"")
        store.stop()
        await asyncio.wait_for(task, 10)


async def test_an_event_of_an_order_that_nobody_knows_is_logged(
    empty_nats: NatsServer, empty_questdb: QuestDbServer, account: str
) -> None:
    async with connected(empty_nats) as (client, publisher), pool_of(empty_questdb) as pool:
        ledger = Account(account, publisher)
        await ledger.commit(Acknowledged(new_order_id(account), 1))
        store = store_of(client, publisher, pool)
        task = asyncio.create_task(store.run())
        await store.acquired(ledger.partition, 1)
        assert (await logged(pool, account, 1))[0][:2] == (1, "acknowledged")
        store.stop()
        await asyncio.wait_for(task, 10)
