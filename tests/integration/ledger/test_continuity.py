"""A store that lost commits is found out before its first use; one that lost nothing goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis

from services.ledger import keys
from services.ledger.continuity import JournalTail
from services.ledger.errors import LedgerError, LedgerUnavailable
from services.ledger.journal import differences
from services.ledger.journal_tail import LedgerTail
from services.ledger.ledger import Ledger, LedgerOptions
from services.ledger.registry import MemoryAccountRegistry
from services.runtime.clock import SystemClock
from services.runtime.local_stack import NatsServer, ValkeyServer
from services.runtime.nats_client import NatsClient, open_nats
from services.runtime.streams import LEDGER, ensure_streams
from tests.integration.ledger.carrying import carrier, folded_journal, stored_state
from tests.integration.ledger.stale import CopiedValkey, copy_data, set_back, wipe
from tests.support import eventually
from tests.unit.ledger.making import fill, make_order, reserve


@pytest.fixture
def copied(tmp_path: Path) -> Iterator[CopiedValkey]:
    valkey = CopiedValkey(tmp_path)
    valkey.server.start()
    valkey.server.wait_healthy()
    yield valkey
    valkey.server.stop()


@pytest.fixture
async def bus(empty_nats: NatsServer) -> AsyncIterator[NatsClient]:
    client = await open_nats(empty_nats.url, "test")
    await ensure_streams(client.jetstream(), (LEDGER,))
    yield client
    await client.close()


async def open_ledger(valkey: ValkeyServer, registry: MemoryAccountRegistry, journal: JournalTail) -> Ledger:
    return await Ledger.open(LedgerOptions(url=valkey.url), registry, journal, SystemClock())


def carried(valkey: ValkeyServer) -> bool:
    with redis.Redis.from_url(valkey.url) as raw:
        return all(raw.xlen(keys.outbox(p)) == 0 for p in range(16))


async def trade(ledger: Ledger, account: str, first: int, count: int = 3) -> None:
    for sequence in range(first, first + count):
        order = make_order(account, "1")
        await ledger.execute(reserve(order))
        await ledger.execute(fill(order, sequence, "1"))


async def test_restart_without_loss_goes_on(
    copied: CopiedValkey, bus: NatsClient, empty_nats: NatsServer
) -> None:
    ledger = await open_ledger(copied.server, MemoryAccountRegistry(), LedgerTail(bus))
    async with carrier(copied.server.url, empty_nats.url):
        await trade(ledger, "acc", 1)
        life = ledger.life
        copied.server.restart()
        await eventually(lambda: ledger.life != life)
        await trade(ledger, "acc", 4)
        await eventually(lambda: carried(copied.server))
    journal = await folded_journal(empty_nats.url)
    assert differences(journal.accounts["acc"], await stored_state(ledger, "acc")) == []
    await ledger.check()
    await ledger.close()


async def test_store_set_back_to_an_old_copy_is_denied_and_reuses_no_event_number(
    copied: CopiedValkey, bus: NatsClient, empty_nats: NatsServer
) -> None:
    ledger = await open_ledger(copied.server, MemoryAccountRegistry(), LedgerTail(bus))
    async with carrier(copied.server.url, empty_nats.url):
        await trade(ledger, "acc", 1)
        await eventually(lambda: carried(copied.server))
        copied.copy()
        await eventually(lambda: _checked(ledger))
        await trade(ledger, "acc", 4)
        await eventually(lambda: carried(copied.server))
        told = (await bus.jetstream().stream_info(LEDGER)).state.last_seq
        life = ledger.life
        copied.set_back()
        await eventually(lambda: ledger.life != life)
        with pytest.raises(LedgerUnavailable, match="older than its journal"):
            await ledger.execute(reserve(make_order("acc", "1")))
        with pytest.raises(LedgerUnavailable, match="older than its journal"):
            await ledger.account("acc")
        with pytest.raises(LedgerUnavailable, match="older than its journal"):
            await ledger.orders("acc")
        with pytest.raises(LedgerUnavailable, match="older than its journal"):
            await ledger.check()
        assert (await bus.jetstream().stream_info(LEDGER)).state.last_seq == told
    await ledger.close()


async def test_fresh_worker_finds_an_old_copy_out_as_well(
    copied: CopiedValkey, bus: NatsClient, empty_nats: NatsServer
) -> None:
    registry = MemoryAccountRegistry()
    ledger = await open_ledger(copied.server, registry, LedgerTail(bus))
    async with carrier(copied.server.url, empty_nats.url):
        await trade(ledger, "acc", 1)
        copied.copy()
        await eventually(lambda: _checked(ledger))
        await trade(ledger, "acc", 4)
        await eventually(lambda: carried(copied.server))
    await ledger.close()
    copied.set_back()
    ledger = await open_ledger(copied.server, registry, LedgerTail(bus))
    with pytest.raises(LedgerUnavailable, match="older than its journal"):
        await ledger.execute(reserve(make_order("acc", "1")))
    await ledger.close()


async def test_an_emptied_store_taken_for_new_accounts(
    copied: CopiedValkey, bus: NatsClient, empty_nats: NatsServer
) -> None:
    """Known failure: accounts were opened anew in a store that had lost them, with all their cash."""
    registry = MemoryAccountRegistry()
    ledger = await open_ledger(copied.server, registry, LedgerTail(bus))
    async with carrier(copied.server.url, empty_nats.url):
        await trade(ledger, "acc", 1)
        await eventually(lambda: carried(copied.server))
        life = ledger.life
        wipe(copied.server)
        await eventually(lambda: ledger.life != life)
        with pytest.raises(LedgerUnavailable):
            await ledger.execute(reserve(make_order("acc", "1")))
        assert await asyncio.to_thread(_stored, copied.server, "acc") == 0
        # Without the journal, the registry still says that the account was opened.
        with redis.Redis.from_url(copied.server.url) as raw:
            lives = ledger._store.continuity.lives
            raw.set(keys.proven(keys.account_keys("acc").partition), " ".join(lives))
        await eventually(lambda: _proven(ledger, "acc"))
        with pytest.raises(LedgerUnavailable, match="was opened, but is not stored"):
            await ledger.execute(reserve(make_order("acc", "1")))
        assert await asyncio.to_thread(_stored, copied.server, "acc") == 0
    await ledger.close()


def _stored(server: ValkeyServer, account: str) -> int:
    with redis.Redis.from_url(server.url) as raw:
        return int(raw.exists(keys.account_keys(account).account))


async def test_watermark_follows_what_is_carried_and_spares_reading_it_again(
    copied: CopiedValkey, bus: NatsClient, empty_nats: NatsServer
) -> None:
    ledger = await open_ledger(copied.server, MemoryAccountRegistry(), LedgerTail(bus))
    partition = keys.account_keys("acc").partition
    async with carrier(copied.server.url, empty_nats.url):
        await trade(ledger, "acc", 1)
        await eventually(lambda: carried(copied.server))
        last = (await bus.jetstream().stream_info(LEDGER)).state.last_seq
        with redis.Redis.from_url(copied.server.url) as raw:
            await eventually(lambda: int(raw.get(keys.relayed(partition)) or 0) == last)
    read = [message async for messages in LedgerTail(bus).after(partition, last) for message in messages]
    assert read == []
    await ledger.close()


async def test_journal_that_was_trimmed_beyond_the_watermark_proves_nothing(
    copied: CopiedValkey, bus: NatsClient, empty_nats: NatsServer
) -> None:
    registry = MemoryAccountRegistry()
    ledger = await open_ledger(copied.server, registry, LedgerTail(bus))
    async with carrier(copied.server.url, empty_nats.url):
        await trade(ledger, "acc", 1)
        copied.copy()
        await eventually(lambda: _checked(ledger))
        await trade(ledger, "acc", 4)
        await eventually(lambda: carried(copied.server))
    await ledger.close()
    last = (await bus.jetstream().stream_info(LEDGER)).state.last_seq
    await bus.jetstream().purge_stream(LEDGER, seq=last + 1)
    copied.set_back()
    ledger = await open_ledger(copied.server, registry, LedgerTail(bus))
    with pytest.raises(LedgerUnavailable, match="kept from message"):
        await ledger.execute(reserve(make_order("acc", "1")))
    await ledger.close()


async def test_journal_that_lost_messages_is_denied_and_nothing_is_published_to_it(
    copied: CopiedValkey,
    bus: NatsClient,
    empty_nats: NatsServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Known failure: new messages took the places of lost ones, and no fold got over the hole."""
    ledger = await open_ledger(copied.server, MemoryAccountRegistry(), LedgerTail(bus))
    partitions = {keys.account_keys(name).partition for name in ("acc", "other")}
    assert len(partitions) == 2
    async with carrier(copied.server.url, empty_nats.url) as carrying:
        await trade(ledger, "acc", 1)
        await eventually(lambda: carried(copied.server))
        left = (await bus.jetstream().stream_info(LEDGER)).state.last_seq
        copy_data(empty_nats, tmp_path / "journal")
        await eventually(lambda: _checked(ledger))
        await trade(ledger, "acc", 4)
        await eventually(lambda: carried(copied.server))
        await ledger.check()
        empty_nats.kill()
        # More commits of another account than LEDGER has lost messages: they would make up for them.
        await trade(ledger, "other", 7, 20)
        set_back(empty_nats, tmp_path / "journal")
        await eventually(lambda: _refused(ledger), within_sec=10)
        for account in ("acc", "other", "new"):
            with pytest.raises(LedgerUnavailable, match="LEDGER has lost messages"):
                await ledger.execute(reserve(make_order(account, "1")))
        ensure, tried = carrying.relay._continuity.ensure, 0

        async def counted(partition: int) -> None:
            nonlocal tried
            tried += 1
            await ensure(partition)

        monkeypatch.setattr(carrying.relay._continuity, "ensure", counted)
        await eventually(lambda: tried > 1, within_sec=10)
        assert carrying.client.is_connected
        assert (await bus.jetstream().stream_info(LEDGER)).state.last_seq == left
        assert not carried(copied.server)
    await ledger.close()


