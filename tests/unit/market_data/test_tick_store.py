"""Ticks wait in a bounded buffer while QuestDB is away."""

from __future__ import annotations

from decimal import Decimal

from services.market_data.tick_store import TickStore
from services.messages import Tick
from services.runtime.connections import open_questdb
from services.runtime.local_stack import free_ports


def tick(number: int) -> Tick:
    return Tick(symbol="BTCUSDT", price=Decimal(number), timestamp=Decimal(1_700_000_000 + number))


async def test_without_questdb_the_newest_ticks_wait_and_nothing_raises() -> None:
    nobody, nothing = free_ports(2)
    pool = open_questdb(
        f"postgresql://admin:quest@127.0.0.1:{nobody}/qdb", f"http://127.0.0.1:{nothing}", timeout_sec=2
    )
    store = TickStore(pool, batch_size=4, flush_interval_sec=1, limit=10)
    for number in range(25):
        store.add(tick(number))
    assert len(store.waiting_ticks) == 10
    assert await store.flush() is False
    assert len(store.waiting_ticks) == 10
    store.add(tick(25))
    assert [one.price for one in store.waiting_ticks] == [Decimal(number) for number in range(16, 26)]
    await pool.close()
