"""The way from the outbox to LEDGER, to `positions.{account}` and to the projection."""

from __future__ import annotations

import asyncio
import itertools
from decimal import Decimal
from typing import Any

import msgspec
import nats
import pytest
import redis

from services.ledger.codec import PositionChange, decode_commits
from services.ledger.connection import Endpoint
from services.ledger.events import Event, Reserved
from services.ledger.journal import differences
from services.ledger.keys import AccountKeys, outbox, projected_position
from services.ledger.positions import Positions
from services.runtime.local_stack import NatsServer, ValkeyServer
from services.runtime.streams import LEDGER, ensure_streams
from tests.integration.ledger.carrying import PROJECTION_DB, carrier, folded_journal, stored_state
from tests.integration.ledger.conftest import OpenLedger
from tests.support import eventually
from tests.unit.ledger.making import fill, make_order, reserve


@pytest.fixture
async def ledger_stream(empty_nats: NatsServer) -> str:
    client = await nats.connect(empty_nats.url)
    await ensure_streams(client.jetstream(), (LEDGER,))
    await client.close()
    return empty_nats.url


def _outboxes_empty(raw: redis.Redis) -> bool:
    return all(raw.xlen(outbox(partition)) == 0 for partition in range(16))


async def test_commits_reach_the_journal_and_leave_the_outbox(
    open_ledger: OpenLedger, raw: redis.Redis, valkey_server: ValkeyServer, ledger_stream: str
) -> None:
    ledger = await open_ledger()
    accounts = [f"acc{i}" for i in range(20)]
    async with carrier(valkey_server.url, ledger_stream):
        for _ in range(5):
            await asyncio.gather(*(ledger.submit(reserve(make_order(a))) for a in accounts))
        await eventually(lambda: _outboxes_empty(raw))
    journal = await folded_journal(ledger_stream)
    assert sorted(journal.accounts) == sorted(accounts)
    for account in accounts:
        assert differences(journal.accounts[account], await stored_state(ledger, account)) == []


async def test_fill_is_published_and_projected(
    open_ledger: OpenLedger, projection: redis.Redis, valkey_server: ValkeyServer, ledger_stream: str
) -> None:
    ledger = await open_ledger()
    async with carrier(valkey_server.url, ledger_stream) as running:
        subscription = await running.client.subscribe("positions.acc")
        order = make_order("acc", "1")
        await ledger.execute(reserve(order))
        await ledger.execute(fill(order, 1, "0.10", price="45000.5"))
        message = await subscription.next_msg(timeout=5)
        update = msgspec.json.decode(message.data)
        assert {k: v for k, v in update.items() if k != "timestamp"} == {
            "account": "acc",
            "symbol": "BTCUSDT",
            "quantity": 0.1,
            "price": 45000.5,
        }
        key = projected_position("acc", "BTCUSDT")
        await eventually(lambda: projection.hgetall(key))
        assert projection.hgetall(key) == {"number": "4", "quantity": "0.10", "last_price": "45000.5"}
        assert projection.ttl(key) == -1


async def test_older_position_never_replaces_a_newer_one(
    empty_valkey: ValkeyServer, projection: redis.Redis, nats_server: NatsServer
) -> None:
    client = await nats.connect(nats_server.url)
    positions = Positions(client, Endpoint.parse(empty_valkey.url, PROJECTION_DB))
    await positions.open()
    for number in (5, 9, 7, 9, 10, 2):
        change = PositionChange("BTCUSDT", Decimal(number), Decimal(1), number)
        await positions.show("acc", {"BTCUSDT": (change, 0)})
    await positions.close()
    await client.close()
    assert projection.hget(projected_position("acc", "BTCUSDT"), "quantity") == "10"


async def test_positions_wait_for_reconciliation_when_told_so(
    open_ledger: OpenLedger,
    raw: redis.Redis,
    projection: redis.Redis,
    valkey_server: ValkeyServer,
    ledger_stream: str,
) -> None:
    ledger = await open_ledger()
    async with carrier(valkey_server.url, ledger_stream, realtime_positions=False):
        order = make_order("acc", "1")
        await ledger.execute(reserve(order))
        await ledger.execute(fill(order, 1, "1"))
        await eventually(lambda: _outboxes_empty(raw))
    assert projection.dbsize() == 0


async def test_new_owner_repeats_what_the_old_one_did_not_trim_and_nobody_counts_it_twice(
    open_ledger: OpenLedger, raw: redis.Redis, valkey_server: ValkeyServer, ledger_stream: str
) -> None:
    ledger = await open_ledger()
    orders = [make_order("acc", "1") for _ in range(30)]
    for order in orders:
        await ledger.execute(reserve(order))
    # Keep the entries as they would be if the first owner died before trimming.
    entries: Any = raw.xrange(AccountKeys("acc").outbox)
    async with carrier(valkey_server.url, ledger_stream):
        await eventually(lambda: _outboxes_empty(raw))
    for _, fields in entries:
        raw.xadd(AccountKeys("acc").outbox, fields)
    async with carrier(valkey_server.url, ledger_stream):
        await eventually(lambda: _outboxes_empty(raw))
    journal = await folded_journal(ledger_stream)
    assert differences(journal.accounts["acc"], await stored_state(ledger, "acc")) == []


