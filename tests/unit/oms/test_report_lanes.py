"""Lanes: reports of an account are committed in order, none is skipped, none overtakes unnoticed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest

from services.ledger.account import Account
from services.ledger.commands import ApplyReport, Command, Effect, Outcome
from services.ledger.errors import CommitUnknown, LedgerUnavailable
from services.ledger.order import Order
from services.oms import reports
from services.oms.report_decoding import decode_report
from services.oms.reports import ReportConsumer
from services.runtime.journal_reader import Message
from services.runtime.publisher import PublishUnknown
from tests.support import eventually

Behaviour = Callable[[ApplyReport], Exception | None]


@dataclass
class Ledger:
    """Answers each turn's commands together; `behave` says which of them fail."""

    behave: Behaviour = lambda _: None
    life: str = "first"
    turns: list[list[int]] = field(default_factory=list)
    booked: set[str] = field(default_factory=set)
    checkpoints: list[int] = field(default_factory=list)
    _turn: list[tuple[ApplyReport, asyncio.Future[Outcome]]] = field(default_factory=list)

    def submit(self, command: Command, timeout: float = 1.0, life: str = "") -> asyncio.Future[Outcome]:
        assert isinstance(command, ApplyReport)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()
        if not self._turn:
            loop.call_later(0.005, self._answer)
        self._turn.append((command, future))
        return future

    def _answer(self) -> None:
        turn, self._turn = self._turn, []
        self.turns.append([command.stream_seq for command, _ in turn])
        for command, future in turn:
            error = self.behave(command)
            if error is None:
                self.booked.add(command.exec_id)
                future.set_result(Outcome(Effect.DONE))
            else:
                future.set_exception(error)

    async def checkpoint(self, partition: int) -> int:
        return 0

    async def set_checkpoint(self, partition: int, sequence: int, life: str) -> None:
        self.checkpoints.append(sequence)

    async def order(self, order_id: str) -> Order | None:
        return None

    async def account(self, account: str, *, fresh: bool = False) -> Account | None:
        return Account(account, "i", Decimal(1), Decimal(1), foreign_exec_ids=tuple(self.booked))


@dataclass
class Publisher:
    """Takes dead letters; `failures` come first."""

    letters: list[dict[str, Any]] = field(default_factory=list)
    failures: int = 0

    async def publish(self, subject: str, payload: bytes, msg_id: str) -> None:
        if self.failures:
            self.failures -= 1
            raise PublishUnknown("silence")
        self.letters.append(json.loads(payload))


