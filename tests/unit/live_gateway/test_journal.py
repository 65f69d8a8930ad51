"""The journal on a real file: what is committed is there after any end of the process."""

import multiprocessing
import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest

from services.ledger.order import TERMINAL, OrderState, OrderType, Side
from services.live_gateway import records
from services.live_gateway.journal import Entry, Journal, JournalError
from services.live_gateway.orders import Position, SeenOrder
from services.live_gateway.records import Facts, Outgoing
from tests.unit.live_gateway.venue import Venue, order_id


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "journal.sqlite3"


def _facts(**changes: object) -> str:
    return records.encode_facts(Facts("venue", **changes))  # type: ignore[arg-type]


async def test_new_file_takes_the_given_venue_and_keeps_it(path: Path) -> None:
    for name in ("first", "second"):
        journal = Journal(path, "process")
        assert (await journal.open(name)).facts == Facts("first")
        await journal.close()


async def test_everything_of_an_entry_is_read_back(path: Path) -> None:
    journal = Journal(path, "strict")
    await journal.open("venue")
    order = Venue().order(OrderType.STOP_LIMIT, Side.SELL, "0.10", "1E+2", stop="99.5", expire_sec=5)
    order.cumulative, order.triggered, order.cancels = Decimal("0.050"), True, 2
    positions = {("alice", "BTCUSDT"): Position(Decimal("-1.50"), Decimal("2E-18"), Decimal(0), 7)}
    messages = [Outgoing("fills.alice", "venue-1", b'{"a":1}'), Outgoing("fills.alice", "venue-2", b"\xff")]
    await journal.commit(
        Entry(
            _facts(next_number=9, orders_seq=5, marks={"BTCUSDT": (Decimal("45000.10"), 17)}),
            working=records.encode_working([order]),
            seen=records.encode_seen({order_id(1): SeenOrder(OrderState.FILLED, Decimal("0.1"), 1, 2)}),
            positions=records.encode_positions(positions, positions),
            outbox=[("executions", 1, records.encode_batch(messages))],
        )
    )
    await journal.close()

    journal = Journal(path, "strict")
    journaled = await journal.open("another")
    assert journaled.facts.venue == "venue"
    assert journaled.facts.orders_seq == 5
    assert journaled.facts.marks == {"BTCUSDT": (Decimal("45000.10"), 17)}
    assert journaled.working == [order]
    assert journaled.positions == positions
    assert journaled.outbox == {"executions": [(1, messages)]}
    found = await journal.find([order_id(1), order_id(2)])
    assert found == {order_id(1): SeenOrder(OrderState.FILLED, Decimal("0.1"), 1, 2)}
    await journal.close()


async def test_orders_seen_that_have_not_ended_are_found(path: Path) -> None:
    journal = Journal(path, "process")
    await journal.open("venue")
    seen = {order_id(number): SeenOrder(state) for number, state in enumerate(OrderState)}
    await journal.commit(Entry(_facts(terms_missing=True), seen=records.encode_seen(seen)))
    unfinished = {name: order for name, order in seen.items() if order.state not in TERMINAL}
    assert await journal.unfinished() == unfinished
    await journal.close()
    assert (await Journal(path, "process").open("venue")).facts.terms_missing


async def test_ended_orders_and_published_batches_leave(path: Path) -> None:
    journal = Journal(path, "process")
    await journal.open("venue")
    order = Venue().order(OrderType.LIMIT, Side.BUY, "1", "1")
    batch = records.encode_batch([Outgoing("fills.alice", "venue-1", b"{}")])
    outbox = [("executions", number, batch) for number in (1, 2, 3)] + [("deadletter", 1, batch)]
    await journal.commit(Entry(_facts(), working=records.encode_working([order]), outbox=outbox))
    await journal.commit(
        Entry(_facts(), removed=records.encode_ids([order.order_id]), published=[("executions", 2)])
    )
    await journal.close()
    journaled = await Journal(path, "process").open("venue")
    assert journaled.working == []
    assert {lane: [number for number, _ in batches] for lane, batches in journaled.outbox.items()} == {
        "deadletter": [1],
        "executions": [3],
    }


async def test_failed_entry_leaves_nothing_and_the_journal_is_unusable(path: Path) -> None:
    journal = Journal(path, "process")
    await journal.open("venue")
    seen = records.encode_seen({order_id(1): SeenOrder(OrderState.FILLED)})
    with pytest.raises(JournalError):
        await journal.commit(Entry(_facts(orders_seq=1), seen=seen, positions="no JSON"))
    with pytest.raises(JournalError):
        await journal.commit(Entry(_facts()))
    await journal.close()
    reopened = Journal(path, "process")
    assert (await reopened.open("venue")).facts.orders_seq == 0
    assert await reopened.find([order_id(1)]) == {}
    await reopened.close()


def _hold(
    path: str, ready: "multiprocessing.synchronize.Event", release: "multiprocessing.synchronize.Event"
) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("BEGIN EXCLUSIVE")
    ready.set()
    release.wait(30)


async def test_file_of_a_living_process_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.live_gateway.journal._BUSY_SEC", 0.1)
    await (first := Journal(path, "process")).open("venue")
    await first.close()
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(str(path), ready, release))
    holder.start()
    try:
        assert ready.wait(20)
        with pytest.raises(JournalError, match="locked"):
            await Journal(path, "process").open("venue")
    finally:
        release.set()
        holder.join(20)


async def test_file_of_a_newer_version_is_refused(path: Path) -> None:
    await (first := Journal(path, "process")).open("venue")
    await first.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(JournalError, match="schema 99"):
        await Journal(path, "process").open("venue")
