"""Clients that go away: their orders are canceled, unless they come back in time."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import httpx
import pytest
import redis.asyncio

from services.ledger.keys import client_leases
from services.ledger.partition import partition_of
from services.oms.disconnect import DISCONNECTED, LEASE_SEC
from tests.contract.oms.clients import OmsClient, OverGrpc, OverRest, Refusal
from tests.contract.oms.test_amendments import working
from tests.integration.oms.orders import until_state
from tests.integration.oms.platform import OmsPlatform, kill_workers


class Following:
    """A drop copy that wants its account's orders canceled when it ends."""

    def __init__(self, oms: OmsClient, account: str) -> None:
        flag: Any = "true" if isinstance(oms, OverRest) else True
        self._stream = oms.stream(
            {"account": account, "cancel_on_disconnect": flag, "heartbeat_interval": "1s"}
        )
        self._begun = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async for _ in self._stream:
            self._begun.set()

    async def begun(self) -> Following:
        async with asyncio.timeout(10):
            await self._begun.wait()
        return self

    async def leave(self) -> None:
        """Closes the connection as a client does that is gone."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Refusal, httpx.TransportError):
            await self._task
        with contextlib.suppress(Refusal, httpx.TransportError):
            await self._stream.aclose()


async def test_orders_of_a_client_that_is_gone_are_canceled_and_of_one_that_is_back_are_kept(
    platform: OmsPlatform, oms: OverRest, oms_grpc: OverGrpc, account: str
) -> None:
    clients: dict[str, OmsClient] = {"rest": oms, "grpc": oms_grpc}
    gone, back = {}, {}
    for name, client in clients.items():
        gone[name] = await working(oms, f"{account}-{name}-gone")
        back[name] = await working(oms, f"{account}-{name}-back")
        leaving = await Following(client, f"{account}-{name}-gone").begun()
        returning = await Following(client, f"{account}-{name}-back").begun()
        await leaving.leave()
        await returning.leave()
    again = [await Following(client, f"{account}-{name}-back").begun() for name, client in clients.items()]
    for name in clients:
        order = await until_state(oms, gone[name], "canceled", within_sec=2 * LEASE_SEC + 10)
        assert order["reason"] == DISCONNECTED
    for name in clients:
        assert (await oms.call("GetOrder", {"order_id": back[name]}))["order"]["state"] == "new"
    for one in again:
        await one.leave()


async def test_a_stream_that_was_refused_holds_no_lease(
    platform: OmsPlatform, oms: OverRest, account: str
) -> None:
    stream = oms.stream({"account": account, "cancel_on_disconnect": "true", "after_sequence": 5})
    with pytest.raises(Refusal):
        await anext(stream)
    async with redis.asyncio.Redis.from_url(platform.valkey.url) as valkey:
        assert await valkey.zscore(client_leases(partition_of(account)), account) is None


async def test_orders_are_canceled_although_the_worker_that_served_the_client_died_with_it(
    platform: OmsPlatform, oms: OverRest, account: str
) -> None:
    order_id = await working(oms, account)
    following = await Following(oms, account).begun()
    kill_workers(platform.oms)
    await following.leave()
    order = await until_state(oms, order_id, "canceled", within_sec=2 * LEASE_SEC + 20)
    assert order["reason"] == DISCONNECTED
