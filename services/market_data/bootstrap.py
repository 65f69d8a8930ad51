"""Wires the service.

Start
1. read the candles;
2. open `/health`;
3. connect to NATS (waits for it);
4. own the ticker, the stores and the probes; ready.

Stop
1. unhealthy;
2. no more ticks;
3. store what waits, if QuestDB takes it;
4. close `/health`, then the connections.

QuestDB is never waited for before a tick.
"""

import asyncio
import contextlib
from datetime import date, timedelta
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from services.market_data.bar_store import BarStore
from services.market_data.bars import bars_of_day, daily_bars
from services.market_data.dates import history
from services.market_data.replay import Replay, nanoseconds_of, path_through, time_of
from services.market_data.settings import MarketDataConfig, ReplaySettings
from services.market_data.shift_store import ShiftStore
from services.market_data.tick_store import TickStore
from services.market_data.ticker import Ticker
from services.messages import Tick
from services.runtime.connections import open_questdb
from services.runtime.health import HealthBoard
from services.runtime.http_server import serve
from services.runtime.nats_client import NatsClient, open_nats
from services.runtime.service import WorkerContext
from services.runtime.settings import SettingsError
from services.runtime.tasks import end
from services.runtime.telemetry import get_logger

_FLUSH_AT_STOP_SEC: Final = 2.0
_QUESTDB_TIMEOUT_SEC: Final = 10.0
_log = get_logger("market_data")


async def run(context: WorkerContext[MarketDataConfig]) -> None:
    """One worker, from its start to its end."""
    settings = context.settings
    replay = replay_of(settings)
    recorded = history(daily_bars(), settings.replay.day)
    if not recorded:
        raise SettingsError(f"replay.day: there are no daily bars before {settings.replay.day}")
    market = Market(settings.replay, recorded[-1].day)
    health = HealthBoard(settings.monitoring.health_check_interval_sec)
    health.register("nats", True)
    server = await serve(
        health_app(health, market), settings.service.host, settings.service.port, on_failure=context.fail
    )
    client = await _connected(context, health)
    if client is None:
        await server.stop()
        return
    questdb = open_questdb(
        settings.questdb.pg_url, settings.questdb.http_url, timeout_sec=_QUESTDB_TIMEOUT_SEC
    )
    health.register("questdb", False, questdb.ping)

    shifts = ShiftStore(client.jetstream(timeout=2), recorded[-1].day)
    bars = BarStore(questdb, recorded, context.clock, settings.questdb.bars_check_interval_sec, shifts.choose)
    ticks = TickStore(
        questdb,
        settings.questdb.batch_size,
        settings.questdb.flush_interval_sec,
        settings.questdb.buffer_ticks,
    )

    def keep(tick: Tick) -> None:
        if settings.questdb.store_ticks:
            ticks.add(tick)

    ticker = Ticker(client, replay, context.clock, settings.replay.tick_interval_ms, keep)
    market.ticker, market.bars = ticker, bars
    _log.info(
        "replay starts; its dates are shifted",
        day=settings.replay.day,
        time=settings.replay.start_time,
        speed=settings.replay.speed,
        symbols=sorted(replay.paths),
        history_first=recorded[0].day,
        history_last=recorded[-1].day,
    )
    publishing = context.own(ticker.run(), "ticker")
    context.own(bars.run(), "bar store")
    storing = context.own(ticks.run(), "tick store")
    context.own(health.run(), "health")
    context.ready()

    await context.stop.wait()
    health.stopping()
    await end(publishing, storing)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_FLUSH_AT_STOP_SEC):
            await ticks.flush()
    await server.stop()
    await context.cancel_owned()
    await client.close()
    await questdb.close()


async def _connected(context: WorkerContext[MarketDataConfig], health: HealthBoard) -> NatsClient | None:
    """The connection to NATS, waited for as long as it takes; None when the worker is to stop before."""

    async def disconnected() -> None:
        if not context.stop.is_set():
            health.report("nats", False, "disconnected")

    async def reconnected() -> None:
        health.report("nats", True)

    async def gave_up() -> None:
        if not context.stop.is_set():
            context.fail(ConnectionError("the connection to NATS was closed"), "nats")

    settings = context.settings
    opening = asyncio.ensure_future(
        open_nats(
            settings.nats.url,
            settings.service.name,
            on_disconnected=disconnected,
            on_reconnected=reconnected,
            on_closed=gave_up,
        )
    )
    stopping = asyncio.ensure_future(context.stop.wait())
    await asyncio.wait([opening, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if context.stop.is_set():
        await end(opening)
        if not opening.cancelled() and opening.exception() is None:
            await opening.result().close()
        return None
    client = opening.result()
    health.register("nats", True, lambda: client.flush(timeout=1))
    health.report("nats", True)
    return client


class Market:
    """What `/health` tells of the replay."""

    def __init__(self, settings: ReplaySettings, history_last: date) -> None:
        self._settings = settings
        self._history_last = history_last
        self.ticker: Ticker | None = None
        self.bars: BarStore | None = None

    def state(self) -> dict[str, object]:
        """The replayed day, where in it prices are, and how the dates are shifted; null = not known yet."""
        shift = None if self.bars is None else self.bars.shift
        ends = None if shift is None else self._history_last + timedelta(days=shift.days)
        return {
            "day": self._settings.day.isoformat(),
            "time": None if self.ticker is None else time_of(self.ticker.position_ns).isoformat(),
            "speed": float(self._settings.speed),
            "dates_shifted": True,
            "history_shift_days": None if shift is None else shift.days,
            "history_ends": None if ends is None else ends.isoformat(),
        }


def replay_of(settings: MarketDataConfig) -> Replay:
    """The replay that the settings describe. Raises `SettingsError` for a symbol without candles."""
    paths = {}
    for instrument in settings.instruments:
        try:
            bars = bars_of_day(instrument.symbol, settings.replay.day)
        except LookupError as error:
            raise SettingsError(f"instruments: {error}") from None
        paths[instrument.symbol] = path_through(bars, instrument.price_increment)
    return Replay(paths, nanoseconds_of(settings.replay.start_time), settings.replay.speed)


def health_app(health: HealthBoard, market: Market) -> Starlette:
    """`GET /health`: the states of the dependencies, and what is replayed. `GET /live`: the loop answers."""

    async def get_health(_: Request) -> JSONResponse:
        status, body = health.body()
        return JSONResponse({**body, "replay": market.state()}, status_code=status)

    async def get_live(_: Request) -> JSONResponse:
        return JSONResponse({"status": "live"})

    return Starlette(routes=[Route("/health", get_health), Route("/live", get_live)])
