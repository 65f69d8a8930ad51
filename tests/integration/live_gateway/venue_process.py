"""The venue as a process of its own, and a client that talks to it over NATS."""

from __future__ import annotations

import asyncio
import http.client
import json
import sys
import time
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Self

import msgspec
import psutil
from nats.errors import Error as NatsError
from nats.js.api import StreamState

from services.runtime.ids import new_order_id
from services.runtime.journal_reader import Message, StreamReader
from services.runtime.local_stack import free_ports
from services.runtime.local_stack.part import HEALTHY, Health, Part, http_get, loopback, not_ready
from services.runtime.nats_client import NatsClient, open_nats
from services.runtime.publisher import Publisher, PublishError
from services.runtime.streams import DEADLETTER, EXECUTIONS, ORDERS, ensure_streams
from tests.support import eventually

TICK_SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")


class VenueProcess(Part):
    """`python -m services.live_gateway`: supervisor and worker. Keeps ports and journal over restarts."""

    def __init__(self, folder: Path, nats_url: str, **variables: str) -> None:
        port, metrics_port = free_ports(2)
        super().__init__("live-gateway", folder, {"http": loopback(port), "metrics": loopback(metrics_port)})
        self.journal = folder / "journal.sqlite3"
        self._variables = {
            "NATS__URL": nats_url,
            "STORE__PATH": str(self.journal),
            "SERVICE__PORT": str(port),
            "MONITORING__METRICS_PORT": str(metrics_port),
            "MONITORING__HEALTH_CHECK_INTERVAL_SEC": "0.2",
            "MARKS__STARTUP_WAIT_SEC": "0",
            **variables,
        }

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "services.live_gateway"]

    def environment(self) -> Mapping[str, str]:
        return {f"TRADE2026_LIVE_GATEWAY__{key}": value for key, value in self._variables.items()}

    def probe(self) -> Health:
        try:
            status, body = self.health()
        except (OSError, http.client.HTTPException) as error:
            return not_ready(str(error))
        return HEALTHY if status == 200 else not_ready(str(body))

    def health(self) -> tuple[int, Any]:
        """Status and body of `GET /health`."""
        status, body = http_get(self.addresses["http"], "/health")
        return status, json.loads(body)

    @property
    def worker(self) -> psutil.Process:
        """The process of the matching engine; an AssertionError while it is being started again."""
        assert self.pid is not None
        workers = psutil.Process(self.pid).children()
        assert len(workers) == 1
        return workers[0]

    def lines(self) -> list[dict[str, Any]]:
        """What it logged, all its lives long."""
        lines = []
        for line in self.log_path.read_bytes().splitlines():
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:
                continue  # torn by a kill
        return lines


class Exchange:
    """A client of the venue."""

    def __init__(self, client: NatsClient, publisher: Publisher) -> None:
        self.client = client
        self.publisher = publisher

    @classmethod
    async def open(cls, nats_url: str) -> Self:
        client = await open_nats(nats_url, "test")
        publisher = Publisher(client)
        await publisher.start()
        await ensure_streams(client.jetstream(), (ORDERS, EXECUTIONS, DEADLETTER))
        return cls(client, publisher)

    async def close(self) -> None:
        await self.client.close()

    async def mark(self, price: str, *symbols: str) -> None:
        """Publishes a tick; of every symbol when none is named."""
        for symbol in symbols or TICK_SYMBOLS:
            await eventually(partial(self._tick, symbol, price), within_sec=10)

    async def _tick(self, symbol: str, price: str) -> bool:
        tick = f'{{"symbol":"{symbol}","price":{price},"timestamp":{time.time()}}}'
        try:
            await self.client.publish(f"ticks.{symbol}", tick.encode())
            await self.client.flush(timeout=1)
        except (NatsError, TimeoutError):
            return False
        return True

    async def new(self, account: str, **terms: object) -> str:
        """Sends an order (limit to buy 0.1 BTCUSDT at 45000 unless told) and returns its id."""
        order_id = str(terms.pop("order_id", None) or new_order_id(account))
        order = {
            "order_id": order_id,
            "client_order_id": "c",
            "account": account,
            "symbol": "BTCUSDT",
            "side": "buy",
            "type": "limit",
            "quantity": Decimal("0.1"),
            "timestamp": time.time(),
            **({"price": 45000} if terms.get("type", "limit") == "limit" else {}),
            **terms,
        }
        await self.send(f"orders.{account}.new", order, f"new:{order_id}")
        return order_id

    async def cancel(self, order_id: str, revision: int = 1) -> None:
        account = order_id.rpartition("-")[0]
        payload = {"order_id": order_id, "account": account, "revision": revision, "timestamp": 1}
        await self.send(f"orders.{account}.cancel", payload, f"cancel:{order_id}:{revision}")

    async def send(self, subject: str, payload: object, msg_id: str) -> None:
        """Publishes until it is acknowledged, whatever becomes of the server meanwhile."""
        data = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
        while True:
            try:
                await self.publisher.publish(subject, data, msg_id, timeout=2)
            except PublishError:
                await asyncio.sleep(0.05)
            else:
                return

    async def ask(self, subject: str, **request: object) -> Any:
        """A request to the venue; numbers come as exact decimals."""
        answer = await self.client.request(subject, json.dumps(request).encode(), timeout=5)
        return json.loads(answer.data, parse_float=Decimal)

    async def stored(self, stream: str = EXECUTIONS) -> list[Message]:
        """Everything that the stream holds now."""
        state = await self._state(stream)
        messages: list[Message] = []
        if not state.messages:
            return messages
        async with StreamReader(self.client, stream) as reader:
            async for batch in reader.batches():
                messages += batch
                if messages[-1].sequence >= state.last_seq:
                    return messages
        raise AssertionError("the reader ended")

    async def reports(self, account: str = "") -> list[dict[str, Any]]:
        """The reports of all accounts or one, in order; `kind` of a trade is `fill`."""
        return [
            {"kind": "fill", **json.loads(message.data, parse_float=Decimal)}
            for message in await self.stored()
            if not account or message.subject.endswith(f".{account}")
        ]

    async def report_count(self) -> int:
        """How many reports are stored."""
        return int((await self._state(EXECUTIONS)).messages)

    async def _state(self, stream: str) -> StreamState:
        """The stream's state, waited for while the server is away."""
        while True:
            try:
                return (await self.client.jetstream().stream_info(stream)).state
            except NatsError:
                await asyncio.sleep(0.05)