def own(work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(work, name=name)


@dataclass
class Desk:
    ledger: Ledger
    publisher: Publisher
    partition: Any
    told: list[str]

    def take(self, sequence: int, account: str = "a", data: bytes | None = None) -> None:
        fill = {"account": account, "symbol": "BTCUSDT", "side": "buy", "quantity": 1, "price": 1}
        fill["fill_id"] = f"f{sequence}"
        payload = json.dumps(fill).encode() if data is None else data
        self.partition._take(Message(sequence, f"3.fills.{account}", payload, None, 1))
        self.partition.read = sequence

    async def settled(self) -> None:
        await eventually(lambda: not self.partition.lanes and not self.partition.buried, within_sec=3)


@pytest.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(reports, "RETRY_SEC", 0.01)
    ledger, publisher, told = Ledger(), Publisher(), list[str]()
    consumer = ReportConsumer(None, ledger, publisher, own, regressed=told.append)  # type: ignore[arg-type]
    return Desk(ledger, publisher, reports._Partition(3, consumer), told)


async def test_what_arrives_together_is_committed_together_and_the_rest_with_the_next_commit(
    desk: Desk,
) -> None:
    for sequence in (1, 2, 3):
        desk.take(sequence)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    desk.take(4)
    desk.take(5)
    await desk.settled()
    assert desk.ledger.turns == [[1, 2, 3], [4, 5]]
    assert desk.partition.committed == 5


async def test_a_commit_holds_a_bounded_number_of_reports(desk: Desk) -> None:
    for sequence in range(1, 2 * reports.FLIGHT + 2):
        desk.take(sequence)
    await desk.settled()
    assert [len(turn) for turn in desk.ledger.turns] == [reports.FLIGHT, reports.FLIGHT, 1]


@pytest.mark.parametrize("error", [LedgerUnavailable("away"), CommitUnknown("silence")])
async def test_a_failed_commit_is_tried_again_whole_and_nothing_passes_it(
    desk: Desk, error: Exception
) -> None:
    failures = 3

    def fails(report: ApplyReport) -> Exception | None:
        nonlocal failures
        if report.stream_seq == 1 and failures:
            failures -= 1
        return error if failures else None

    desk.ledger.behave = fails
    for sequence in (1, 2):
        desk.take(sequence)
    await asyncio.sleep(0.008)
    desk.take(3)
    assert desk.partition.committed == 0
    await desk.settled()
    assert desk.ledger.turns[0] == [1, 2]
    assert all(turn[0] == 1 for turn in desk.ledger.turns[:-1])
    assert [one for turn in desk.ledger.turns[-1:] for one in turn][-1] == 3
    assert desk.ledger.booked == {"f1", "f2", "f3"}
    assert desk.partition.committed == 3
    assert desk.told == []


async def test_accounts_do_not_wait_for_each_other_and_the_checkpoint_waits_for_the_oldest(
    desk: Desk,
) -> None:
    desk.ledger.behave = lambda report: LedgerUnavailable("away") if report.account == "a" else None
    desk.take(1, "a")
    desk.take(2, "b")
    desk.take(3, "b")
    await eventually(lambda: desk.ledger.booked == {"f2", "f3"}, within_sec=3)
    assert desk.partition.committed == 0
    desk.ledger.behave = lambda _: None
    await desk.settled()
    assert desk.partition.committed == 3
    await desk.partition.save()
    assert desk.ledger.checkpoints == [3]


async def test_a_report_that_the_rules_refuse_is_set_aside_and_the_others_are_committed(desk: Desk) -> None:
    desk.ledger.behave = lambda report: ValueError("no") if report.stream_seq == 2 else None
    for sequence in (1, 2, 3):
        desk.take(sequence)
    await desk.settled()
    assert desk.ledger.booked == {"f1", "f3"}
    assert [letter["sequence"] for letter in desk.publisher.letters] == [2]


async def test_a_report_whose_reading_fails_in_whatever_way_is_set_aside_and_holds_up_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails_at_the_first(message: Message) -> ApplyReport:
        if message.sequence == 1:
            raise KeyError("a fault of this program")
        return decode_report(message)

    monkeypatch.setattr(reports, "decode_report", fails_at_the_first)
    for sequence in (1, 2):
        desk.take(sequence)
    await desk.settled()
    assert desk.ledger.booked == {"f2"}
    assert [(one["sequence"], one["reason"]) for one in desk.publisher.letters] == [
        (1, "internal error: KeyError")
    ]
    assert desk.partition.committed == 2


async def test_a_dead_letter_holds_the_checkpoint_until_it_is_stored(desk: Desk) -> None:
    desk.publisher.failures = 3
    desk.take(1, data=b"garbage")
    desk.take(2)
    await eventually(lambda: desk.ledger.booked == {"f2"}, within_sec=3)
    await desk.settled()
    assert [letter["sequence"] for letter in desk.publisher.letters] == [1]
    assert desk.partition.committed == 2


async def test_a_fill_that_was_overtaken_and_is_not_booked_is_never_lost_in_silence(desk: Desk) -> None:
    desk.ledger.behave = lambda report: LedgerUnavailable("full") if report.stream_seq == 1 else None
    for sequence in (1, 2):
        desk.take(sequence)
    await desk.settled()
    assert desk.ledger.turns == [[1, 2]]
    (letter,) = desk.publisher.letters
    assert letter["sequence"] == 1
    assert "not booked" in letter["reason"]
    assert desk.told == ["report 1 of account a is not booked"]


async def test_an_overtaken_fill_that_is_booked_after_all_is_fine(desk: Desk) -> None:
    desk.ledger.booked.add("f1")
    desk.ledger.behave = lambda report: CommitUnknown("silence") if report.stream_seq == 1 else None
    for sequence in (1, 2):
        desk.take(sequence)
    await desk.settled()
    assert desk.publisher.letters == []
    assert desk.told == []


async def test_a_stopped_partition_sends_nothing_more(desk: Desk) -> None:
    desk.ledger.behave = lambda _: LedgerUnavailable("away")
    desk.take(1)
    await eventually(lambda: len(desk.ledger.turns) >= 2, within_sec=3)
    await desk.partition.stop()
    await asyncio.sleep(0.02)
    turns = len(desk.ledger.turns)
    await asyncio.sleep(0.05)
    assert len(desk.ledger.turns) == turns
    assert desk.ledger.checkpoints == []


async def test_another_life_of_the_ledger_is_read_from_its_checkpoint_and_committed_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reports, "CHECKPOINT_SEC", 0.01)
    followed: list[tuple[str, int]] = []

    async def follow(partition: reports._Partition) -> None:
        followed.append((partition.life, partition.read))
        partition.read = 17
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(reports._Partition, "_follow", follow)
    ledger, publisher = Ledger(), Publisher()
    consumer = ReportConsumer(None, ledger, publisher, own)  # type: ignore[arg-type]
    running = own(consumer.run(), "checkpoints")
    await consumer.acquired(3, 1)
    await eventually(lambda: followed == [("first", 0)])
    ledger.life = "second"
    await eventually(lambda: followed == [("first", 0), ("second", 0)])
    await consumer.lost(3)
    ledger.life = "third"
    await asyncio.sleep(0.05)
    assert len(followed) == 2
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
