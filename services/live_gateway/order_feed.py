"""Stream ORDERS, read from the checkpoint on, again from the start when it is another stream of that name."""

import asyncio
from typing import Final

from services.live_gateway.gateway import Gateway
from services.live_gateway.streams import UNAVAILABLE, StreamMissing, read_until, stream_state
from services.runtime.journal_reader import StreamReader, StreamRegressed
from services.runtime.nats_client import NatsClient
from services.runtime.streams import DEADLETTER, EXECUTIONS, ORDERS, ensure_streams
from services.runtime.telemetry import get_logger

_MAX_MESSAGES: Final = 512
_RETRY_SEC: Final = 0.5

_log = get_logger("live_gateway.order_feed")


class OrderFeed:
    """`run` is to be owned by the worker; `check` is the health probe of NATS."""

    def __init__(self, client: NatsClient, gateway: Gateway) -> None:
        self._client = client
        self._gateway = gateway
        self._reader: StreamReader | None = None
        self._recreated = ""

    @property
    def pending(self) -> int:
        """Orders stored and not yet taken."""
        return 0 if self._reader is None else self._reader.pending

    async def run(self) -> None:
        """Takes orders for ever."""
        gateway = self._gateway
        while True:
            if self._recreated:
                _log.warning("stream was recreated; it is read from its start", created=self._recreated)
                gateway.restart_orders(self._recreated)
                self._recreated = ""
            try:
                if gateway.facts.terms_missing:
                    await self._read_whole()
                else:
                    await self._follow()
            except StreamRegressed as error:
                _log.warning("stream lost what was read; it is read from its start", error=str(error))
                gateway.restart_orders(gateway.facts.orders_created)

    async def _follow(self) -> None:
        async with StreamReader(
            self._client, ORDERS, start_sequence=self._gateway.facts.orders_seq + 1
        ) as reader:
            self._reader = reader
            async for batch in reader.batches(_MAX_MESSAGES):
                if self._recreated:
                    break
                await self._gateway.take(batch)

    async def _read_whole(self) -> None:
        """After the loss of a journal: takes what ORDERS holds by now, all of it. Terms that have not come
        with it will never come."""
        gateway = self._gateway
        try:
            await self.check()
            state = await stream_state(self._client, ORDERS)
            async for batch in read_until(self._client, ORDERS, gateway.facts.orders_seq, state):
                if self._recreated:
                    break
                await gateway.take(batch)
        except UNAVAILABLE as error:
            _log.warning("orders not read", error=f"{type(error).__name__}: {error}")
            await asyncio.sleep(_RETRY_SEC)
            return
        if not self._recreated:
            await gateway.end_lost()

    async def check(self) -> None:
        """Looks whether ORDERS is still the stream that the checkpoint belongs to. Raises when NATS does not
        answer.

        A stream that was deleted is made again.
        """
        try:
            state = await stream_state(self._client, ORDERS)
        except StreamMissing:
            await ensure_streams(self._client.jetstream(), (ORDERS, EXECUTIONS, DEADLETTER))
            state = await stream_state(self._client, ORDERS)
        facts = self._gateway.facts
        if not facts.orders_created and not facts.orders_seq:
            facts.orders_created = state.created
        elif state.created != facts.orders_created:
            self._recreated = state.created
            if self._reader is not None:
                await self._reader.close()
