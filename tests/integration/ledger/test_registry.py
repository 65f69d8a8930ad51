"""Opening accounts in two phases: neither a crash nor a wiped Valkey opens an account anew."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import nats
import pytest
import redis

from services.ledger.commands import Effect
from services.ledger.errors import LedgerUnavailable
from services.ledger.keys import AccountKeys
from services.ledger.ledger import Ledger
from services.ledger.registry import KvAccountRegistry, Registration
from services.runtime.local_stack import NatsServer
from services.runtime.streams import ACCOUNTS_BUCKET, ensure_bucket
from tests.integration.ledger.conftest import OpenLedger
from tests.unit.ledger.making import fill, make_order, reserve


class Crash(Exception):
    """The worker dies here."""


class CrashingRegistry(KvAccountRegistry):
    """Dies before or after one of its calls."""

    at = ""

    async def begin(self, account: str) -> Registration:
        self._die("before begin")
        entry = await super().begin(account)
        self._die("after begin")
        return entry

    async def confirm(self, account: str, entry: Registration, incarnation: str) -> Registration:
        self._die("before confirm")
        entry = await super().confirm(account, entry, incarnation)
        self._die("after confirm")
        return entry

    def _die(self, place: str) -> None:
        if self.at == place:
            raise LedgerUnavailable(place)


@pytest.fixture
async def kv(empty_nats: NatsServer) -> AsyncIterator[nats.js.kv.KeyValue]:
    client = await nats.connect(empty_nats.url)
    yield await ensure_bucket(client.jetstream(), ACCOUNTS_BUCKET)
    with contextlib.suppress(OSError):  # a test may have killed the server
        await client.close()


@pytest.fixture
async def crashing(kv: nats.js.kv.KeyValue) -> CrashingRegistry:
    return CrashingRegistry(kv)


async def test_account_is_registered_before_its_first_reservation_is_answered(
    open_ledger: OpenLedger, crashing: CrashingRegistry
) -> None:
    ledger = await open_ledger(with_registry=crashing)
    assert await crashing.look_up("acc") is None
    assert await ledger.account("acc") is None
    assert (await ledger.execute(reserve(make_order("acc")))).effect is Effect.DONE
    account = await ledger.account("acc")
    entry = await crashing.look_up("acc")
    assert account is not None
    assert entry is not None
    assert (account.registered, entry.incarnation) == (True, account.incarnation)


@pytest.mark.parametrize("place", ["before begin", "after begin", "before confirm", "after confirm"])
async def test_opening_goes_on_after_a_crash_at_any_step(
    open_ledger: OpenLedger, crashing: CrashingRegistry, place: str
) -> None:
    ledger = await open_ledger(with_registry=crashing)
    crashing.at = place
    with pytest.raises(LedgerUnavailable, match=place):
        await ledger.execute(reserve(make_order("acc")))
    crashing.at = ""
    other = await open_ledger(with_registry=crashing)
    assert (await other.execute(reserve(make_order("acc")))).effect is Effect.DONE
    account = await other.account("acc", fresh=True)
    assert account is not None
    assert account.open_orders == 1


@pytest.mark.parametrize("place", ["after begin", "before confirm"])
async def test_store_wiped_before_the_registry_said_open_is_opened_again(
    open_ledger: OpenLedger, crashing: CrashingRegistry, raw: redis.Redis, place: str
) -> None:
    ledger = await open_ledger(with_registry=crashing)
    crashing.at = place
    with pytest.raises(LedgerUnavailable):
        await ledger.execute(reserve(make_order("acc")))
    crashing.at = ""
    raw.flushall()
    assert (await ledger.execute(reserve(make_order("acc")))).effect is Effect.DONE


@pytest.mark.parametrize("place", ["after confirm", ""])
async def test_store_wiped_after_the_registry_said_open_denies(
    open_ledger: OpenLedger, crashing: CrashingRegistry, raw: redis.Redis, place: str
) -> None:
    ledger = await open_ledger(with_registry=crashing)
    crashing.at = place
    await asyncio.gather(ledger.execute(reserve(make_order("acc"))), return_exceptions=True)
    crashing.at = ""
    raw.flushall()
    for worker in (ledger, await open_ledger(with_registry=crashing)):
        with pytest.raises(LedgerUnavailable, match="not stored"):
            await worker.execute(reserve(make_order("acc")))
        with pytest.raises(LedgerUnavailable, match="not stored"):
            await worker.execute(fill(make_order("acc"), 7, "1"))
        with pytest.raises(LedgerUnavailable, match="not stored"):
            await worker.account("acc")
    assert not raw.exists(AccountKeys("acc").account)


async def test_slow_opener_of_a_wiped_account_never_gets_to_reserve(
    open_ledger: OpenLedger, crashing: CrashingRegistry, raw: redis.Redis
) -> None:
    """One worker reads "opening" and is slow; another opens and reserves; Valkey loses everything."""
    slow_goes_on = asyncio.Event()
    slow_waits = asyncio.Event()

    class Slow(KvAccountRegistry):
        async def begin(self, account: str) -> Registration:
            entry = await super().begin(account)
            slow_waits.set()
            await slow_goes_on.wait()
            return entry

    slow = await open_ledger(with_registry=Slow(crashing._bucket))
    late = slow.submit(reserve(make_order("acc")), timeout=30)
    await slow_waits.wait()
    fast = await open_ledger(with_registry=crashing)
    assert (await fast.execute(reserve(make_order("acc")))).effect is Effect.DONE
    raw.flushall()
    slow_goes_on.set()
    with pytest.raises(LedgerUnavailable, match="another incarnation"):
        await late
    with pytest.raises(LedgerUnavailable, match="another incarnation"):
        await fast.execute(reserve(make_order("acc")))


async def test_unreadable_registry_denies_new_accounts_and_leaves_registered_ones_alone(
    open_ledger: OpenLedger, crashing: CrashingRegistry, nats_server: NatsServer
) -> None:
    ledger = await open_ledger(with_registry=crashing)
    await ledger.execute(reserve(make_order("acc")))
    crashing._timeout = 0.3
    await asyncio.to_thread(nats_server.kill)
    with pytest.raises(LedgerUnavailable, match="registry"):
        await ledger.execute(reserve(make_order("new")))
    with pytest.raises(LedgerUnavailable, match="registry"):
        await ledger.account("new")
    assert (await ledger.execute(reserve(make_order("acc")))).effect is Effect.DONE


async def test_many_workers_open_one_account_at_once(
    open_ledger: OpenLedger, crashing: CrashingRegistry
) -> None:
    workers: list[Ledger] = [await open_ledger(with_registry=crashing) for _ in range(5)]
    outcomes = await asyncio.gather(
        *(worker.execute(reserve(make_order("acc")), 10) for worker in workers for _ in range(5))
    )
    assert all(outcome.effect is Effect.DONE for outcome in outcomes)
    account = await workers[0].account("acc", fresh=True)
    assert account is not None
    assert (account.open_orders, account.event_seq) == (25, 27)


async def test_process_without_opening_cash_opens_nothing(
    open_ledger: OpenLedger, crashing: CrashingRegistry
) -> None:
    ledger = await open_ledger(with_registry=crashing, opening_cash=None)
    with pytest.raises(LedgerUnavailable, match="opens none"):
        await ledger.execute(reserve(make_order("acc")))
    assert await crashing.look_up("acc") is None
