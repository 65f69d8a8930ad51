"""What the tests of the QuestDB side share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal

from services.ledger.order import Side
from services.messages import Fill, encode
from services.questdb.fill_store import FillStore
from services.runtime.connections import QuestdbPool, open_questdb
from services.runtime.local_stack import NatsServer, QuestDbServer
from services.runtime.nats_client import NatsClient, open_nats
from services.runtime.publisher import Publisher
from services.runtime.streams import DEADLETTER, EXECUTIONS, LEDGER, ensure_streams

START = Decimal("1700000000.000001")


def fill(account: str, number: int, **members: object) -> Fill:
    """The `number`-th fill of a test, 1 µs after the one before."""
    values: dict[str, object] = {
        "account": account,
        "symbol": "BTCUSDT",
        "side": Side.BUY if number % 3 else Side.SELL,
        "quantity": Decimal("0.01"),
        "price": Decimal(45000) + number % 100,
        "fill_id": f"{account}-f{number}",
        "order_id": f"{account}-o{number}",
        "fee": Decimal("0.0045"),
        "liquidity": "taker",
        "timestamp": START + Decimal(number).scaleb(-6),
    }
    return Fill(**{**values, **members})  # type: ignore[arg-type]


@asynccontextmanager
async def connected(nats: NatsServer) -> AsyncIterator[tuple[NatsClient, Publisher]]:
    """A connection with a publisher on it, and the streams."""
    client = await open_nats(nats.url, "test")
    try:
        await ensure_streams(client.jetstream(), (EXECUTIONS, LEDGER, DEADLETTER))
        publisher = Publisher(client)
        await publisher.start()
        yield client, publisher
        await publisher.close()
    finally:
        await client.close()


@asynccontextmanager
async def pool_of(questdb: QuestDbServer) -> AsyncIterator[QuestdbPool]:
    """A pool that waits no longer than a test can."""
    pool = open_questdb(questdb.pg_url, questdb.http_url, timeout_sec=10)
    try:
        yield pool
    finally:
        await pool.close()


def store_of(
    client: NatsClient,
    publisher: Publisher,
    pool: QuestdbPool,
    batch_size: int = 1000,
    flush_sec: float = 0.2,
) -> FillStore:
    """A fill store with short times."""
    return FillStore(client, publisher, pool, batch_size=batch_size, flush_interval_sec=flush_sec)


async def publish(publisher: Publisher, fills: Sequence[Fill]) -> None:
    """Publishes `fills` in order, acknowledged."""
    for one in fills:
        await publisher.publish(f"fills.{one.account}", encode(one), f"test:{one.account}:{one.fill_id}")
