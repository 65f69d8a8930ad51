"""One owner a partition: shared fairly, taken over after a death, handed over at a stop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest
import redis

from services.ledger.keys import lease
from services.ledger.ownership import Ownership, OwnershipOptions
from services.runtime.clock import SystemClock
from services.runtime.local_stack import ValkeyServer
from tests.support import eventually


class Listener:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.fences: dict[int, int] = {}
        self.history: list[tuple[str, int]] = []

    async def acquired(self, partition: int, fence: int) -> None:
        assert partition not in self.fences
        self.fences[partition] = fence
        self.history.append(("acquired", partition))

    async def lost(self, partition: int) -> None:
        del self.fences[partition]
        self.history.append(("lost", partition))


class Worker:
    def __init__(self, url: str, name: str, lease_sec: float) -> None:
        self.listener = Listener()
        options = OwnershipOptions(url=url, lease=lease_sec, interval=0.1)
        self.ownership = Ownership(options, name, self.listener, SystemClock())
        self.stop = asyncio.Event()
        self.task = asyncio.create_task(self.ownership.run(self.stop))

    @property
    def owned(self) -> set[int]:
        return set(self.listener.fences)

    async def end(self) -> None:
        self.stop.set()
        await self.task

    async def die(self) -> None:
        """Ends as a killed process does: without a word."""
        await self.ownership._connection.close()
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


class Workers:
    def __init__(self, url: str) -> None:
        self.url = url
        self.started: list[Worker] = []

    def start(self, name: str, lease_sec: float = 1.0) -> Worker:
        worker = Worker(self.url, name, lease_sec)
        self.started.append(worker)
        return worker


@pytest.fixture
async def workers(empty_valkey: ValkeyServer) -> AsyncIterator[Workers]:
    made = Workers(empty_valkey.url)
    yield made
    for worker in made.started:
        if not worker.task.done():
            await worker.end()


ALL = set(range(16))


async def test_single_worker_takes_every_partition(workers: Workers) -> None:
    one = workers.start("one")
    await eventually(lambda: one.owned == ALL)
    assert set(one.ownership.owned) == ALL


async def test_second_worker_gets_its_half(workers: Workers) -> None:
    one = workers.start("one")
    await eventually(lambda: one.owned == ALL)
    two = workers.start("two")
    await eventually(lambda: len(one.owned) == 8 and len(two.owned) == 8)
    assert one.owned | two.owned == ALL


async def test_three_workers_share_without_overlap(workers: Workers) -> None:
    three = [workers.start(name) for name in ("one", "two", "three")]
    await eventually(lambda: sum(len(w.owned) for w in three) == 16 and max(len(w.owned) for w in three) <= 6)
    assert set().union(*(w.owned for w in three)) == ALL


async def test_stopped_worker_hands_over_at_once(workers: Workers) -> None:
    one, two = workers.start("one", 30.0), workers.start("two", 30.0)
    await eventually(lambda: len(one.owned) == 8 and len(two.owned) == 8)
    await one.end()
    assert one.owned == set()
    await eventually(lambda: two.owned == ALL, within_sec=2.0)


async def test_dead_workers_partitions_are_taken_over_after_the_lease_with_a_higher_fence(
    workers: Workers,
) -> None:
    one = workers.start("one", 1.0)
    await eventually(lambda: one.owned == ALL)
    fences = dict(one.listener.fences)
    started = time.monotonic()
    await one.die()
    two = workers.start("two", 1.0)
    await eventually(lambda: two.owned == ALL)
    assert time.monotonic() - started < 3.0
    assert all(two.listener.fences[partition] > fence for partition, fence in fences.items())


async def test_worker_that_was_frozen_past_its_lease_notices_and_makes_way(
    workers: Workers, empty_valkey: ValkeyServer
) -> None:
    one = workers.start("one", 1.0)
    await eventually(lambda: one.owned == ALL)
    with redis.Redis.from_url(empty_valkey.url) as raw:
        raw.set(lease(3), "another 99", px=60_000)
    await eventually(lambda: 3 not in one.owned)
    assert one.owned == ALL - {3}


async def test_lease_that_expired_unnoticed_is_begun_anew(
    workers: Workers, empty_valkey: ValkeyServer
) -> None:
    one = workers.start("one", 5.0)
    await eventually(lambda: one.owned == ALL)
    before = one.listener.fences[3]
    with redis.Redis.from_url(empty_valkey.url) as raw:
        raw.delete(lease(3))
    await eventually(lambda: one.listener.fences.get(3, 0) > before)
    assert one.listener.history[-2:] == [("lost", 3), ("acquired", 3)]


async def test_worker_without_valkey_gives_up_its_partitions_when_their_leases_end(
    workers: Workers, valkey_server: ValkeyServer
) -> None:
    one = workers.start("one", 1.0)
    await eventually(lambda: one.owned == ALL)
    await asyncio.to_thread(valkey_server.kill)
    await eventually(lambda: one.owned == set())
    valkey_server.start()
    await eventually(lambda: one.owned == ALL, within_sec=10.0)


async def test_voluntary_release_waits_until_the_work_has_ended(workers: Workers) -> None:
    one = workers.start("one", 1.0)
    await eventually(lambda: one.owned == ALL)
    gate = asyncio.Event()
    inner = one.listener.lost

    async def slow(partition: int) -> None:
        await gate.wait()
        await inner(partition)

    one.listener.lost = slow  # type: ignore[method-assign]
    two = workers.start("two", 1.0)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(_until(lambda: bool(two.owned)), 2.5)
    assert two.owned == set()
    gate.set()
    await eventually(lambda: len(one.owned) == 8 and len(two.owned) == 8)


async def _until(condition: object) -> None:
    assert callable(condition)
    while not condition():
        await asyncio.sleep(0.01)
