"""Venue reports into the ledger: in order, each once, none skipped.

The worker that owns a partition reads the partition's part of stream EXECUTIONS from its checkpoint on. Each
account has a lane: its reports are committed in the order of the stream, and a report goes out only when
every earlier one of the account is known to be committed, or together with it. That is what makes the
ledger's rule safe that a sequence at or below the account's last applied one is a repetition. Lanes do not
wait for each other; what gathers in a lane while a commit is in flight leaves with the next one.

The checkpoint is what lies before the oldest report that is not committed. It may be old: the ledger
recognises what it has applied.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from itertools import islice
from typing import Any, Final, Protocol

from services.dead_letters import EXECUTIONS_SUBJECT, DeadLetters, refusal
from services.ledger.account import Account
from services.ledger.commands import ApplyReport, Command, Outcome, ReportKind
from services.ledger.errors import LedgerError
from services.ledger.order import Order
from services.oms.report_decoding import decode_report
from services.oms.report_record import note_applied
from services.runtime.journal_reader import Message, StreamReader, StreamRegressed
from services.runtime.nats_client import NatsClient
from services.runtime.publisher import Publisher, PublishRefused, PublishUnknown
from services.runtime.streams import EXECUTIONS
from services.runtime.tasks import end
from services.runtime.telemetry import counter, gauge, get_logger

FLIGHT: Final = 64
"""Reports of one account in one commit, at most."""
MAX_WAITING: Final = 8_192
"""Reports of a partition that may be read and not committed."""
RETRY_SEC: Final = 0.1
CHECKPOINT_SEC: Final = 1.0
"""How old a checkpoint may be: after a takeover so many reports are read and recognised once more."""
REGRESSED_WAIT_SEC: Final = 5.0
PATIENCE_SEC: Final = 365 * 86_400.0
"""Reports have no deadline: the ledger tries until a commit is answered."""

_retries: Final = counter("oms_report_retries", "Commits of reports that had to be tried again.")
_disordered: Final = counter("oms_reports_out_of_order", "Reports that overtook a failed one; must stay 0.")
_waiting: Final = gauge("oms_reports_waiting", "Reports read and not committed.")

_log = get_logger("oms.reports")


class Ledger(Protocol):
    """What the consumer needs of the account ledger."""

    @property
    def life(self) -> str: ...

    def submit(self, command: Command, timeout: float = 1.0, life: str = "") -> "asyncio.Future[Outcome]": ...

    async def checkpoint(self, partition: int) -> int: ...

    async def set_checkpoint(self, partition: int, sequence: int, life: str) -> None: ...

    async def order(self, order_id: str) -> Order | None: ...

    async def account(self, account: str, *, fresh: bool = False) -> Account | None: ...


Own = Callable[[Coroutine[Any, Any, Any], str], "asyncio.Task[Any]"]
"""Starts a background task whose death is fatal (`WorkerContext.own`)."""


class _Lane:
    """One account's reports, in order; at most one commit in flight."""

    __slots__ = ("_flight", "_futures", "_left", "_partition", "account", "reports")

    def __init__(self, partition: "_Partition", account: str) -> None:
        self._partition = partition
        self.account = account
        self.reports: deque[tuple[ApplyReport, Message]] = deque()
        """Not committed yet, oldest first."""
        self._flight: list[ApplyReport] = []
        self._futures: list[asyncio.Future[Outcome]] = []
        self._left = 0

    @property
    def idle(self) -> bool:
        return not self._flight

    def depart(self) -> None:
        """Sends what has gathered; called when nothing is in flight."""
        partition = self._partition
        if partition.stopped:
            return
        self._flight = [report for report, _ in islice(self.reports, FLIGHT)]
        self._left = len(self._flight)
        # All in one turn of the loop, so that they are one commit: it happens whole or not at all.
        self._futures = [
            partition.ledger.submit(report, PATIENCE_SEC, partition.life) for report in self._flight
        ]
        for future in self._futures:
            future.add_done_callback(self._landed)

    def _landed(self, _landed: "asyncio.Future[Outcome]") -> None:
        self._left -= 1
        if self._left:
            return
        flight, futures = self._flight, self._futures
        self._flight, self._futures = [], []
        failed: LedgerError | None = None
        before = len(self.reports)
        errors = [future.exception() for future in futures]
        committed = [place for place, error in enumerate(errors) if not isinstance(error, LedgerError)]
        last_committed = committed[-1] if committed else -1
        for place, (report, error, future) in enumerate(zip(flight, errors, futures, strict=True)):
            if isinstance(error, LedgerError) and place > last_committed:
                failed = error
                break
            _, message = self.reports.popleft()
            if isinstance(error, LedgerError):
                # Its commit failed and a later one did not: repeating it now would be taken for a repetition.
                self._partition.overtaken(report, message)
            elif error is not None:
                _log.error("report cannot be applied", account=self.account, exc_info=error)
                self._partition.bury(message, f"{type(error).__name__} while it was applied")
            else:
                note_applied(report, future.result())
        if failed is not None:
            self._partition.retry(self, failed)
        elif self.reports:
            self.depart()
        self._partition.moved(self, before - len(self.reports))


