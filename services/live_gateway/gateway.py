"""The venue at work: what arrives goes to the engine, what it decides into the journal, then into the
outboxes.

All of it happens in one event loop. The engine runs ahead in memory; nothing that it decides is told before
its transaction is in the journal, and while one transaction is written the next one gathers. Whatever goes
wrong with the journal ends the process: the next one starts from what is in the file.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from services import dead_letters
from services.live_gateway import intake, metrics, records
from services.live_gateway.engine import Engine
from services.live_gateway.journal import Entry, Journal
from services.live_gateway.memory import OrderMemory
from services.live_gateway.orders import Changes, Decision, SeenOrder, Trade
from services.live_gateway.outbox import Outbox, Waiting
from services.live_gateway.positions import Movement, PositionTable, of_trade
from services.live_gateway.records import Facts, Outgoing
from services.live_gateway.reports import outgoing
from services.messages import BadMessage, NewOrder, Tick, decode
from services.runtime.clock import Clock
from services.runtime.journal_reader import Message
from services.runtime.streams import ORDERS
from services.runtime.telemetry import get_logger

REPORTS_LANE: Final = "executions"
LETTERS_LANE: Final = "deadletter"
MAX_UNTOLD: Final = 20_000
"""Reports that may wait to be journaled and published before no more orders are taken."""
MAX_LETTERS: Final = 10_000
"""Dead letters that may wait; further ones are dropped, so that a full stream of them stops no order."""
_LAZY_SEC: Final = 0.2
"""How long what needs no hurry (a mark, a publication) waits for a transaction of its own."""
_LONGEST_SLEEP_SEC: Final = 1.0

_log = get_logger("live_gateway")


class Gateway:
    """Engine, journal and outboxes put together. Everything is called from one event loop."""

    def __init__(
        self,
        engine: Engine,
        memory: OrderMemory,
        journal: Journal,
        facts: Facts,
        published: PositionTable,
        clock: Clock,
        next_batch: int,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """`published`: positions as of the reports in EXECUTIONS up to `facts.executions_seq`.

        `on_failure` ends the process: it is told of a fault where no task can raise it.
        """
        self.engine = engine
        self.facts = facts
        self.published = published
        self._memory = memory
        self._journal = journal
        self._clock = clock
        self._lanes: dict[str, Outbox] = {}
        self._next_batch = next_batch
        self._on_failure = on_failure
        self._dropped: dict[str, int] = {}
        self._letters: list[Outgoing] = []
        self._loop = asyncio.get_running_loop()
        self._dirty = asyncio.Event()
        self._progress = asyncio.Event()
        self._writing = False
        self._oldest_ns = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0
        self._lazy: asyncio.TimerHandle | None = None
        self._journaled_orders = (facts.orders_created, facts.orders_seq)

    def attach(self, reports: Outbox, letters: Outbox) -> None:
        """Gives it the outboxes, which already hold what was journaled and not published."""
        self._lanes = {REPORTS_LANE: reports, LETTERS_LANE: letters}
        self.set_timer()

    @property
    def untold(self) -> int:
        """Reports and dead letters that are not known to be in their streams."""
        waiting = sum(lane.size for lane in self._lanes.values())
        return self.engine.undisclosed + len(self._letters) + waiting

    @property
    def executions_position(self) -> tuple[int, str]:
        """Where in EXECUTIONS `published` stands: its sequence, and when that stream was created."""
        reports = self._lanes[REPORTS_LANE]
        return reports.sequence, reports.created

    @property
    def orders_journaled(self) -> tuple[int, str]:
        """Up to where in ORDERS every decision is in the journal, and when that stream was created."""
        created, sequence = self._journaled_orders
        return sequence, created

    def recall(self, order_id: str) -> SeenOrder | None:
        """An order that has ended, None when it is not in memory."""
        return self._memory.recall(order_id)

    async def take(self, messages: Sequence[Message]) -> None:
        """Decides on messages of ORDERS, in order. Waits while too much is untold."""
        while self.engine.undisclosed + self._lanes[REPORTS_LANE].size >= MAX_UNTOLD:
            self._progress.clear()
            await self._progress.wait()
        requests: list[intake.Request | str] = []  # or why it is none
        for message in messages:
            try:
                requests.append(intake.read(message.subject, message.data))
            except Exception as error:
                requests.append(dead_letters.refusal(error, sequence=message.sequence))
        await self._look_up(
            [order_id for one in requests if not isinstance(one, str) for order_id in intake.order_ids(one)]
        )
        now_ns = self._clock.now_ns()
        self.engine.advance(now_ns)
        for message, request in zip(messages, requests, strict=True):
            if isinstance(request, str):
                self._give_up(message, request, now_ns)
                continue
            if isinstance(request, NewOrder):
                _note_received(request, message.sequence)
                if request.sibling is not None:
                    _note_received(request.sibling, message.sequence)
            wrong = self._decide(request, now_ns)
            if wrong:
                self._give_up(message, wrong, now_ns)
        self.facts.orders_seq = messages[-1].sequence
        self._oldest_ns = self._oldest_ns or messages[0].time_ns
        metrics.received.inc(len(messages))
        self._dirty.set()
        self.set_timer()

    def tick(self, symbol: str, data: bytes) -> None:
        """Takes a message of `ticks.{symbol}`; what is no tick of that symbol is counted and ignored."""
        if symbol not in self.engine.books:
            return
        try:
            tick = decode(Tick, data)
            if tick.symbol != symbol or tick.price <= 0:
                raise BadMessage("another symbol, or no price")
        except BadMessage as error:
            metrics.bad_ticks.inc()
            _log.debug("bad tick", symbol=symbol, error=str(error))
            return
        now_ns = self._clock.now_ns()
        try:
            self.engine.advance(now_ns)
            self.engine.mark(symbol, tick.price, now_ns)
        except Exception as error:
            self._on_failure(error)
            return
        if self.engine.undisclosed:
            self._dirty.set()
        else:
            self.save_soon()
        self.set_timer()  # a mark that an order waited for may begin its delay, which tells nobody anything

    def restart_orders(self, created: str) -> None:
        """Another stream ORDERS: it is read from its start. What was seen before is recognised by its order
        id.
        """
        self.facts.orders_created, self.facts.orders_seq = created, 0
        self._dirty.set()

    async def end_lost(self) -> None:
        """Ends the orders whose terms were lost with a journal; ORDERS was taken whole since, so that none of
        them will ever work. All at once: a crash before they are journaled leaves it to the next start."""
        # What the journal does not say to have ended, and has, is in memory: it leaves only after its commit.
        unfinished = await self._journal.unfinished()
        now_ns, before = self._clock.now_ns(), self.engine.undisclosed
        for order_id, seen in unfinished.items():
            self.engine.give_up(order_id.rpartition("-")[0], order_id, seen, now_ns)
        _log.warning("orders ended whose terms were lost", count=self.engine.undisclosed - before)
        self.facts.terms_missing = False
        self._dirty.set()

    def set_timer(self) -> None:
        """Makes sure that the engine is told the time when something is due."""
        due_ns = self.engine.next_ns()
        if due_ns is None or (self._timer is not None and self._timer_ns <= due_ns):
            return
        if self._timer is not None:
            self._timer.cancel()
        # The wall clock may be set, so that no sleep is longer than a second.
        delay_sec = min(max(0.0, (due_ns - self._clock.now_ns()) / 1e9), _LONGEST_SLEEP_SEC)
        self._timer_ns = due_ns
        self._timer = self._loop.call_later(delay_sec, self._due)

    def save_soon(self) -> None:
        """Has what changed journaled within 0.2 s."""
        if self._lazy is None:
            self._lazy = self._loop.call_later(_LAZY_SEC, self._save_now)

    def settled(self, window: list[Waiting]) -> None:
        """The stream has these messages: the positions that are told include them."""
        for one in window:
            if one.movement is not None:
                self.published.apply(one.movement)
        self._progress.set()
        self.save_soon()

    async def keep_journal(self) -> None:
        """Writes transactions for ever, each with whatever has gathered. Raises `JournalError`."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            await self._write()

    async def drain(self) -> None:
        """Returns when everything decided is journaled and told."""
        while self._writing or self._dirty.is_set() or self.untold:
            self._progress.clear()
            await self._progress.wait()
        await self._write()

    async def _look_up(self, order_ids: list[str]) -> None:
        """Gets into memory what the journal knows of these orders."""
        absent: set[str] = set()
        while True:
            # Repeated, because memory may have been trimmed during the search.
            asked = {
                order_id
                for order_id in order_ids
                if self._memory.needs_journal(order_id)
                and order_id not in self.engine.working
                and order_id not in absent
            }
            if not asked:
                return
            found = await self._journal.find(asked)
            absent |= asked - found.keys()
            for order_id, ended in found.items():
                self._memory.remember(order_id, ended)

    def _decide(self, request: intake.Request, now_ns: int) -> str:
        """Asks the engine; returns what is wrong with the request, empty when nothing is."""
        try:
            return intake.apply(self.engine, request, now_ns) or ""
        except Exception as error:
            return dead_letters.refusal(error, order_id=request.order_id)

    def _give_up(self, message: Message, reason: str, now_ns: int) -> None:
        _log.warning(
            "order message refused", subject=message.subject, sequence=message.sequence, reason=reason
        )
        dead_letters.count(dead_letters.ORDERS_SUBJECT)
        if len(self._letters) + self._lanes[LETTERS_LANE].size >= MAX_LETTERS:
            _log.error("dead letter dropped", sequence=message.sequence)
            return
        letter = dead_letters.dead_letter(ORDERS, message, reason)
        # A journal that was lost reads the same message again: its letter is another one.
        msg_id = f"{self.facts.venue}:{ORDERS}:{message.sequence}:{now_ns}"
        self._letters.append(Outgoing(dead_letters.ORDERS_SUBJECT, msg_id, letter))

    def _due(self) -> None:
        self._timer = None
        try:
            self.engine.advance(self._clock.now_ns())
        except Exception as error:
            self._on_failure(error)
            return
        if self.engine.undisclosed:
            self._dirty.set()
        self.set_timer()

    def _save_now(self) -> None:
        self._lazy = None
        self._dirty.set()

    async def _write(self) -> None:
        changes = self.engine.take_changes()
        letters, self._letters = self._letters, []
        oldest_ns, self._oldest_ns = self._oldest_ns, 0
        batch, self._next_batch = self._next_batch, self._next_batch + 1
        told: list[tuple[Outgoing, Movement | None]] = [
            (outgoing(decision), of_trade(decision) if isinstance(decision, Trade) else None)
            for decision in changes.decisions
        ]
        entry = self._entry(changes, batch, told, letters)
        orders = (self.facts.orders_created, self.facts.orders_seq)
        self._writing = True
        started = self._clock.monotonic()
        try:
            await self._journal.commit(entry)
        finally:
            self._writing = False
        self._journaled_orders = orders
        self._dropped.update(entry.published)
        self._memory.trim(not_journaled=self.engine.unjournaled)
        if told:
            self._lanes[REPORTS_LANE].add(batch, told)
        if letters:
            self._lanes[LETTERS_LANE].add(batch, [(letter, None) for letter in letters])
        self._progress.set()
        metrics.commit_latency.observe((self._clock.monotonic() - started) * 1e3)
        if oldest_ns:
            metrics.decision_latency.observe(max(0, self._clock.now_ns() - oldest_ns) / 1e6)
        _note(changes.decisions)

    def _entry(
        self,
        changes: Changes,
        batch: int,
        told: list[tuple[Outgoing, Movement | None]],
        letters: list[Outgoing],
    ) -> Entry:
        facts, reports = self.facts, self._lanes[REPORTS_LANE]
        facts.next_number = self.engine.next_number
        facts.highest_ulid = self._memory.highest
        facts.marks.update(changes.marks)
        facts.executions_created, facts.executions_seq = reports.created, reports.certain_sequence
        entry = Entry(records.encode_facts(facts))
        if changes.touched:
            entry.working = records.encode_working(changes.touched.values())
        if changes.removed:
            entry.removed = records.encode_ids(changes.removed)
        if changes.seen:
            entry.seen = records.encode_seen(changes.seen)
        if changes.positions:
            entry.positions = records.encode_positions(changes.positions, self.engine.positions)
        if told:
            entry.outbox.append((REPORTS_LANE, batch, records.encode_batch([one for one, _ in told])))
        if letters:
            entry.outbox.append((LETTERS_LANE, batch, records.encode_batch(letters)))
        for name, lane in self._lanes.items():
            if lane.published_batch > self._dropped.get(name, 0):
                entry.published.append((name, lane.published_batch))
        return entry


def _note_received(order: NewOrder, sequence: int) -> None:
    _log.info(
        "order received",
        order_id=order.order_id,
        symbol=order.symbol,
        side=order.side,
        type=order.type,
        quantity=order.quantity,
        price=order.price,
        sequence=sequence,
    )


def _note(decisions: Sequence[Decision]) -> None:
    """Logs trades, and counts what was decided."""
    counts: dict[str, int] = {}
    for decision in decisions:
        if isinstance(decision, Trade):
            kind = "fill"
            _log.info(
                "fill",
                order_id=decision.order_id,
                fill_id=decision.exec_id,
                symbol=decision.symbol,
                side=decision.side,
                quantity=decision.quantity,
                price=decision.price,
                status=decision.status,
            )
        else:
            kind = decision.kind
            _log.info("report", order_id=decision.order_id, kind=kind, reason=decision.reason)
        counts[kind] = counts.get(kind, 0) + 1
    for kind, count in counts.items():
        metrics.reports.labels(kind).inc(count)
