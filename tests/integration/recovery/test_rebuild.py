"""Rebuild and verify on the real servers: what Valkey loses, the journal gives back."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
import redis

from services.dead_letters import read_dead_letter
from services.ledger import keys
from services.ledger.commands import Effect
from services.ledger.errors import LedgerUnavailable
from services.ledger.journal import FoldedAccount
from services.recovery import rebuild as rebuilding
from services.recovery import snapshot
from services.runtime.clock import SystemClock
from services.runtime.streams import EXECUTIONS, LEDGER
from tests.integration.ledger.carrying import PROJECTION_DB, carrier
from tests.integration.ledger.stale import lose_tail, set_back, wipe
from tests.integration.recovery.conftest import Scene
from tests.integration.recovery.traffic import ACCOUNTS, carried_traffic, goes_on, traffic
from tests.unit.ledger.making import abandon, fill, make_order, reserve


async def test_wiped_store_is_rebuilt_equal_in_every_key(scene: Scene) -> None:
    async with carrier(scene.valkey.server.url, scene.nats.url):
        sequence = await carried_traffic(scene)
        before = scene.keys()
        assert await scene.verified() == []
        wipe(scene.valkey.server)
        await scene.denied()
        done = await scene.rebuild()
        assert (done.accounts, done.failures) == (len(ACCOUNTS), [])
        assert scene.keys() == before
        await scene.usable()
        assert await scene.verified() == []
        await scene.as_in_the_journal(*ACCOUNTS)
        await carried_traffic(scene, sequence)
        await scene.as_in_the_journal(*ACCOUNTS)
        assert await scene.verified() == []


async def test_store_set_back_to_an_old_copy_is_rebuilt_and_goes_on(scene: Scene) -> None:
    async with carrier(scene.valkey.server.url, scene.nats.url):
        sequence = await carried_traffic(scene)
        scene.valkey.copy()
        await scene.usable()
        sequence = await carried_traffic(scene, sequence)
        before = scene.keys()
        scene.valkey.set_back()
        await scene.denied()
        assert any("event_seq" in line for line in await scene.verified())
        assert (await scene.rebuild()).failures == []
        assert scene.keys() == before
        await goes_on(scene, sequence)


async def test_store_that_lost_its_last_writes_is_rebuilt_and_goes_on(scene: Scene) -> None:
    async with carrier(scene.valkey.server.url, scene.nats.url):
        sequence = await carried_traffic(scene)
        lose_tail(scene.valkey.server, 20_000)
        await scene.denied()
        with pytest.raises(LedgerUnavailable):
            await scene.ledger.execute(reserve(make_order(ACCOUNTS[-1], "1")))
        assert (await scene.rebuild()).failures == []
        await goes_on(scene, sequence)


async def test_client_order_ids_lead_to_the_same_orders_after_a_rebuild(scene: Scene) -> None:
    async with carrier(scene.valkey.server.url, scene.nats.url):
        held = make_order("acc", "1", client_order_id="mine")
        await scene.ledger.execute(reserve(held))
        held_up, freed = (make_order("acc", "1", client_order_id="free") for _ in range(2))
        await scene.ledger.execute(reserve(freed))
        await scene.ledger.execute(abandon(freed))
        held_up_too, buried = (make_order("acc", "1", client_order_id="dead") for _ in range(2))
        await scene.ledger.execute(abandon(buried))
        await scene.carried()
        wipe(scene.valkey.server)
        await scene.rebuild()
        await scene.usable()
    again = await scene.ledger.execute(reserve(make_order("acc", "1", client_order_id="mine")))
    assert again.order is not None
    assert (again.order.order_id, again.effect) == (held.order_id, Effect.REPEATED)
    for late, given_up in ((held_up, freed), (held_up_too, buried)):
        repeated = await scene.ledger.execute(reserve(late))
        assert repeated.order is not None
        assert (repeated.order.order_id, repeated.effect) == (given_up.order_id, Effect.REPEATED)
    assert (
        await scene.ledger.execute(reserve(make_order("acc", "1", client_order_id="free")))
    ).effect is Effect.DONE


async def test_commits_that_only_the_outbox_has_are_told_first(scene: Scene) -> None:
    await traffic(scene)  # nobody carries
    before = scene.keys()
    done = await scene.rebuild()
    assert (done.failures, done.accounts) == ([], len(ACCOUNTS))
    assert done.salvaged > 0
    assert scene.keys() == before
    await scene.usable()
    assert await scene.verified() == []


async def test_outbox_that_contradicts_the_journal_is_put_aside_and_told(scene: Scene) -> None:
    async with carrier(scene.valkey.server.url, scene.nats.url):
        await carried_traffic(scene)
    held = await scene.ledger.account("acc0", fresh=True)
    assert held is not None
    forged = _forged("acc0", 2, {"registered": {}})
    following = _forged("acc0", held.event_seq + 1, {"acknowledged": {"order_id": "acc0-x", "stream_seq": 1}})
    with redis.Redis.from_url(scene.valkey.server.url) as raw:
        raw.xadd(keys.account_keys("acc0").outbox, {"e": forged})
        raw.xadd(keys.account_keys("acc0").outbox, {"e": following})
    told = (await scene.client.jetstream().stream_info(LEDGER)).state.last_seq
    done = await scene.rebuild()
    assert len(done.failures) == 2
    assert all("contradict LEDGER" in failure for failure in done.failures)
    assert (await scene.client.jetstream().stream_info(LEDGER)).state.last_seq == told
    letter = await scene.client.jetstream().get_last_msg("DEADLETTER", "deadletter.ledger")
    assert letter.data is not None
    told_why = read_dead_letter(letter.data)
    assert told_why.text == following
    assert (told_why.stream, told_why.sequence) == (keys.account_keys("acc0").outbox, held.event_seq + 1)
    await scene.usable()
    assert await scene.verified() == []


def _forged(account: str, seq: int, event: object) -> str:
    return json.dumps({"v": 1, "account": account, "seq": seq, "time_ns": 1, "events": [event]})


async def test_rebuild_that_dies_in_the_middle_leaves_its_accounts_denied_and_is_repeated(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with carrier(scene.valkey.server.url, scene.nats.url):
        sequence = await carried_traffic(scene)
        before = scene.keys()
        wipe(scene.valkey.server)
        write = rebuilding._Rebuild._account
        written = 0

        async def dying(self: rebuilding._Rebuild, folded: FoldedAccount) -> None:
            nonlocal written
            written += 1
            if written == 3:
                raise RuntimeError("killed")
            await write(self, folded)

        with monkeypatch.context() as dies:
            dies.setattr(rebuilding._Rebuild, "_account", dying)
            with pytest.raises(RuntimeError, match="killed"):
                await scene.rebuild()
        assert any("interrupted" in line for line in await scene.verified())
        with pytest.raises(LedgerUnavailable):
            await scene.ledger.execute(reserve(make_order(ACCOUNTS[-1], "1")))
        assert (await scene.rebuild()).failures == []
        assert scene.keys() == before
        await goes_on(scene, sequence)


async def test_rebuild_of_a_store_that_lost_nothing_changes_nothing_but_tokens(scene: Scene) -> None:
    async with carrier(scene.valkey.server.url, scene.nats.url):
        await carried_traffic(scene)
        before = scene.keys()
        token = await _token(scene, "acc0")
        done = await scene.rebuild()
        assert scene.keys() == before
        assert await _token(scene, "acc0") != token
        assert (await _token(scene, "acc0")).startswith(f"{done.incarnation}.")
        await scene.usable()
        assert await scene.verified() == []


async def _token(scene: Scene, account: str) -> str:
    with redis.Redis.from_url(scene.valkey.server.url, decode_responses=True) as raw:
        return str(raw.hget(keys.account_keys(account).account, keys.TOKEN))


async def test_positions_flattened_by_a_warm_restart(scene: Scene) -> None:
    """Known failure: after a restart positions were read from a store without them, and counted as flat."""
    async with carrier(scene.valkey.server.url, scene.nats.url):
        for sequence in range(1, 6):
            order = make_order("acc", "1")
            await scene.ledger.execute(reserve(order))
            await scene.ledger.execute(fill(order, sequence, "1"))
        await scene.carried()
        wipe(scene.valkey.server)
        await scene.denied()
        with pytest.raises(LedgerUnavailable):
            await scene.ledger.account("acc", fresh=True)
        await scene.rebuild()
        await scene.usable()
        account = await scene.ledger.account("acc", fresh=True)
        assert account is not None
        assert account.positions["BTCUSDT"].quantity == 5
        with redis.Redis.from_url(scene.valkey.server.url, db=PROJECTION_DB, decode_responses=True) as raw:
            shown = raw.hgetall(keys.projected_position("acc", "BTCUSDT"))
        assert Decimal(shown["quantity"]) == 5


async def test_rebuild_goes_back_to_a_journal_that_lost_its_end(scene: Scene, tmp_path: Path) -> None:
    async with carrier(scene.valkey.server.url, scene.nats.url):
        sequence = await carried_traffic(scene)
        before = scene.keys()
        await scene.copy_journal(tmp_path / "journal")
        sequence = await carried_traffic(scene, sequence)
        assert scene.keys() != before
        set_back(scene.nats, tmp_path / "journal")
        await scene.denied("LEDGER has lost messages")
        assert (await scene.rebuild()).failures == []
        assert scene.keys() == before
        await goes_on(scene, sequence)


async def test_snapshot_that_is_younger_than_the_journal_is_gone_on_from_once_the_journal_begins_after_it(
    scene: Scene, tmp_path: Path
) -> None:
    """What docs/recovery.md tells an operator."""
    js = scene.client.jetstream()
    async with carrier(scene.valkey.server.url, scene.nats.url):
        sequence = await carried_traffic(scene)
        await scene.copy_journal(tmp_path / "journal")
        sequence = await carried_traffic(scene, sequence)
        before = scene.keys()
        async with scene.site() as site:
            taken = await snapshot.take(site, SystemClock())
            content = [await site.snapshots.accounts(taken.manifest, partition) for partition in range(16)]
        set_back(scene.nats, tmp_path / "journal")
        await scene.denied("LEDGER has lost messages")
        async with scene.site() as site:
            valid = await site.snapshots.valid()
            names = [valid.object_name(partition) for partition in range(16)]
            for name, accounts in zip(names, content, strict=True):
                await site.snapshots.write(name, accounts.values())
            await site.snapshots.publish(replace(taken.manifest, objects=tuple(names)), instead=valid)
            with pytest.raises(LedgerUnavailable, match="LEDGER has lost messages"):
                await snapshot.take(site, SystemClock())
        failures = (await scene.rebuild()).failures
        assert len(failures) == 16
        assert all("LEDGER has lost messages" in failure for failure in failures)
        config = (await js.stream_info(LEDGER)).config
        await js.delete_stream(LEDGER)
        await js.add_stream(replace(config, first_seq=taken.manifest.sequence + 1))
        assert (await scene.rebuild()).failures == []
        assert scene.keys() == before
        await goes_on(scene, sequence)


async def test_account_of_which_no_journal_knows_is_named_and_stays_denied(scene: Scene) -> None:
    registry = await scene.client.jetstream().key_value("accounts")
    await registry.put("forgotten", b"open 01ARZ3NDEKTSV4RRFFQ69G5FAV")
    done = await scene.rebuild()
    assert done.failures == ["account forgotten was opened, but no journal knows it"]
    assert await scene.verified() == ["account forgotten is registered as open and not stored"]
    await scene.usable()
    with pytest.raises(LedgerUnavailable):
        await scene.ledger.execute(reserve(make_order("forgotten", "1")))


async def test_reports_after_the_journal_are_left_to_the_checkpoint(scene: Scene) -> None:
    partition = keys.account_keys("acc").partition
    js = scene.client.jetstream()
    async with carrier(scene.valkey.server.url, scene.nats.url):
        sequences = [
            (await js.publish("executions.acc", json.dumps({"account": "acc"}).encode())).seq
            for _ in range(4)
        ]
        order = make_order("acc", "1")
        await scene.ledger.execute(reserve(order))
        await scene.ledger.execute(fill(order, sequences[1], "1"))
        await scene.carried()
        wipe(scene.valkey.server)
        await scene.rebuild()
        await scene.usable()
    assert await scene.ledger.checkpoint(partition) == sequences[2] - 1
    assert (await js.stream_info(EXECUTIONS)).state.last_seq == sequences[3]


async def test_verify_names_every_kind_of_damage(scene: Scene) -> None:
    async with carrier(scene.valkey.server.url, scene.nats.url):
        await carried_traffic(scene)
    held = keys.account_keys("acc1")
    order = next(iter(await scene.ledger.open_orders("acc1")))
    with redis.Redis.from_url(scene.valkey.server.url) as raw:
        raw.delete(keys.account_keys("acc0").account)
        raw.zrem(held.open, order.order_id)
        raw.zrem(held.deadline, order.order_id)
        raw.delete(held.client_prefix + order.client_order_id)
        raw.delete(
            keys.account_keys("acc2").order_prefix + (await scene.ledger.open_orders("acc2"))[0].order_id
        )
    found = "\n".join(await scene.verified())
    for said in (
        "account acc0 is in the journal and not stored",
        f"order {order.order_id} is {order.state} and not listed as open",
        f"does not lead to order {order.order_id}",
        "is open in the journal and not stored",
    ):
        assert said in found


async def test_verify_agrees_while_traffic_goes_on(scene: Scene) -> None:
    async with carrier(scene.valkey.server.url, scene.nats.url):
        sequence = await traffic(scene)
        going_on = asyncio.create_task(traffic(scene, sequence))
        while not going_on.done():
            assert await scene.verified() == []
        await going_on
        assert await scene.verified() == []
