"""Starting market data in this process, on real servers."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from services.ledger.numbers import install_context
from services.market_data import bootstrap
from services.market_data.settings import MarketDataConfig
from services.runtime.clock import Clock, SystemClock
from services.runtime.local_stack import NatsServer, QuestDbServer, free_ports
from services.runtime.service import WorkerContext
from services.runtime.settings import load_settings


class Running:
    """A worker of market data."""

    def __init__(self, context: WorkerContext[MarketDataConfig], port: int) -> None:
        self.context = context
        self._port = port

    async def health(self) -> tuple[int, dict[str, Any]]:
        """Status and body of `/health`; status 0 while nobody answers."""
        return await asyncio.to_thread(self._health)

    def _health(self) -> tuple[int, dict[str, Any]]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/health", timeout=2) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())
        except OSError:
            return 0, {}


@asynccontextmanager
async def market_data(
    nats: NatsServer, questdb: QuestDbServer, clock: Clock | None = None, **overrides: str
) -> AsyncIterator[Running]:
    """Runs a worker. `overrides`: `REPLAY__SPEED="0"` and the like."""
    install_context()
    (port,) = free_ports(1)
    variables = {
        "NATS__URL": nats.url,
        "QUESTDB__PG_URL": questdb.pg_url,
        "QUESTDB__HTTP_URL": questdb.http_url,
        "QUESTDB__FLUSH_INTERVAL_SEC": "0.1",
        "QUESTDB__BARS_CHECK_INTERVAL_SEC": "0.2",
        "REPLAY__TICK_INTERVAL_MS": "20",
        "MONITORING__HEALTH_CHECK_INTERVAL_SEC": "0.2",
        "SERVICE__PORT": str(port),
        **overrides,
    }
    environ = {f"TRADE2026_MARKET_DATA__{key}": value for key, value in variables.items()}
    settings = load_settings("market_data", MarketDataConfig, environ)
    context = WorkerContext(settings, 0, 1, asyncio.Event(), clock or SystemClock())
    running = asyncio.create_task(bootstrap.run(context))
    try:
        yield Running(context, port)
    finally:
        context.stop.set()
        await asyncio.wait_for(running, 15)
        await context.cancel_owned()
    assert context.failed is None
