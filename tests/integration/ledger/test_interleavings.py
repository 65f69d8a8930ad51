"""Random traffic by several workers over a bad network, with crashes: nothing is lost, nothing doubled.

Each example draws its seed from Hypothesis; everything that a machine decides (which write lands first) is
left to chance, and what must hold afterwards does not depend on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Sequence

import nats
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.ledger.commands import ApplyReport, Command, Outcome
from services.ledger.continuity import NoJournal
from services.ledger.errors import CommitUnknown, LedgerUnavailable
from services.ledger.journal import differences, fingerprint
from services.ledger.keys import outbox
from services.ledger.ledger import Ledger, LedgerOptions
from services.ledger.registry import MemoryAccountRegistry
from services.runtime.clock import SystemClock
from services.runtime.local_stack import NatsServer, ValkeyServer
from services.runtime.streams import LEDGER, ensure_streams
from tests.integration.ledger.carrying import carrier, folded_journal, stored_state
from tests.integration.ledger.proxy import Faults, faulty_proxy
from tests.support import eventually
from tests.unit.ledger.venue import Traffic, broken_invariants

BAD_NETWORK = Faults(lose_answer=0.04, deliver_late=0.04, delay=0.2, longest=0.05)


async def _certainly(workers: Sequence[Ledger], rng: random.Random, command: Command) -> Outcome:
    """Runs a command until it is answered, each try on any worker, as a consumer of reports does."""
    while True:
        try:
            return await rng.choice(workers).execute(command, timeout=2.0)
        except (CommitUnknown, LedgerUnavailable):
            await asyncio.sleep(0.01)


async def _clients(workers: Sequence[Ledger], rng: random.Random, traffic: Traffic, count: int) -> None:
    """Sends client commands, some of them to two workers at once, and gives up on unknown ones."""
    for _ in range(count):
        command = traffic.client_command()
        copies = 2 if rng.random() < 0.15 else 1
        await asyncio.gather(
            *(rng.choice(workers).execute(command, timeout=0.5) for _ in range(copies)),
            return_exceptions=True,
        )


async def _reports(workers: Sequence[Ledger], rng: random.Random, traffic: Traffic, count: int) -> None:
    """Applies reports in their order, each until it is answered; some are given to two owners at once."""
    for _ in range(count):
        while not traffic.orders:
            await asyncio.sleep(0.001)
        report: ApplyReport = traffic.venue_report()
        copies = 2 if rng.random() < 0.1 else 1
        await asyncio.gather(*(_certainly(workers, rng, report) for _ in range(copies)))


async def _readers(workers: Sequence[Ledger], traffics: Sequence[Traffic]) -> None:
    """Looks at accounts all the time, which replaces the copies that commits are computed on."""
    while True:
        for worker in workers:
            for traffic in traffics:
                with contextlib.suppress(LedgerUnavailable):
                    await worker.account(traffic.account, fresh=True)
        await asyncio.sleep(0.001)


async def _check(ledger: Ledger, traffics: Sequence[Traffic], nats_url: str) -> None:
    journal = await folded_journal(nats_url)
    for traffic in traffics:
        stored = await stored_state(ledger, traffic.account)
        assert broken_invariants(stored.account, list(stored.orders.values()), traffic.expected) == []
        folded = journal.accounts[traffic.account]
        assert differences(folded, stored) == []
        kept = [folded.orders[order_id] for order_id in stored.orders]
        assert fingerprint([folded.account], kept) == fingerprint([stored.account], stored.orders.values())
        opened = {order.order_id for order in await ledger.open_orders(traffic.account)}
        assert opened == {order_id for order_id, order in stored.orders.items() if order.is_open}


async def _empty(valkey_url: str, nats_url: str) -> None:
    with redis.Redis.from_url(valkey_url) as client:
        client.flushall()
    nc = await nats.connect(nats_url)
    js = nc.jetstream()
    for stream in await js.streams_info():
        assert stream.config.name is not None
        await js.delete_stream(stream.config.name)
    await ensure_streams(js, (LEDGER,))
    await nc.close()


async def _run(
    seed: int,
    valkey_server: ValkeyServer,
    nats_server: NatsServer,
    *,
    accounts: int,
    commands: int,
    kills: int = 0,
    faults: Faults = BAD_NETWORK,
) -> None:
    rng = random.Random(seed)
    await _empty(valkey_server.url, nats_server.url)
    registry = MemoryAccountRegistry()
    sequence = itertools.count(1)
    async with (
        faulty_proxy("127.0.0.1", valkey_server.port, seed) as proxy,
        carrier(valkey_server.url, nats_server.url),
        carrier(proxy.url, nats_server.url, realtime_positions=False),
    ):
        workers = []
        for read_ahead in (False, True, True):
            options = LedgerOptions(
                url=proxy.url, socket_timeout=0.3, remembered_denials=10_000, read_ahead=read_ahead
            )
            workers.append(await Ledger.open(options, registry, NoJournal(), SystemClock()))
        direct = await Ledger.open(LedgerOptions(url=valkey_server.url), registry, NoJournal(), SystemClock())
        everybody = [*workers, direct]
        proxy.faults = faults
        traffics = [Traffic(f"acc{i}", random.Random(rng.random()), sequence) for i in range(accounts)]
        tasks = [
            asyncio.create_task(part)
            for traffic in traffics
            for part in (
                _clients(everybody, rng, traffic, commands),
                _clients(everybody, rng, traffic, commands),
                _reports(everybody, rng, traffic, commands),
            )
        ]
        for _ in range(kills):
            await asyncio.sleep(0.2 + rng.random() * 0.3)
            await asyncio.to_thread(valkey_server.kill)
            valkey_server.start()
            await valkey_server.until_healthy()
        reading = asyncio.create_task(_readers(everybody, traffics))
        await asyncio.gather(*tasks)
        reading.cancel()
        proxy.faults = Faults()
        await asyncio.sleep(2 * faults.longest)  # what the proxy still keeps back arrives
        with redis.Redis.from_url(valkey_server.url) as raw:
            await eventually(lambda: all(raw.xlen(outbox(p)) == 0 for p in range(16)), within_sec=20)
        await _check(direct, traffics, nats_server.url)
        print(f"seed {seed}: {proxy.done}")
        for ledger in everybody:
            await ledger.close()


@given(seed=st.integers(0, 2**32))
@settings(max_examples=4, suppress_health_check=list(HealthCheck), deadline=None)
def test_bad_network_and_many_workers_leave_every_account_exact(
    valkey_server: ValkeyServer, nats_server: NatsServer, seed: int
) -> None:
    asyncio.run(_run(seed, valkey_server, nats_server, accounts=3, commands=40))


@pytest.mark.parametrize("seed", [1])
async def test_server_killed_in_the_middle_loses_nothing(
    valkey_server: ValkeyServer, nats_server: NatsServer, seed: int
) -> None:
    await _run(seed, valkey_server, nats_server, accounts=3, commands=60, kills=3)


async def test_many_workers_on_one_account_over_a_good_network(
    valkey_server: ValkeyServer, nats_server: NatsServer
) -> None:
    await _run(3, valkey_server, nats_server, accounts=1, commands=120, faults=Faults(longest=0.0))
