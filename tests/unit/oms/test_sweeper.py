"""What the sweeper does with each kind of overdue order, and when it gives an amendment up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from services.ledger.commands import Command, ReportKind, Reserve, ReserveGroup
from services.ledger.deadline import GRACE_NS, due_ns
from services.ledger.errors import LedgerUnavailable
from services.ledger.groups import as_bracket
from services.ledger.order import Order, OrderState, Side
from services.ledger.reading import DueOrder
from services.oms.sweeper import AMENDMENT_REPEATS, PAGE, Sweeper
from services.runtime.clock import Clock, SystemClock
from services.runtime.publisher import PublishUnknown
from tests.unit.ledger.making import (
    abandon_amend,
    amend,
    fill,
    hold_prices,
    make_order,
    report,
    request_cancel,
)
from tests.unit.oms.memory import MemoryLedger, ScriptedVenue, approve

SECOND_NS = 1_000_000_000
MS = 1_000_000


class Hand(SystemClock):
    """Wall-clock time moved by hand."""

    def __init__(self) -> None:
        self.ns = 1_000 * SECOND_NS

    def now_ns(self) -> int:
        return self.ns


class DueLedger(MemoryLedger):
    """The deadline index as it follows from the records, but for what was put off."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.later: dict[str, tuple[int, int]] = {}
        """Of orders that were put off: the deadline that the record has, and the other one. Milliseconds."""

    async def due(self, partition: int, now_ns: int, limit: int = 100, skip: int = 0) -> tuple[DueOrder, ...]:
        index = ((self._due_ms(order), order) for order in self.orders.values())
        found = sorted(
            ((due_ms, order.order_id, order) for due_ms, order in index if due_ms is not None),
            key=lambda entry: entry[:2],
        )
        due = [DueOrder(name, due_ms, order) for due_ms, name, order in found if due_ms <= now_ns // MS]
        return tuple(due[skip : skip + limit])

    def _due_ms(self, order: Order) -> int | None:
        due = due_ns(order)
        if due is None:
            return None
        before, later = self.later.get(order.order_id, (0, 0))
        return later if before == due // MS else due // MS

    async def put_off(self, partition: int, due: DueOrder, until_ns: int) -> bool:
        order = self.orders[due.order_id]
        due_of_record = due_ns(order)
        if due_of_record is None or self._due_ms(order) != due.due_ms:
            return False
        self.later[due.order_id] = (due_of_record // MS, until_ns // MS)
        return True


class Partition:
    """One order, and a sweeper."""

    def __init__(self, expire_sec: int = 0) -> None:
        self.clock = Hand()
        self.ledger = DueLedger(self.clock)
        self.venue = ScriptedVenue()
        self.connected = True
        self.sweeper = Sweeper(self.ledger, self.venue, lambda: self.connected, lambda: [0], self.clock)
        expire_ns = self.clock.ns + expire_sec * SECOND_NS if expire_sec else 0
        self.id = make_order("acc", "10", expire_ns=expire_ns).order_id
        order = make_order("acc", "10", order_id=self.id, expire_ns=expire_ns)
        self.ledger.apply(Reserve(order, approve))

    @property
    def order(self) -> Order:
        return self.ledger.orders[self.id]

    def do(self, *commands: Callable[[Order], Command]) -> None:
        for command in commands:
            self.ledger.apply(command(self.order))

    async def after_grace(self, times: int = 1) -> list[str]:
        """What was sent by sweeps once a grace, that many times."""
        return await self.sweep_every(GRACE_NS, times)

    async def sweep_every(self, pause_ns: int, times: int) -> list[str]:
        """What was sent by so many sweeps, each that long after the one before."""
        already = len(self.venue.sent)
        for _ in range(times):
            self.clock.ns += pause_ns
            await self.sweeper.sweep(0)
        return self.venue.sent[already:]


def accepted(order: Order) -> Command:
    return report(ReportKind.ACCEPTED, order, 1)


def amended(order: Order) -> Command:
    return amend(order, order.revision + 1, "20", "120", approve, request_id="gone")


@pytest.fixture
async def partition() -> Partition:
    return Partition()


async def test_an_order_that_the_venue_never_answered_is_canceled_again_and_again(
    partition: Partition,
) -> None:
    assert await partition.after_grace(4) == [f"{partition.id} cancel {n}" for n in (1, 2, 3)]
    assert (partition.order.state, partition.order.reason) == (OrderState.PENDING_CANCEL, "venue_silent")


async def test_a_venue_that_is_away_for_an_hour_is_asked_ever_more_rarely(partition: Partition) -> None:
    sent = await partition.sweep_every(SECOND_NS // 2, 2 * 3600)
    assert sent == [f"{partition.id} cancel {number}" for number in range(1, 18)]


async def test_nothing_is_asked_for_while_it_could_not_be_sent(partition: Partition) -> None:
    partition.connected = False
    assert await partition.after_grace(20) == []
    assert partition.order.state is OrderState.PENDING_NEW
    partition.connected = True
    assert await partition.sweep_every(0, 1) == [f"{partition.id} cancel 1"]


async def test_nothing_is_swept_before_its_grace(partition: Partition) -> None:
    partition.do(accepted, amended)
    partition.clock.ns += GRACE_NS - 1
    assert await partition.sweeper.sweep(0) == 0


async def test_a_stuck_cancel_keeps_its_reason_when_it_is_repeated(partition: Partition) -> None:
    partition.do(accepted, request_cancel)
    assert await partition.after_grace() == [f"{partition.id} cancel 2"]
    assert partition.order.reason == "requested"


async def test_an_overdue_amendment_is_sent_again_and_then_its_order_canceled(partition: Partition) -> None:
    partition.do(accepted, amended)
    again = await partition.after_grace(AMENDMENT_REPEATS)
    assert again == [f"{partition.id} 1 20 120"] * AMENDMENT_REPEATS
    assert partition.order.state is OrderState.PENDING_REPLACE
    assert await partition.after_grace() == [f"{partition.id} cancel 1"]
    assert (partition.order.state, partition.order.reason) == (OrderState.PENDING_CANCEL, "venue_silent")


async def test_an_amendment_answered_after_a_repeat_is_left_alone(partition: Partition) -> None:
    partition.do(accepted, amended)
    await partition.after_grace()
    partition.do(lambda order: report(ReportKind.REPLACED, order, 2, revision=1))
    assert await partition.after_grace(3) == []
    assert (partition.order.state, partition.order.terms.quantity) == (OrderState.NEW, 20)


async def test_an_amendment_that_was_taken_back_is_not_sent(partition: Partition) -> None:
    partition.do(accepted, amended, lambda order: abandon_amend(order, 1, "gone"))
    assert await partition.after_grace(3) == []


async def test_a_repeat_that_the_journal_does_not_acknowledge_comes_again(partition: Partition) -> None:
    partition.do(accepted, amended)
    partition.venue.raises = [PublishUnknown("silence")]
    assert await partition.after_grace(2) == [f"{partition.id} 1 20 120"] * 2


async def test_an_amended_order_whose_time_is_over_is_canceled_as_expired() -> None:
    partition = Partition(expire_sec=3)
    partition.do(accepted, amended)
    assert await partition.after_grace() == [f"{partition.id} 1 20 120"]
    assert await partition.after_grace() == [f"{partition.id} cancel 1"]
    assert partition.order.reason == "expired"


async def test_a_working_order_whose_expiry_is_not_reported_is_canceled_as_expired() -> None:
    partition = Partition(expire_sec=3)
    partition.do(accepted)
    assert await partition.after_grace() == []
    assert await partition.after_grace() == [f"{partition.id} cancel 1"]
    assert partition.order.reason == "expired"


async def test_an_order_that_has_moved_on_is_not_canceled_for_what_the_index_says(
    partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition.do(accepted)

    async def stale(number: int, now_ns: int, limit: int = 100, skip: int = 0) -> tuple[DueOrder, ...]:
        return (DueOrder(partition.id, 1, replace(partition.order, state=OrderState.NEW)),)[skip:]

    monkeypatch.setattr(partition.ledger, "due", stale)
    assert await partition.after_grace() == []


async def test_what_cannot_be_moved_on_keeps_nobody_behind_it_waiting(partition: Partition) -> None:
    for _ in range(2 * PAGE):
        partition.ledger.apply(Reserve(make_order("locked", "1"), approve))
    partition.clock.ns += SECOND_NS
    last = make_order("acc", "1")
    partition.ledger.apply(Reserve(last, approve))

    def locked(command: Command) -> None:
        if command.account == "locked":
            raise LedgerUnavailable("away")

    partition.ledger.before = locked
    assert await partition.after_grace() == [f"{partition.id} cancel 1", f"{last.order_id} cancel 1"]


class TestExits:
    """A bracket whose entry was filled, and whose exits nobody has sent."""

    @pytest.fixture
    def exits(self, partition: Partition) -> list[Order]:
        expire_ns = partition.clock.ns + 20 * SECOND_NS
        orders = as_bracket(
            make_order("acc", "10"),
            [
                make_order("acc", "10", side=Side.SELL, price=price, expire_ns=expire_ns)
                for price in ("90", "110")
            ],
        )
        partition.ledger.orders.clear()
        partition.ledger.apply(ReserveGroup(orders, hold_prices))
        partition.ledger.apply(fill(orders[0], 1, "10"))
        return list(orders[1:])

    async def test_an_exit_that_the_venue_has_not_confirmed_is_sent_again_with_its_sibling(
        self, partition: Partition, exits: list[Order]
    ) -> None:
        first, second = (order.order_id for order in exits)
        again = [f"{first} {second} activated", f"{second} {first} activated"]
        assert sorted(await partition.after_grace(2)) == sorted(again * 2)

    async def test_an_exit_that_was_canceled_while_it_waited_is_never_sent(
        self, partition: Partition, exits: list[Order]
    ) -> None:
        alone, canceled = exits
        held = partition.ledger.orders[canceled.order_id]
        partition.ledger.orders[canceled.order_id] = replace(held, state=OrderState.CANCELED)
        assert await partition.after_grace() == [f"{alone.order_id} activated"]

    async def test_an_exit_is_sent_ever_more_rarely_to_a_venue_that_is_away_for_an_hour(
        self, partition: Partition, exits: list[Order]
    ) -> None:
        for order in exits:
            partition.ledger.orders[order.order_id] = replace(
                partition.ledger.orders[order.order_id], expire_ns=0
            )
        assert len(await partition.sweep_every(SECOND_NS // 2, 2 * 3600)) == 2 * 17

    async def test_an_exit_that_the_journal_does_not_take_is_sent_again_after_a_grace(
        self, partition: Partition, exits: list[Order]
    ) -> None:
        partition.venue.raises = [PublishUnknown("silence")] * 4
        assert len(await partition.after_grace(3)) == 6

    async def test_an_exit_whose_cancel_is_not_answered_is_canceled_again(
        self, partition: Partition, exits: list[Order]
    ) -> None:
        partition.ledger.apply(request_cancel(exits[0]))
        sent = await partition.after_grace()
        assert f"{exits[0].order_id} cancel 2" in sent

    async def test_an_exit_whose_time_is_over_is_canceled(
        self, partition: Partition, exits: list[Order]
    ) -> None:
        await partition.after_grace(4)
        canceled = await partition.after_grace()
        assert sorted(canceled) == sorted(f"{order.order_id} cancel 1" for order in exits)
        assert partition.ledger.orders[exits[0].order_id].reason == "expired"
