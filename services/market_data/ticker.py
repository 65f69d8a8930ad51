"""Publishes the replayed prices as ticks, on a fixed beat, whatever happens around it."""

import asyncio
from collections.abc import Callable
from typing import Final

from nats.errors import Error as NatsError

from services.market_data.replay import Replay
from services.messages import Tick, encode, timestamp
from services.runtime.clock import Clock
from services.runtime.metrics import counter
from services.runtime.nats_client import NatsClient
from services.runtime.telemetry import get_logger

SUBJECT: Final = "ticks"

_published: Final = counter("market_data_ticks_published", "Ticks handed to NATS", ["symbol"])
_unpublished: Final = counter("market_data_ticks_unpublished", "Ticks lost because NATS was away", ["symbol"])
_log = get_logger("market_data.ticker")


class Ticker:
    """Publishes one tick of every symbol a beat, on `ticks.{symbol}`."""

    def __init__(
        self,
        client: NatsClient,
        replay: Replay,
        clock: Clock,
        interval_ms: int,
        on_tick: Callable[[Tick], None],
    ) -> None:
        """`on_tick` gets every tick, published or not; it must not block."""
        self._client = client
        self._replay = replay
        self._clock = clock
        self._interval_ms = interval_ms
        self._on_tick = on_tick
        self._elapsed_ns = 0
        self._connected = True

    @property
    def position_ns(self) -> int:
        """Where in the replayed day the last beat was, nanoseconds after midnight."""
        return self._replay.position(self._elapsed_ns)

    async def run(self) -> None:
        """Publishes until cancelled. The first beat is at once.

        A beat's price depends on the number of the beat, not on when the process came to it, so two runs
        publish the same prices. Beats that were missed altogether (the process was stopped) are left out.
        """
        interval_sec = self._interval_ms / 1000
        start = self._clock.monotonic()
        beat = 0
        while True:
            self._elapsed_ns = beat * self._interval_ms * 1_000_000
            await self._publish()
            beat = max(beat + 1, int((self._clock.monotonic() - start) / interval_sec))
            await asyncio.sleep(start + beat * interval_sec - self._clock.monotonic())

    async def _publish(self) -> None:
        now = timestamp(self._clock.now_ns())
        for symbol, price in self._replay.prices(self._elapsed_ns):
            tick = Tick(symbol=symbol, price=price, timestamp=now)
            self._on_tick(tick)
            try:
                await self._client.publish(f"{SUBJECT}.{symbol}", encode(tick))
            except NatsError as error:
                _unpublished.labels(symbol).inc()
                if self._connected:
                    self._connected = False
                    _log.warning("ticks are lost", error=f"{type(error).__name__}: {error}")
            else:
                _published.labels(symbol).inc()
                self._connected = True
