"""Reads every store of the platform on its own, past the links and, where it can, past our services."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import AsyncExitStack
from decimal import Decimal
from typing import Any, Final, Self

import httpx
import nats
import psycopg
import redis.asyncio
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from psycopg.rows import dict_row

from tests.robustness.followers import whole_copy
from tests.robustness.observed import LedgerOrder, LedgerPosition, LoggedEvent, Observed, StoredFill
from tests.robustness.platform import Where
from tests.robustness.wire import Grpc

PROJECTION_DB: Final = 5
_PAGE: Final = 500


class Observer:
    """Looks from outside. Any call raises what the store that does not answer raises (`FAILURES`)."""

    def __init__(self, where: Where, grpc_target: str) -> None:
        self._where = where
        self._target = grpc_target
        self._stack = AsyncExitStack()
        self._positions = {"ORDERS": 1, "EXECUTIONS": 1}
        self._journal: dict[str, Counter[str]] = defaultdict(Counter)
        self._together: dict[str, dict[str, set[str]]] = defaultdict(dict)
        self._reported: dict[str, list[StoredFill]] = defaultdict(list)

    async def __aenter__(self) -> Self:
        enter = self._stack.enter_async_context
        self._oms = await enter(httpx.AsyncClient(base_url=self._where.oms, timeout=20))
        self._risk = await enter(httpx.AsyncClient(base_url=self._where.risk, timeout=20))
        self._valkey = await enter(
            redis.asyncio.Redis.from_url(self._where.valkey, db=PROJECTION_DB, decode_responses=True)
        )
        self._grpc = await enter(Grpc(self._target))
        self._nats: Client = await nats.connect(self._where.nats, max_reconnect_attempts=-1)
        self._stack.push_async_callback(self._nats.close)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def look(self, accounts: Iterable[str]) -> list[Observed]:
        """Everything that the stores hold of these accounts now."""
        await self._read_streams()
        return list(await asyncio.gather(*(self._account(account) for account in accounts)))

    async def _account(self, account: str) -> Observed:
        seen = Observed(account)
        seen.drop_copy = await whole_copy(self._grpc, account)
        for order in await self._pages("/orders", "orders", account=account):
            seen.orders[order["order_id"]] = LedgerOrder(
                order["order_id"],
                order.get("client_order_id", ""),
                order["symbol"],
                order["side"],
                order["state"],
                Decimal(order["quantity"]),
                Decimal(order["cumulative_quantity"]),
                Decimal(order["leaves_quantity"]),
                order.get("group_id", ""),
            )
        for symbol, held in (await self._get(self._oms, f"/positions/{account}")).items():
            seen.positions[symbol] = LedgerPosition(
                *(Decimal(held[name]) for name in ("quantity", "open_buy_quantity", "open_sell_quantity"))
            )
            projected = await self._valkey.hget(f"position:{account}:{symbol}", "quantity")
            if projected is not None:
                seen.projected[symbol] = Decimal(str(projected))
        risk = await self._get(self._risk, f"/accounts/{account}/risk")
        seen.open_orders = int(risk["open_orders"])
        for order in await self._venue("venue.orders", "orders", account):
            seen.venue_open[order["order_id"]] = Decimal(order["leaves"])
        for position in await self._venue("venue.positions", "positions", account):
            seen.venue_positions[position["symbol"]] = Decimal(position["quantity"])
        rows = await asyncio.to_thread(self._query, account)
        seen.stored_fills, seen.logged = rows
        seen.journal = Counter(self._journal[account])
        seen.together = {order_id: set(others) for order_id, others in self._together[account].items()}
        seen.reported_fills = list(self._reported[account])
        return seen

    async def _get(self, client: httpx.AsyncClient, path: str, **parameters: str) -> Any:
        response = await client.get(path, params=parameters)
        response.raise_for_status()
        return json.loads(response.text, parse_float=Decimal)

    async def _pages(self, path: str, key: str, **parameters: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = []
        token = ""
        while True:
            page = await self._get(self._oms, path, **parameters, page_size="1000", page_token=token)
            entries += page[key]
            token = page["next_page_token"]
            if not token:
                return entries

    async def _venue(self, subject: str, key: str, account: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = []
        token = ""
        while True:
            question = json.dumps({"account": account, "page_token": token}).encode()
            reply = await self._nats.request(subject, question, timeout=5)
            answer = json.loads(reply.data, parse_float=Decimal)
            entries += answer[key]
            token = answer.get("next_page_token", "")
            if not token:
                return entries

    def _query(self, account: str) -> tuple[list[StoredFill], list[LoggedEvent]]:
        with psycopg.connect(
            self._where.questdb, autocommit=True, row_factory=dict_row, connect_timeout=5
        ) as connection:
            fills = connection.execute(
                "SELECT fill_id, order_id, symbol, side, quantity, price FROM fills WHERE account = %s",
                (account,),
            ).fetchall()
            logged = connection.execute(
                "SELECT account_seq, order_id, event FROM orders_log WHERE account = %s", (account,)
            ).fetchall()
        return (
            [
                StoredFill(
                    row["fill_id"], row["order_id"], row["symbol"], row["side"], row["quantity"], row["price"]
                )
                for row in fills
            ],
            [LoggedEvent(row["account_seq"], row["order_id"] or "", row["event"]) for row in logged],
        )

    async def _read_streams(self) -> None:
        js = self._nats.jetstream(timeout=5)
        for stream in self._positions:
            last = (await js.stream_info(stream)).state.last_seq
            while self._positions[stream] <= last:
                config = ConsumerConfig(
                    # What waits for an acknowledgement is limited; orders would end before all is read.
                    ack_policy=AckPolicy.NONE,
                    deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                    opt_start_seq=self._positions[stream],
                    inactive_threshold=30,
                )
                subscription = await js.pull_subscribe("", stream=stream, config=config)
                while self._positions[stream] <= last:
                    # A fetch of more than there is waits for its whole timeout.
                    count = min(_PAGE, last - self._positions[stream] + 1)
                    for message in await subscription.fetch(count, timeout=5):
                        self._read(stream, message.subject, message.data)
                        self._positions[stream] = message.metadata.sequence.stream + 1
                await subscription.unsubscribe()

    def _read(self, stream: str, subject: str, data: bytes) -> None:
        said = json.loads(data, parse_float=Decimal)
        if stream == "ORDERS":
            _, account, kind = subject.split(".")
            if kind == "new":
                ids = [order["order_id"] for order in (said, said.get("sibling")) if order is not None]
                for order_id in ids:
                    self._journal[account][order_id] += 1
                    others = [other for other in ids if other != order_id]
                    self._together[account].setdefault(order_id, set()).update(others or [""])
        elif ".fills." in subject:
            self._reported[said["account"]].append(
                StoredFill(
                    said["fill_id"],
                    said["order_id"],
                    said["symbol"],
                    said["side"],
                    Decimal(said["quantity"]),
                    Decimal(said["price"]),
                )
            )


FAILURES: Final = (OSError, TimeoutError, httpx.HTTPError, psycopg.Error, redis.RedisError, nats.errors.Error)
"""What a store that does not answer (yet) shows as; gRPC's `AioRpcError` besides."""