class _Partition:
    """The consumer of one partition."""

    def __init__(self, number: int, consumer: "ReportConsumer") -> None:
        self.number = number
        self.consumer = consumer
        self.ledger = consumer.ledger
        self.stopped = False
        self.life = ""
        """Life of the ledger's data that holds what was read before; in another one it may be missing."""
        self.read = 0
        """Sequence of the last message taken from the stream."""
        self.saved = 0
        self.lanes: dict[str, _Lane] = {}
        self.buried: set[int] = set()
        """Sequences on their way to the dead letters."""
        self.waiting = 0
        self._room = asyncio.Event()
        self._room.set()
        self._burials: set[asyncio.Task[None]] = set()
        self.task: asyncio.Task[Any] | None = None

    async def run(self) -> None:
        """Reads and applies until cancelled."""
        while True:
            try:
                life = self.ledger.life
                self.read = self.saved = await self.ledger.checkpoint(self.number)
                self.life = life
                break
            except LedgerError as error:
                _log.warning("checkpoint not readable", partition=self.number, error=str(error))
                await asyncio.sleep(RETRY_SEC)
        while True:
            try:
                await self._follow()
            except StreamRegressed as error:
                # New reports would carry numbers that were applied already: an operator has to decide.
                _log.error("EXECUTIONS lost reports", partition=self.number, error=str(error))
                self.consumer.regressed(str(error))
                await asyncio.sleep(REGRESSED_WAIT_SEC)

    async def _follow(self) -> None:
        consumer = self.consumer
        subjects = consumer.subjects(self.number)
        async with StreamReader(
            consumer.nats, EXECUTIONS, subjects=subjects, start_sequence=self.read + 1
        ) as reader:
            async for batch in reader.batches():
                for message in batch:
                    self._take(message)
                self.read = batch[-1].sequence
                if self.waiting >= MAX_WAITING:
                    self._room.clear()
                    await self._room.wait()

    def _take(self, message: Message) -> None:
        try:
            report = decode_report(message)
        except Exception as error:
            self.bury(message, refusal(error, sequence=message.sequence))
            return
        lane = self.lanes.get(report.account)
        if lane is None:
            lane = self.lanes[report.account] = _Lane(self, report.account)
        lane.reports.append((report, message))
        self.waiting += 1
        if lane.idle and len(lane.reports) == 1:
            # After the rest of this batch: what arrived together is committed together.
            asyncio.get_running_loop().call_soon(self._start, lane)

    def _start(self, lane: _Lane) -> None:
        if lane.idle and lane.reports:
            lane.depart()

    def moved(self, lane: _Lane, committed: int) -> None:
        """A lane's commit was answered: so many of its reports are done with."""
        if not lane.reports:
            self.lanes.pop(lane.account, None)
        if self.stopped:
            return
        self.waiting -= committed
        if self.waiting < MAX_WAITING // 2:
            self._room.set()

    def retry(self, lane: _Lane, error: LedgerError) -> None:
        """A lane's commit failed: it is tried again, from the first report that is not committed."""
        _retries.inc()
        _log.warning(
            "reports not committed; trying again",
            account=lane.account,
            sequence=lane.reports[0][0].stream_seq,
            error=f"{type(error).__name__}: {error}",
        )
        if not self.stopped:
            asyncio.get_running_loop().call_later(RETRY_SEC, self._start, lane)

    def overtaken(self, report: ApplyReport, message: Message) -> None:
        """A report failed although a later one of the account was committed: whether it is booked is found
        out, and an operator is told when it is not."""
        _disordered.inc()
        _log.error("report overtaken by a later one", account=report.account, sequence=report.stream_seq)
        self.buried.add(message.sequence)
        self._run_burial(self._look_for(report, message))

    async def _look_for(self, report: ApplyReport, message: Message) -> None:
        booked: bool | None = None
        while booked is None:
            try:
                booked = await self._is_booked(report)
            except LedgerError:
                await asyncio.sleep(RETRY_SEC)
        if booked:
            self.buried.discard(message.sequence)
            return
        self.consumer.regressed(f"report {report.stream_seq} of account {report.account} is not booked")
        self.bury(message, "overtaken by a later report of the account; not booked")

    async def _is_booked(self, report: ApplyReport) -> bool:
        """Whether a fill is known by its id. Of other reports nothing is kept: the answer is no."""
        if report.kind is not ReportKind.FILL:
            return False
        order = await self.ledger.order(report.order_id) if report.order_id else None
        if order is not None and report.exec_id in order.exec_ids:
            return True
        account = await self.ledger.account(report.account, fresh=True)
        return account is not None and report.exec_id in account.foreign_exec_ids

    def _run_burial(self, work: Coroutine[Any, Any, None]) -> None:
        burial = asyncio.get_running_loop().create_task(work, name="dead letter")
        self._burials.add(burial)
        burial.add_done_callback(self._burials.discard)

    def bury(self, message: Message, reason: str) -> None:
        """Sends a message that cannot be applied to the dead letters; it does not hold up the others."""
        _log.warning("dead letter", sequence=message.sequence, subject=message.subject, reason=reason)
        self.buried.add(message.sequence)
        self._run_burial(self._publish_dead(message, reason))

    async def _publish_dead(self, message: Message, reason: str) -> None:
        while not self.stopped:
            try:
                await self.consumer.dead_letters.put(message, reason)
            except PublishRefused as error:
                if self.consumer.nats.is_connected:
                    # The stream is full. The message is still in EXECUTIONS, under the logged sequence.
                    _log.error("dead letter refused", sequence=message.sequence, error=str(error))
                    break
                await asyncio.sleep(RETRY_SEC)
            except PublishUnknown:
                await asyncio.sleep(RETRY_SEC)
            else:
                break
        else:
            return
        self.buried.discard(message.sequence)

    @property
    def committed(self) -> int:
        """Sequence up to which nothing is left to do."""
        pending = [lane.reports[0][1].sequence for lane in self.lanes.values() if lane.reports]
        pending.extend(self.buried)
        return min(pending) - 1 if pending else self.read

    async def save(self) -> None:
        """Records the checkpoint, when it has moved. Raises `LedgerError`."""
        committed = self.committed
        if committed > self.saved:
            await self.ledger.set_checkpoint(self.number, committed, self.life)
            self.saved = committed

    async def stop(self) -> None:
        """Ends the reading; commits in flight go on by themselves and are recognised when repeated."""
        self.stopped = True
        if self.task is not None:
            await end(self.task)
        try:
            await self.save()
        except LedgerError as error:
            _log.warning("checkpoint not saved", partition=self.number, error=str(error))


