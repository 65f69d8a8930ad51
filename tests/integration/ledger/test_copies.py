"""Copies of accounts in a worker's memory: they follow what other workers commit, or are not used."""

from __future__ import annotations

import asyncio
import time

import pytest
import redis

from services.ledger.errors import LedgerUnavailable
from services.ledger.registry import MemoryAccountRegistry
from tests.integration.ledger.conftest import OpenLedger
from tests.support import eventually
from tests.unit.ledger.making import (
    make_order,
    reserve,
)


async def test_other_workers_change_shows_within_ten_milliseconds(open_ledger: OpenLedger) -> None:
    reader, writer = await open_ledger(), await open_ledger()
    await writer.execute(reserve(make_order("acc")))
    lags = []
    for count in range(2, 202):
        await reader.account("acc")
        await writer.execute(reserve(make_order("acc")))
        started = time.perf_counter()
        while True:
            account = await reader.account("acc")
            if account is not None and account.open_orders == count:
                break
            await asyncio.sleep(0)
        lags.append(time.perf_counter() - started)
    lags.sort()
    print(f"tracking lag: P50 {lags[100] * 1e3:.2f} ms, P99 {lags[197] * 1e3:.2f} ms")
    assert lags[197] < 0.1


async def test_own_commit_leaves_the_copy_tracked(open_ledger: OpenLedger) -> None:
    one, two = await open_ledger(), await open_ledger()
    for count in range(1, 20):
        # The worker's own write ends the server's tracking of the key; the commit's last read renews it.
        await one.execute(reserve(make_order("acc")))
        copy = one.cached("acc")
        assert copy is not None
        assert copy.open_orders == 2 * count - 1
        await two.execute(reserve(make_order("acc")))
        await eventually(lambda: one.cached("acc") is None)


async def test_account_never_opened_is_remembered_as_such_until_somebody_opens_it(
    open_ledger: OpenLedger, registry: MemoryAccountRegistry
) -> None:
    reader, writer = await open_ledger(), await open_ledger()
    assert await reader.account("acc") is None
    registry.readable = False
    # Neither Valkey nor the registry is asked again.
    assert await reader.account("acc") is None
    registry.readable = True
    await writer.execute(reserve(make_order("acc")))
    await eventually(lambda: reader.account("acc"))


async def test_readers_of_one_account_share_a_look(open_ledger: OpenLedger, raw: redis.Redis) -> None:
    ledger = await open_ledger(cache_accounts=False)
    await ledger.execute(reserve(make_order("acc")))
    before = raw.info("commandstats")["cmdstat_hgetall"]["calls"]
    accounts = await asyncio.gather(*(ledger.account("acc") for _ in range(50)))
    after = raw.info("commandstats")["cmdstat_hgetall"]["calls"]
    assert all(account is not None for account in accounts)
    assert after == before + 1


async def test_copy_older_than_its_bound_is_read_again(open_ledger: OpenLedger) -> None:
    ledger = await open_ledger(position_cache_ttl=0.0)
    await ledger.execute(reserve(make_order("acc")))
    await asyncio.sleep(0.001)
    assert ledger.cached("acc") is None
    uncached = await open_ledger(cache_accounts=False)
    assert await uncached.account("acc") is not None
    assert uncached.cached("acc") is None


async def test_flush_behind_the_ledgers_back_is_noticed_and_denied(
    open_ledger: OpenLedger, raw: redis.Redis
) -> None:
    ledger = await open_ledger()
    await ledger.execute(reserve(make_order("acc")))
    raw.flushall()
    with pytest.raises(LedgerUnavailable, match="was opened, but is not stored"):
        await ledger.execute(reserve(make_order("acc")))
    with pytest.raises(LedgerUnavailable, match="was opened, but is not stored"):
        await ledger.account("acc")


async def test_an_account_in_use_is_read_again_before_anybody_asks(open_ledger: OpenLedger) -> None:
    one, two = await open_ledger(read_ahead=True), await open_ledger()
    await one.execute(reserve(make_order("acc")))
    await two.execute(reserve(make_order("acc")))

    def seen() -> int:
        copy = one.cached("acc")
        return 0 if copy is None else copy.open_orders

    await eventually(lambda: seen() == 2)
    await two.execute(reserve(make_order("acc")))
    # Looking at it, as above, is use enough.
    await eventually(lambda: seen() == 3)


async def test_an_account_that_nobody_uses_is_read_ahead_once(
    open_ledger: OpenLedger, raw: redis.Redis
) -> None:
    one, two = await open_ledger(read_ahead=True), await open_ledger()

    def reads() -> int:
        return int(raw.info("commandstats")["cmdstat_hgetall"]["calls"])

    await one.execute(reserve(make_order("acc")))
    before = reads()
    # The other worker reads the account for its first commit, and this one after it.
    await two.execute(reserve(make_order("acc")))
    await eventually(lambda: reads() == before + 2)
    for _ in range(20):
        await two.execute(reserve(make_order("acc")))
    await one.ping()
    assert reads() == before + 2


async def test_a_commit_takes_what_was_read_ahead(open_ledger: OpenLedger, raw: redis.Redis) -> None:
    one, two = await open_ledger(read_ahead=True), await open_ledger()
    for _ in range(10):
        await one.execute(reserve(make_order("acc")))
        await two.execute(reserve(make_order("acc")))

    def read_ahead() -> bool:
        held = one.cached("acc")
        return held is not None and held.open_orders == 20

    await eventually(read_ahead)
    before = raw.info("commandstats")["cmdstat_hgetall"]["calls"]
    await one.execute(reserve(make_order("acc")))
    assert raw.info("commandstats")["cmdstat_hgetall"]["calls"] == before
