"""When the orders of a client that has gone away are canceled, and when they are not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

import pytest

from services.ledger.client_leases import Lapsed
from services.ledger.commands import Reserve
from services.ledger.errors import LedgerUnavailable
from services.ledger.order import Order, OrderState
from services.oms import disconnect
from services.oms.cancel import Canceler
from services.oms.disconnect import DISCONNECTED, LEASE_SEC, LOOK_SEC, Attendance, DisconnectWatch, attended
from services.oms.servicer import Desk, OrderService
from services.runtime.clock import SystemClock
from services.runtime.errors import Unavailable
from tests.support import eventually
from tests.unit.ledger.making import make_order
from tests.unit.oms.memory import MemoryLedger, ScriptedVenue, approve
from trade2026.oms.v1 import order_pb2


class MemoryLeases:
    """Leases that end when the test says so."""

    def __init__(self) -> None:
        self.lapses: list[Lapsed] = []
        self.elsewhere: list[Lapsed] = []
        """Those of partition 1."""
        self.forgotten: list[Lapsed] = []
        self.renewed = 0
        self.looks = 0
        self.down = False

    async def renew(self, account: str, seconds: float) -> None:
        self._reach()
        self.renewed += 1

    async def lapsed(self, partition: int) -> tuple[Lapsed, ...]:
        self._reach()
        self.looks += 1
        return tuple(self.elsewhere if partition else self.lapses)

    async def forget(self, partition: int, lapsed: Lapsed) -> None:
        self._reach()
        self.forgotten.append(lapsed)

    def _reach(self) -> None:
        if self.down:
            raise LedgerUnavailable("down")


class Hand(SystemClock):
    """Monotonic time moved by hand."""

    def __init__(self) -> None:
        self.moved = 0.0

    def monotonic(self) -> float:
        return self.moved


class Watch:
    """A watch over two partitions, in the first of which a client has gone away and left an order."""

    def __init__(self) -> None:
        self.clock = Hand()
        self.ledger = MemoryLedger(SystemClock())
        self.leases = MemoryLeases()
        self.venue = ScriptedVenue()
        self.watch = DisconnectWatch(
            self.leases, self.ledger, Canceler(self.ledger, self.venue), lambda: [0, 1], self.clock
        )
        self.order = make_order("gone")
        self.ledger.apply(Reserve(self.order, approve))
        self.leases.lapses = [Lapsed("gone", "1")]

    @property
    def state(self) -> OrderState:
        return self.ledger.orders[self.order.order_id].state

    async def look_for(self, seconds: float) -> None:
        """Looks in the usual pace."""
        for _ in range(round(seconds / LOOK_SEC)):
            async with asyncio.TaskGroup() as cancels:
                await self.watch.look(cancels)
            self.clock.moved += LOOK_SEC


@pytest.fixture
async def watch() -> Watch:
    return Watch()


async def test_open_orders_are_canceled_and_the_lease_forgotten_when_none_is_left(watch: Watch) -> None:
    await watch.look_for(LEASE_SEC + 5)
    held: Order = watch.ledger.orders[watch.order.order_id]
    assert (held.state, held.reason, held.cancels) == (OrderState.PENDING_CANCEL, DISCONNECTED, 1)
    assert watch.venue.sent == [f"{watch.order.order_id} cancel 1"]
    assert watch.leases.forgotten == []
    late = make_order("gone")
    watch.ledger.apply(Reserve(late, approve))
    await watch.look_for(1)
    assert watch.ledger.orders[late.order_id].state is OrderState.PENDING_CANCEL
    watch.ledger.orders.clear()
    await watch.look_for(LOOK_SEC)
    assert watch.leases.forgotten == [Lapsed("gone", "1")]


async def test_a_new_owner_gives_clients_a_lease_of_time_before_it_cancels(watch: Watch) -> None:
    await watch.look_for(LEASE_SEC)
    assert watch.state is OrderState.PENDING_NEW
    await watch.look_for(1)
    assert watch.state is OrderState.PENDING_CANCEL


async def test_an_owner_that_was_suspended_gives_clients_a_lease_of_time(watch: Watch) -> None:
    watch.leases.lapses = []
    await watch.look_for(LEASE_SEC + 5)
    watch.clock.moved += 60
    watch.leases.lapses = [Lapsed("gone", "1")]
    await watch.look_for(LEASE_SEC)
    assert watch.state is OrderState.PENDING_NEW
    await watch.look_for(1)
    assert watch.state is OrderState.PENDING_CANCEL


async def test_clients_that_could_not_renew_while_the_ledger_was_away_get_the_time_to_do_so(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disconnect, "LOOK_SEC", 0.001)
    watch.leases.lapses = []
    await watch.look_for(LEASE_SEC + 5)
    watch.leases.down = True
    running = asyncio.create_task(watch.watch.run())
    await eventually(lambda: not watch.watch._watched)
    watch.leases.lapses = [Lapsed("gone", "1")]
    watch.leases.down = False
    await eventually(lambda: 0 in watch.watch._watched)
    running.cancel()
    assert watch.state is OrderState.PENDING_NEW
    await watch.look_for(LEASE_SEC + 1)
    assert watch.state is OrderState.PENDING_CANCEL


async def test_cancels_that_could_not_be_recorded_are_asked_for_again(watch: Watch) -> None:
    await watch.look_for(LEASE_SEC)

    def down(command: object) -> None:
        raise LedgerUnavailable("down")

    watch.ledger.before = down
    await watch.look_for(1)
    assert watch.state is OrderState.PENDING_NEW
    watch.ledger.before = lambda _: None
    await watch.look_for(1)
    assert watch.state is OrderState.PENDING_CANCEL


async def test_cancels_that_take_long_keep_no_other_partition_from_being_looked_at(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disconnect, "LOOK_SEC", 0.001)
    begun, ended, other = asyncio.Event(), asyncio.Event(), make_order("other")
    watch.ledger.apply(Reserve(other, approve))
    read = watch.ledger.open_orders

    async def slow(account: str) -> tuple[Order, ...]:
        if account == "gone":
            begun.set()
            await ended.wait()
        return await read(account)

    watch.ledger.open_orders = slow  # type: ignore[method-assign]
    lapsed, watch.leases.lapses = watch.leases.lapses, []
    await watch.look_for(LEASE_SEC + LOOK_SEC)
    running = asyncio.create_task(watch.watch.run())
    watch.leases.lapses = lapsed
    await asyncio.wait_for(begun.wait(), 5)
    for _ in range(2 * round(LEASE_SEC / LOOK_SEC)):
        watch.clock.moved += LOOK_SEC
        watch.leases.looks = 0
        await eventually(lambda: watch.leases.looks >= 4)
    watch.leases.elsewhere = [Lapsed("other", "1")]
    await eventually(lambda: watch.ledger.orders[other.order_id].state is OrderState.PENDING_CANCEL)
    assert watch.state is OrderState.PENDING_NEW
    ended.set()
    await eventually(lambda: watch.state is OrderState.PENDING_CANCEL)
    running.cancel()


async def test_a_client_that_is_back_before_its_turn_keeps_its_orders(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disconnect, "LOOK_SEC", 0.001)
    ended, waiting = asyncio.Event(), [f"busy-{number}" for number in range(disconnect.AT_ONCE)]
    read = watch.ledger.open_orders

    async def slow(account: str) -> tuple[Order, ...]:
        if account in waiting:
            await ended.wait()
        return await read(account)

    watch.ledger.open_orders = slow  # type: ignore[method-assign]
    watch.leases.lapses = []
    await watch.look_for(LEASE_SEC + LOOK_SEC)
    running = asyncio.create_task(watch.watch.run())
    watch.leases.lapses = [*(Lapsed(account, "1") for account in waiting), Lapsed("gone", "1")]
    await eventually(lambda: "gone" in watch.watch._in_hand)
    watch.leases.lapses = []
    await eventually(lambda: not watch.watch._lapsed)
    ended.set()
    await eventually(lambda: not watch.watch._in_hand)
    assert watch.state is OrderState.PENDING_NEW
    running.cancel()


async def test_a_stream_renews_its_lease_unless_its_client_takes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(disconnect, "RENEW_SEC", 0.005)
    leases = MemoryLeases()
    attendance = Attendance()
    async with attended(leases, "here", attendance):
        await eventually(lambda: leases.renewed > 3)
        attendance.handed = 1
        await asyncio.sleep(0.03)
        stalled = leases.renewed
        await asyncio.sleep(0.03)
        assert leases.renewed == stalled
        attendance.taken = 1
        await eventually(lambda: leases.renewed > stalled)
        leases.down = True
        await asyncio.sleep(0.02)
        leases.down = False
        before = leases.renewed
        await eventually(lambda: leases.renewed > before)
    after = leases.renewed
    await asyncio.sleep(0.02)
    assert leases.renewed == after


class Backlog:
    """A drop copy that always has a message ready, so that it waits for its client only."""

    async def follow(
        self, account: str, after: int, *, holding: AbstractAsyncContextManager[object], **_: object
    ) -> AsyncIterator[int]:
        async with holding:
            while True:
                yield after


async def test_a_client_that_catches_up_keeps_its_lease_until_it_takes_nothing_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(disconnect, "RENEW_SEC", 0.02)
    leases = MemoryLeases()
    others: Any = None
    service = OrderService(SystemClock())
    drop_copies: Any = Backlog()
    service.attach(Desk(others, others, others, others, others, drop_copies, leases, ()))
    request = order_pb2.StreamExecutionsRequest(account="here", cancel_on_disconnect=True)
    stream = cast(AsyncGenerator[Any, None], service.StreamExecutions(request, None))

    async def take(until: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not until():
                await anext(stream)
                await asyncio.sleep(0.001)

    await take(lambda: leases.renewed >= 6)
    await asyncio.sleep(0.06)
    stalled = leases.renewed
    await asyncio.sleep(0.06)
    assert leases.renewed == stalled
    await take(lambda: leases.renewed > stalled)
    await stream.aclose()


async def test_a_stream_that_can_hold_no_lease_does_not_begin() -> None:
    leases = MemoryLeases()
    leases.down = True
    with pytest.raises(Unavailable):
        async with attended(leases, "here", Attendance()):
            pass