class ReportConsumer:
    """Applies the reports of the partitions that this worker owns (a `PartitionListener`)."""

    def __init__(
        self,
        nats: NatsClient,
        ledger: Ledger,
        publisher: Publisher,
        own: Own,
        *,
        fill_subject: str = "fills.>",
        regressed: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`fill_subject` names the fills that are read; `regressed` is told when EXECUTIONS lost reports."""
        self.nats = nats
        self.ledger = ledger
        self.dead_letters = DeadLetters(publisher, EXECUTIONS_SUBJECT, EXECUTIONS)
        self.regressed = regressed
        self._own = own
        self._fill_subject = fill_subject
        self._owned: set[int] = set()
        self._partitions: dict[int, _Partition] = {}

    def subjects(self, partition: int) -> tuple[str, ...]:
        """What is read of a partition."""
        if self._fill_subject == "fills.>":
            return (f"{partition}.>",)
        return (f"{partition}.{self._fill_subject}", f"{partition}.executions.>")

    async def acquired(self, partition: int, fence: int) -> None:
        """Starts to consume `partition`."""
        self._owned.add(partition)
        self._start(partition)

    def _start(self, partition: int) -> None:
        if partition in self._partitions:
            return
        consumer = self._partitions[partition] = _Partition(partition, self)
        consumer.task = self._own(consumer.run(), f"reports {partition}")

    async def lost(self, partition: int) -> None:
        """Stops consuming `partition`."""
        self._owned.discard(partition)
        await self._stop(partition)

    async def _stop(self, partition: int) -> None:
        consumer = self._partitions.pop(partition, None)
        if consumer is not None:
            await consumer.stop()

    async def run(self) -> None:
        """Records the checkpoints until cancelled."""
        while True:
            await asyncio.sleep(CHECKPOINT_SEC)
            _waiting.set(sum(consumer.waiting for consumer in self._partitions.values()))
            await asyncio.gather(*(self._save(consumer) for consumer in self._partitions.values()))
            for consumer in list(self._partitions.values()):
                if consumer.life and consumer.life != self.ledger.life:
                    await self._start_again(consumer.number)

    async def _start_again(self, partition: int) -> None:
        """The ledger may have lost what was committed: its checkpoint tells where to go on."""
        _log.warning("reports are read again from the checkpoint", partition=partition)
        await self._stop(partition)
        if partition in self._owned:
            self._start(partition)

    async def _save(self, consumer: _Partition) -> None:
        try:
            await consumer.save()
        except LedgerError as error:
            _log.debug("checkpoint not saved", partition=consumer.number, error=str(error))