async def test_two_owners_at_once_do_no_harm(
    open_ledger: OpenLedger, raw: redis.Redis, valkey_server: ValkeyServer, ledger_stream: str
) -> None:
    ledger = await open_ledger()
    async with (
        carrier(valkey_server.url, ledger_stream),
        carrier(valkey_server.url, ledger_stream),
    ):
        for seq in range(1, 60):
            order = make_order("acc", "1")
            await ledger.execute(reserve(order))
            await ledger.execute(fill(order, seq, "1"))
        await eventually(lambda: _outboxes_empty(raw))
    journal = await folded_journal(ledger_stream)
    assert differences(journal.accounts["acc"], await stored_state(ledger, "acc")) == []


async def test_journal_server_that_dies_and_returns_gets_every_commit_in_order(
    open_ledger: OpenLedger,
    raw: redis.Redis,
    valkey_server: ValkeyServer,
    ledger_stream: str,
    nats_server: NatsServer,
) -> None:
    ledger = await open_ledger()
    async with carrier(valkey_server.url, ledger_stream) as running:
        for round_ in range(3):
            for i in range(100):
                await asyncio.gather(*(ledger.submit(reserve(make_order(f"acc{a}"))) for a in range(5)))
                if i == 50 and round_ < 2:
                    await asyncio.to_thread(nats_server.kill)
            if round_ < 2:
                assert running.relay.backlog > 0
                nats_server.start()
                await nats_server.until_healthy()
        await eventually(lambda: _outboxes_empty(raw), within_sec=30)
    journal = await folded_journal(ledger_stream)
    for a in range(5):
        assert differences(journal.accounts[f"acc{a}"], await stored_state(ledger, f"acc{a}")) == []


async def test_commits_that_wait_for_one_account_leave_together(
    open_ledger: OpenLedger, raw: redis.Redis, valkey_server: ValkeyServer, ledger_stream: str
) -> None:
    ledger = await open_ledger()
    for _ in range(50):
        await ledger.execute(reserve(make_order("acc")))
    async with carrier(valkey_server.url, ledger_stream) as running:
        await eventually(lambda: _outboxes_empty(raw))
        info = await running.js.stream_info(LEDGER)
        assert info.state.messages < 50
        message = await running.js.get_msg(LEDGER, info.state.last_seq)
        assert message.data is not None
        assert len(decode_commits(message.data)) > 1


async def test_partition_that_is_lost_is_left_alone(
    open_ledger: OpenLedger, raw: redis.Redis, valkey_server: ValkeyServer, ledger_stream: str
) -> None:
    ledger = await open_ledger()
    partition = AccountKeys("acc").partition
    async with carrier(valkey_server.url, ledger_stream) as running:
        await running.relay.lost(partition)
        await ledger.execute(reserve(make_order("acc")))
        await ledger.execute(reserve(make_order("other")))
        await eventually(lambda: raw.xlen(AccountKeys("other").outbox) == 0)
        assert raw.xlen(outbox(partition)) > 0
        await running.relay.acquired(partition, 2)
        await eventually(lambda: _outboxes_empty(raw))


async def test_commit_without_acknowledgement_stays_in_the_outbox_whatever_others_do(
    open_ledger: OpenLedger, raw: redis.Redis, valkey_server: ValkeyServer, ledger_stream: str
) -> None:
    ledger = await open_ledger()
    names = (f"acc{i}" for i in range(100))
    one, two = itertools.islice((n for n in names if AccountKeys(n).partition == 5), 2)
    async with carrier(valkey_server.url, ledger_stream, unpublishable=one) as running:
        subscription = await running.js.subscribe(f"ledger.5.{two}")
        await ledger.execute(reserve(make_order(one)))
        await ledger.execute(reserve(make_order(two)))
        carried: list[Event] = []
        while not any(isinstance(event, Reserved) for event in carried):
            # One message or two: what queues up while another is on its way goes together.
            message = await subscription.next_msg(timeout=5)
            carried += (event for commit in decode_commits(message.data) for event in commit.events)
        await eventually(lambda: running.relay.backlog == 2)
    entries: Any = raw.xrange(outbox(5))
    kept = [msgspec.json.decode(fields[b"e"])["account"] for _, fields in entries]
    assert kept[:2] == [one, one]
    async with carrier(valkey_server.url, ledger_stream):
        await eventually(lambda: _outboxes_empty(raw))
    journal = await folded_journal(ledger_stream)
    for account in (one, two):
        assert differences(journal.accounts[account], await stored_state(ledger, account)) == []