async def test_nats_that_was_started_anew_and_lost_nothing_goes_on(
    copied: CopiedValkey, bus: NatsClient, empty_nats: NatsServer
) -> None:
    ledger = await open_ledger(copied.server, MemoryAccountRegistry(), LedgerTail(bus))
    async with carrier(copied.server.url, empty_nats.url):
        await trade(ledger, "acc", 1)
        await eventually(lambda: carried(copied.server))
        before = bus.server_id
        empty_nats.kill()
        await trade(ledger, "acc", 4)
        empty_nats.start()
        await eventually(lambda: bus.server_id != before, within_sec=10)
        await eventually(lambda: _checked(ledger), within_sec=10)
        await trade(ledger, "acc", 7)
        await eventually(lambda: carried(copied.server), within_sec=10)
    journal = await folded_journal(empty_nats.url)
    assert differences(journal.accounts["acc"], await stored_state(ledger, "acc")) == []
    await ledger.close()


async def test_command_that_counts_on_earlier_ones_fails_in_another_life(
    copied: CopiedValkey, bus: NatsClient
) -> None:
    ledger = await open_ledger(copied.server, MemoryAccountRegistry(), LedgerTail(bus))
    await trade(ledger, "acc", 1)
    order = make_order("acc", "1")
    await ledger.execute(reserve(order))
    life = ledger.life
    copied.server.stop()
    report = ledger.submit(fill(order, 9, "1"), 60, life)
    copied.server.start()
    with pytest.raises(LedgerError, match="may have lost"):
        await report
    await ledger.execute(fill(order, 9, "1"))
    await ledger.close()


async def test_unreadable_journal_denies(copied: CopiedValkey, empty_nats: NatsServer) -> None:
    client = await open_nats(empty_nats.url, "test")
    ledger = await open_ledger(copied.server, MemoryAccountRegistry(), LedgerTail(client))
    with pytest.raises(LedgerUnavailable, match="LEDGER cannot be read"):  # there is no such stream
        await ledger.execute(reserve(make_order("acc", "1")))
    await ensure_streams(client.jetstream(), (LEDGER,))
    await eventually(lambda: _checked(ledger))
    await ledger.execute(reserve(make_order("acc", "1")))
    await ledger.close()
    await client.close()


async def _proven(ledger: Ledger, account: str) -> bool:
    try:
        await ledger._store.continuity.ensure(keys.account_keys(account).partition)
    except LedgerUnavailable as error:
        raise AssertionError(str(error)) from error
    return True


async def _refused(ledger: Ledger) -> bool:
    try:
        await ledger.check()
    except LedgerUnavailable as error:
        return "LEDGER has lost messages" in str(error)
    return False


async def _checked(ledger: Ledger) -> bool:
    try:
        await ledger.check()
    except LedgerUnavailable as error:
        raise AssertionError(str(error)) from error
    return True
