"""Marks and history of risk, fed by market data on real servers."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal

import nats

from services.risk.history import History
from services.risk.mark_rules import JumpRule
from services.risk.marks import Marks
from services.runtime.clock import ManualClock, SystemClock
from services.runtime.local_stack import NatsServer, QuestDbServer
from services.runtime.nats_client import open_nats
from tests.integration.market_data.support import market_data
from tests.integration.questdb.support import pool_of
from tests.support import eventually

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")


async def test_marks_follow_the_ticks_also_after_a_restart_of_nats(
    empty_nats: NatsServer, empty_questdb: QuestDbServer
) -> None:
    marks = Marks(SYMBOLS, SystemClock(), JumpRule(Decimal(10), 3), max_age_sec=1.5, held_max_age_sec=300)
    client = await open_nats(empty_nats.url, "risk")
    try:
        await marks.start(client)

        async def complete() -> bool:
            try:
                await marks.probe()
            except LookupError:
                return False
            return True

        async with market_data(empty_nats, empty_questdb, REPLAY__SPEED="0"):
            await eventually(complete)
            quote = marks.quote("BTCUSDT")
            assert quote is not None
            assert (quote.price, quote.fresh) == (Decimal(45000), True)
            empty_nats.kill()

            async def stale() -> bool:
                return not await complete()

            await eventually(stale, within_sec=10)
            empty_nats.start()
            await empty_nats.until_healthy()
            await eventually(complete, within_sec=10)
        await marks.stop()
    finally:
        await client.close()


async def test_history_has_the_lookback_s_returns_until_yesterday(
    empty_nats: NatsServer, empty_questdb: QuestDbServer
) -> None:
    clock = SystemClock()
    async with pool_of(empty_questdb) as pool:
        history = History(pool, SYMBOLS, clock, lookback_days=30, refresh_interval_sec=0.2)
        assert await history.refresh() is False
        assert history.returns("BTCUSDT") is None
        refreshing = asyncio.create_task(history.run())
        async with market_data(empty_nats, empty_questdb):
            await eventually(lambda: all(history.returns(symbol) for symbol in SYMBOLS), within_sec=60)
        refreshing.cancel()
        await asyncio.wait([refreshing])
        returns = history.returns("BTCUSDT")
        assert returns is not None
        assert len(returns) == 30
        assert returns.last_day == clock.now_ns() // 86_400_000_000_000 - 1
        # 2024-01-08 closed at 46,951.04 and 2024-01-09 at 46,110.00.
        assert returns.falls[-1] == 1 - 46110.0 / 46951.04
        assert history.last_bar is not None
        empty_questdb.kill()
        assert await history.refresh() is False
        assert history.returns("BTCUSDT") == returns


async def test_a_foreign_publisher_cannot_move_a_mark_at_once(empty_nats: NatsServer) -> None:
    marks = Marks(("BTCUSDT",), SystemClock(), JumpRule(Decimal(10), 3), max_age_sec=60, held_max_age_sec=300)
    client = await nats.connect(empty_nats.url)
    try:
        own = await open_nats(empty_nats.url, "risk")
        await marks.start(own)
        await own.flush()
        for price in (b"45000", b"1"):
            await client.publish("ticks.BTCUSDT", b'{"symbol":"BTCUSDT","price":%s,"timestamp":1}' % price)
        await client.publish("ticks.BTCUSDT", b"garbage")
        await client.publish("ticks.BTCUSDT", b'{"symbol":"BTCUSDT","price":45001,"timestamp":1}')

        def moved() -> bool:
            quote = marks.quote("BTCUSDT")
            return quote is not None and quote.price == 45001

        await eventually(moved)
        await own.close()
    finally:
        await client.close()


async def test_history_follows_a_midnight_without_a_moment_of_nothing(
    empty_nats: NatsServer, empty_questdb: QuestDbServer
) -> None:
    clock = ManualClock(SystemClock().now_ns())
    async with (
        pool_of(empty_questdb) as pool,
        market_data(empty_nats, empty_questdb, clock, QUESTDB__STORE_TICKS="false"),
    ):
        history = History(pool, SYMBOLS, clock, lookback_days=30, refresh_interval_sec=0.2)

        async def loaded() -> bool:
            await history.refresh()
            return history.last_bar is not None

        await eventually(loaded, within_sec=60)
        for _ in range(10):  # often enough for the statement to be prepared on the server
            await history.refresh()
        before, returns = history.last_bar, history.returns("BTCUSDT")
        assert before is not None
        assert returns is not None
        clock.set_wall_clock(clock.now_ns() + 86_400 * 1_000_000_000)

        async def moved() -> bool:
            await history.refresh()
            assert history.returns("BTCUSDT") is not None, "value at risk would be denied"
            return history.last_bar == before + timedelta(days=1)

        deadline = asyncio.get_running_loop().time() + 60
        while not await moved():
            assert asyncio.get_running_loop().time() < deadline
        after = history.returns("BTCUSDT")
        assert after is not None
        assert (after.falls, after.rises) == (returns.falls, returns.rises)
