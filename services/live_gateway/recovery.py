"""A journal that is new although orders were executed before: the old one was lost.

Executing everything in ORDERS once more would double every position. What the reports in EXECUTIONS tell is
enough to prevent that: which orders have ended, how much of the others was executed, and the positions. The
terms of orders that work come back when ORDERS is read from its start; those whose message was trimmed are
ended then (`terms_lost`), because nobody can work them. Decisions that were journaled and never published are
lost with the journal; nobody has seen them, and they are made anew.
"""

from decimal import Decimal
from typing import Final

from services.ledger.numbers import ZERO
from services.ledger.order import TERMINAL, OrderState
from services.live_gateway import positions, records
from services.live_gateway.intake import check_order_id
from services.live_gateway.journal import Entry, Journal, Journaled
from services.live_gateway.memory import ULID_LENGTH
from services.live_gateway.orders import ReportKind, SeenOrder
from services.live_gateway.positions import PositionTable
from services.live_gateway.records import Facts
from services.live_gateway.streams import read_until, stream_state
from services.messages import BadMessage, Execution, Fill, decode
from services.runtime.journal_reader import Message
from services.runtime.nats_client import MESSAGE_ID, NatsClient
from services.runtime.streams import EXECUTIONS
from services.runtime.telemetry import get_logger

_ROWS: Final = 5_000
_ENDS: Final = {
    ReportKind.CANCELED: OrderState.CANCELED,
    ReportKind.REJECTED: OrderState.REJECTED,
    ReportKind.EXPIRED: OrderState.EXPIRED,
}

_log = get_logger("live_gateway.recovery")


class JournalOutdated(Exception):
    """The journal is older than what was told from it: a copy was restored. Going on from it would execute
    again what it does not know of. Without it, the venue takes over what the reports tell."""


async def refuse_outdated(client: NatsClient, facts: Facts) -> None:
    """Raises `JournalOutdated` when EXECUTIONS holds a report of this venue that the journal never decided
    on."""
    state = await stream_state(client, EXECUTIONS)
    if state.created != facts.executions_created:
        return
    prefix = f"{facts.venue}-"
    async for batch in read_until(client, EXECUTIONS, facts.executions_seq, state):
        for message in batch:
            exec_id = message.headers.get(MESSAGE_ID, "")
            number = exec_id.removeprefix(prefix)
            if number != exec_id and number.isdecimal() and int(number) >= facts.next_number:
                raise JournalOutdated(
                    f"report {exec_id} is in EXECUTIONS and not in the journal, which is an old copy; "
                    "move it away to start from what the reports tell"
                )


async def recover(client: NatsClient, journal: Journal, facts: Facts) -> Journaled:
    """Fills a new journal from EXECUTIONS, and `facts` with where that stands.

    A crash on the way leaves a journal that is still new, and the next start does it again.
    """
    state = await stream_state(client, EXECUTIONS)
    reports = _Reports()
    async for batch in read_until(client, EXECUTIONS, 0, state):
        for message in batch:
            reports.add(message)
        facts.executions_seq = batch[-1].sequence
        if len(reports.ended) >= _ROWS:
            await journal.commit(Entry(records.encode_facts(Facts(facts.venue)), seen=_rows(reports.ended)))
            reports.ended.clear()
    facts.executions_created = state.created
    facts.terms_missing = bool(reports.open)
    facts.highest_ulid = reports.highest_ulid
    if reports.count:
        _log.warning(
            "journal is new, reports are not: what they tell was taken over",
            reports=reports.count,
            open_orders=len(reports.open),
        )
    held = reports.positions.as_mapping()
    await journal.commit(
        Entry(
            records.encode_facts(facts),
            seen=_rows(reports.ended | reports.open),
            positions=records.encode_positions(held.keys(), held),
        )
    )
    return Journaled(facts, [], dict(held), {})


class _Reports:
    """What the venue's reports say, folded."""

    def __init__(self) -> None:
        self.open: dict[str, SeenOrder] = {}
        self.ended: dict[str, SeenOrder] = {}
        self.positions = PositionTable()
        self.highest_ulid = ""
        self.count = 0

    def add(self, message: Message) -> None:
        """Takes one stored message; what is no report of a venue like this one is skipped."""
        try:
            _, kind, account = message.subject.split(".")
            if kind == "fills":
                self._add_fill(decode(Fill, message.data), account)
            else:
                self._add_execution(decode(Execution, message.data), account)
        except ValueError:
            return  # a `BadMessage`, or a state that no venue of ours reports
        self.count += 1

    def _add_fill(self, fill: Fill, account: str) -> None:
        _check_owner(fill, account)
        if not fill.fill_id:
            raise BadMessage("fill_id is missing")
        executed = fill.cumulative if fill.cumulative is not None else fill.quantity
        self._put(fill.order_id, OrderState(fill.status), executed)
        self.positions.apply(positions.of_fill(fill))

    def _add_execution(self, report: Execution, account: str) -> None:
        _check_owner(report, account)
        if report.kind == ReportKind.ACCEPTED:
            self._put(report.order_id, OrderState.NEW, ZERO)
        elif report.kind in _ENDS:
            self._put(report.order_id, _ENDS[ReportKind(report.kind)], report.cumulative or ZERO)

    def _put(self, order_id: str, state: OrderState, cumulative: Decimal) -> None:
        self.highest_ulid = max(self.highest_ulid, order_id[-ULID_LENGTH:])
        seen = SeenOrder(state, cumulative)
        if state in TERMINAL:
            self.open.pop(order_id, None)
            self.ended[order_id] = seen
        else:
            self.open[order_id] = seen


def _check_owner(report: Fill | Execution, account: str) -> None:
    """What is told of an order later goes to the account in its id."""
    if report.account != account:
        raise BadMessage("account of the payload is not the subject's")
    check_order_id(report.order_id, account)


def _rows(seen: dict[str, SeenOrder]) -> str:
    return records.encode_seen(seen) if seen else ""
