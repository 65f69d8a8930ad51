"""Market data on real servers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import nats
import psycopg

from services.market_data.bars import daily_bars
from services.market_data.bootstrap import replay_of
from services.market_data.settings import MarketDataConfig, ReplaySettings
from services.messages import Tick, decode
from services.runtime.clock import ManualClock, SystemClock
from services.runtime.connections import QuestdbPool
from services.runtime.local_stack import NatsServer, QuestDbServer
from tests.integration.market_data.support import market_data
from tests.integration.questdb.support import pool_of
from tests.support import eventually


async def ticks_from(server: NatsServer, count: int) -> list[Tick]:
    """The next ticks, as a subscriber of `ticks.>` gets them."""
    client = await nats.connect(server.url)
    try:
        subscription = await client.subscribe("ticks.>")
        messages = [await subscription.next_msg(10) for _ in range(count)]
        assert all(message.subject == f"ticks.{decode(Tick, message.data).symbol}" for message in messages)
        return [decode(Tick, message.data) for message in messages]
    finally:
        await client.close()


async def rows(pool: QuestdbPool, query: str) -> list[tuple[Any, ...]]:
    try:
        return await pool.execute(query)
    except (psycopg.Error, OSError, TimeoutError):
        return []


async def history_ends(pool: QuestdbPool) -> tuple[Any, ...] | None:
    found = await rows(pool, "SELECT min(timestamp), max(timestamp), count() FROM daily_bars")
    return found[0] if found and found[0][2] else None


async def test_ticks_follow_the_replay_and_start_at_45000(
    empty_nats: NatsServer, empty_questdb: QuestDbServer
) -> None:
    async with market_data(empty_nats, empty_questdb, REPLAY__SPEED="0"):
        ticks = await ticks_from(empty_nats, 6)
    assert {tick.symbol for tick in ticks} == {"BTCUSDT", "ETHUSDT", "SOLUSDT"}
    assert {tick.price for tick in ticks if tick.symbol == "BTCUSDT"} == {Decimal(45000)}
    now = datetime.now(UTC).timestamp()
    assert all(now - 20 < tick.timestamp <= now for tick in ticks)


async def test_two_runs_publish_the_same_prices(empty_nats: NatsServer, empty_questdb: QuestDbServer) -> None:
    speed = Decimal(1000)
    replay = replay_of(MarketDataConfig(replay=ReplaySettings(speed=speed)))
    beats = [dict(replay.prices(beat * 20_000_000)) for beat in range(2000)]
    possible = {(symbol, price) for beat in beats for symbol, price in beat.items()}
    for _ in range(2):
        async with market_data(empty_nats, empty_questdb, REPLAY__SPEED="1000"):
            ticks = await ticks_from(empty_nats, 60)
        assert {(tick.symbol, tick.price) for tick in ticks} <= possible


async def test_the_history_ends_yesterday_and_ticks_are_stored(
    empty_nats: NatsServer, empty_questdb: QuestDbServer
) -> None:
    async with pool_of(empty_questdb) as pool:
        async with market_data(empty_nats, empty_questdb) as running:
            ends = await eventually(lambda: history_ends(pool), within_sec=60, every_sec=0.2)
            stored = await eventually(
                lambda: rows(pool, "SELECT symbol, price FROM ticks LIMIT 3"), within_sec=20
            )
            status, body = await running.health()
        assert ends is not None
        first, last, count = ends
        today = datetime.now(UTC).date()
        assert last.date() == today - timedelta(days=1)
        assert count == len([bar for bar in daily_bars() if bar.day.isoformat() < "2024-01-10"])
        assert (last - first).days == 130
        assert len(stored) == 3
        closes = await rows(pool, "SELECT close FROM daily_bars WHERE symbol = 'BTCUSDT' LIMIT -1")
        assert closes == [(Decimal("46110.00"),)]
        assert status == 200
        assert body["replay"]["dates_shifted"] is True
        assert body["replay"]["history_ends"] == str(last.date())


async def test_a_stale_shift_is_chosen_again_and_leaves_no_old_bar(
    empty_nats: NatsServer, empty_questdb: QuestDbServer
) -> None:
    clock = ManualClock(SystemClock().now_ns())
    async with pool_of(empty_questdb) as pool:
        async with market_data(empty_nats, empty_questdb, clock, QUESTDB__STORE_TICKS="false"):
            before = await eventually(lambda: history_ends(pool), within_sec=60, every_sec=0.2)
        assert before is not None
        clock.advance(3 * 86_400)
        moved = tuple(moment + timedelta(days=3) for moment in before[:2])
        async with market_data(empty_nats, empty_questdb, clock, QUESTDB__STORE_TICKS="false"):

            async def rewritten() -> bool:
                return await history_ends(pool) == (*moved, before[2])

            await eventually(rewritten, within_sec=60, every_sec=0.2)
    client = await nats.connect(empty_nats.url)
    try:
        bucket = await client.jetstream().key_value("replay")
        stored = msgspec.json.decode((await bucket.get("history_shift")).value or b"")
        assert stored["days"] == (moved[1].date() - datetime(2024, 1, 9).date()).days  # noqa: DTZ001
    finally:
        await client.close()


async def test_a_midnight_moves_the_history_of_a_running_service(
    empty_nats: NatsServer, empty_questdb: QuestDbServer
) -> None:
    clock = ManualClock(SystemClock().now_ns())
    async with (
        pool_of(empty_questdb) as pool,
        market_data(empty_nats, empty_questdb, clock, QUESTDB__STORE_TICKS="false") as running,
    ):
        before = await eventually(lambda: history_ends(pool), within_sec=60, every_sec=0.2)
        assert before is not None
        clock.set_wall_clock(clock.now_ns() + 86_400 * 1_000_000_000)
        after = tuple(moment + timedelta(days=1) for moment in before[:2])

        async def moved() -> bool:
            return await history_ends(pool) == (*after, before[2])

        await eventually(moved, within_sec=60, every_sec=0.2)
        _, body = await running.health()
        assert body["replay"]["history_ends"] == str(after[1].date())


async def test_without_questdb_ticks_go_on_and_health_is_degraded(
    empty_nats: NatsServer, empty_questdb: QuestDbServer
) -> None:
    async with pool_of(empty_questdb) as pool:
        empty_questdb.kill()
        async with market_data(empty_nats, empty_questdb, QUESTDB__BUFFER_TICKS="30") as running:
            assert len(await ticks_from(empty_nats, 60)) == 60

            async def degraded() -> bool:
                status, body = await running.health()
                return status == 200 and body["status"] == "degraded" and body["degraded"] == ["questdb"]

            await eventually(degraded, within_sec=10)
            empty_questdb.start()
            await empty_questdb.until_healthy()
            await eventually(lambda: history_ends(pool), within_sec=60, every_sec=0.2)
            await eventually(
                lambda: rows(pool, "SELECT symbol FROM ticks LIMIT 1"), within_sec=60, every_sec=0.2
            )

            async def healthy() -> bool:
                return (await running.health())[1].get("status") == "healthy"

            await eventually(healthy, within_sec=10)


async def test_without_nats_the_service_is_unhealthy_and_comes_back(
    empty_nats: NatsServer, empty_questdb: QuestDbServer
) -> None:
    async with market_data(empty_nats, empty_questdb) as running:
        await ticks_from(empty_nats, 3)
        empty_nats.kill()

        async def unhealthy() -> bool:
            status, body = await running.health()
            return status == 503 and body["missing"] == ["nats"]

        await eventually(unhealthy, within_sec=10)
        empty_nats.start()
        await empty_nats.until_healthy()
        assert await ticks_from(empty_nats, 3)

        async def healthy() -> bool:
            return (await running.health())[0] == 200

        await eventually(healthy, within_sec=10)
