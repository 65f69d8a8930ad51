"""Stream ORDERS is the venue's inbox: what it has decided on is removed, so that the stream never fills up.

Only what the journal holds is removed, never what is merely decided. A journal that is older than the stream
(restored from a copy) finds a gap where it wants to go on: see `OrderFeed`.
"""

import asyncio
from typing import Final

from services.live_gateway import metrics
from services.live_gateway.gateway import Gateway
from services.live_gateway.streams import UNAVAILABLE, stream_state
from services.runtime.nats_client import NatsClient
from services.runtime.streams import ORDERS
from services.runtime.telemetry import get_logger

_API_TIMEOUT_SEC: Final = 5.0

_log = get_logger("live_gateway.order_trim")


class OrderTrim:
    """`run` is to be owned by the worker."""

    def __init__(self, client: NatsClient, gateway: Gateway, kept: int, interval_sec: float) -> None:
        """`kept`: newest messages that stay although they are journaled."""
        self._interval_sec = interval_sec
        self._client = client
        self._gateway = gateway
        self._kept = kept
        self._trimmed = 0

    async def run(self) -> None:
        """Trims for ever."""
        while True:
            await asyncio.sleep(self._interval_sec)
            try:
                await self.trim()
            except UNAVAILABLE as error:
                _log.warning("orders not trimmed", error=f"{type(error).__name__}: {error}")

    async def trim(self) -> None:
        """Removes what is journaled but for the newest messages. Raises the client's errors."""
        sequence, created = self._gateway.orders_journaled
        first_kept = sequence - self._kept + 1
        if first_kept <= 1 or first_kept <= self._trimmed:
            return
        state = await stream_state(self._client, ORDERS)
        if state.created != created:
            return  # another stream of that name: the journal's position says nothing of it
        await self._client.jetstream(timeout=_API_TIMEOUT_SEC).purge_stream(ORDERS, seq=first_kept)
        metrics.trimmed.inc(max(0, first_kept - max(self._trimmed, state.first_seq)))
        self._trimmed = first_kept
