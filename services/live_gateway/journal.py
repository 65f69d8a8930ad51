"""The venue's journal: an SQLite file, written by one thread, one transaction for whatever came together.

Everything that a decision changes stands in one transaction with the decision's messages and with the
checkpoint of stream ORDERS, so a crash at any moment repeats nothing and skips nothing. Rows are handed
over as JSON arrays and taken apart by SQLite itself: a statement a table, in which the interpreter's lock
is free, whatever the number of rows.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from services.ledger.order import TERMINAL
from services.live_gateway import records
from services.live_gateway.orders import Position, SeenOrder, WorkingOrder
from services.live_gateway.records import Facts, Outgoing

T = TypeVar("T")

SCHEMA_VERSION: Final = 1
_BUSY_SEC: Final = 5.0
_CHECKPOINT_PAGES: Final = 8_192
_SYNCHRONOUS: Final = {"process": "NORMAL", "strict": "FULL"}

_SCHEMA: Final = """
CREATE TABLE facts (id INTEGER PRIMARY KEY CHECK (id = 1), record TEXT NOT NULL);
CREATE TABLE working (order_id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE seen (
    order_id TEXT PRIMARY KEY, state TEXT NOT NULL, cumulative TEXT NOT NULL, cancels INTEGER NOT NULL,
    revision INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE positions (
    account TEXT, symbol TEXT, quantity TEXT NOT NULL, value TEXT NOT NULL, fees TEXT NOT NULL,
    trades INTEGER NOT NULL, PRIMARY KEY (account, symbol)
) WITHOUT ROWID;
CREATE TABLE outbox (lane TEXT, batch INTEGER, messages BLOB NOT NULL, PRIMARY KEY (lane, batch));
"""

_PUT_WORKING: Final = """
INSERT OR REPLACE INTO working SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]')
FROM json_each(?)
"""
_DROP_WORKING: Final = "DELETE FROM working WHERE order_id IN (SELECT value FROM json_each(?))"
_PUT_SEEN: Final = """
INSERT OR REPLACE INTO seen SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'),
    json_extract(value, '$[2]'), json_extract(value, '$[3]'), json_extract(value, '$[4]') FROM json_each(?)
"""
_PUT_POSITIONS: Final = """
INSERT OR REPLACE INTO positions SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'),
    json_extract(value, '$[2]'), json_extract(value, '$[3]'), json_extract(value, '$[4]'),
    json_extract(value, '$[5]') FROM json_each(?)
"""
_FIND_SEEN: Final = """
SELECT order_id, state, cumulative, cancels, revision FROM seen
WHERE order_id IN (SELECT value FROM json_each(?))
"""
_UNFINISHED: Final = """
SELECT order_id, state, cumulative, cancels, revision FROM seen
WHERE state NOT IN (SELECT value FROM json_each(?))
"""
_PUT_OUTBOX: Final = "INSERT INTO outbox VALUES (?, ?, ?)"
_DROP_OUTBOX: Final = "DELETE FROM outbox WHERE lane = ? AND batch <= ?"
_PUT_FACTS: Final = "INSERT OR REPLACE INTO facts VALUES (1, ?)"


class JournalError(Exception):
    """The journal cannot be used: it is locked by another process, unreadable, or the disk refuses it."""


@dataclass(slots=True)
class Entry:
    """One transaction. Texts are JSON arrays of `records`; an empty text changes nothing."""

    facts: str
    working: str = ""
    removed: str = ""
    seen: str = ""
    positions: str = ""
    outbox: list[tuple[str, int, bytes]] = field(default_factory=list)
    """(lane, number of the batch, its messages)."""
    published: list[tuple[str, int]] = field(default_factory=list)
    """(lane, number of the last batch that is published)."""


@dataclass(slots=True)
class Journaled:
    """What the journal holds at the start."""

    facts: Facts
    working: list[WorkingOrder]
    positions: dict[tuple[str, str], Position]
    outbox: dict[str, list[tuple[int, list[Outgoing]]]]
    """lane → (number of the batch, its messages), in order."""


class Journal:
    """Opened once; every call runs in the journal's own thread. The first error is final."""

    def __init__(self, path: Path, durability: Literal["process", "strict"]) -> None:
        self._path = path
        self._durability = durability
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._connection: sqlite3.Connection | None = None
        self.error: str = ""
        """Why it cannot be used any more; empty while it can."""

    async def open(self, new_venue: str) -> Journaled:
        """Opens or creates the file and reads it. `new_venue` names the venue of a new one.

        Raises `JournalError`, also when another process holds the file.
        """
        return await self._run(lambda: self._open(new_venue))

    async def commit(self, entry: Entry) -> None:
        """Writes the entry in one transaction; returns when it is durable. Raises `JournalError`."""
        await self._run(lambda: self._commit(entry))

    async def find(self, order_ids: Iterable[str]) -> dict[str, SeenOrder]:
        """Those of the orders that are kept as seen. Raises `JournalError`."""
        wanted = records.encode_ids(order_ids)
        return await self._run(lambda: self._select(_FIND_SEEN, wanted))

    async def unfinished(self) -> dict[str, SeenOrder]:
        """The orders that are kept as seen and had not ended when that was written; they may work now.

        Reads every order that was ever seen. Raises `JournalError`.
        """
        ended = records.encode_ids(sorted(TERMINAL))
        return await self._run(lambda: self._select(_UNFINISHED, ended))

    async def close(self) -> None:
        """Waits for what was begun and closes the file."""
        if self._connection is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
            self._connection = None
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[], T]) -> T:
        if self.error:
            raise JournalError(self.error)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (sqlite3.Error, OSError) as error:
            self.error = f"{self._path}: {error}"
            raise JournalError(self.error) from error

    def _open(self, new_venue: str) -> Journaled:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            self._path, timeout=_BUSY_SEC, isolation_level=None, check_same_thread=False
        )
        self._connection = connection
        execute = connection.execute
        # The lock is kept for the life of the process, so that two venues can never share a journal.
        execute("PRAGMA locking_mode = EXCLUSIVE")
        execute("PRAGMA journal_mode = WAL")
        execute(f"PRAGMA synchronous = {_SYNCHRONOUS[self._durability]}")
        execute("PRAGMA cache_size = -16384")
        # A checkpoint syncs, whatever the durability: rarely, so that few orders wait for one.
        execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        execute("BEGIN EXCLUSIVE")
        (version,) = execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in _SCHEMA.split(";"):
                execute(statement)
            execute(_PUT_FACTS, (records.encode_facts(Facts(new_venue)),))
            execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        elif version != SCHEMA_VERSION:
            execute("ROLLBACK")
            raise sqlite3.DatabaseError(f"has schema {version}, this version reads {SCHEMA_VERSION}")
        execute("COMMIT")
        return self._load(connection)

    def _load(self, connection: sqlite3.Connection) -> Journaled:
        execute = connection.execute
        outbox: dict[str, list[tuple[int, list[Outgoing]]]] = {}
        for lane, batch, messages in execute("SELECT lane, batch, messages FROM outbox ORDER BY lane, batch"):
            outbox.setdefault(lane, []).append((batch, records.decode_batch(messages)))
        return Journaled(
            records.decode_facts(execute("SELECT record FROM facts").fetchone()[0]),
            [records.decode_order(record) for (record,) in execute("SELECT record FROM working")],
            dict(records.decode_position(row) for row in execute("SELECT * FROM positions")),
            outbox,
        )

    def _commit(self, entry: Entry) -> None:
        assert self._connection is not None
        execute: Callable[..., Any] = self._connection.execute
        execute("BEGIN IMMEDIATE")
        try:
            for statement, rows in (
                (_PUT_WORKING, entry.working),
                (_DROP_WORKING, entry.removed),
                (_PUT_SEEN, entry.seen),
                (_PUT_POSITIONS, entry.positions),
            ):
                if rows:
                    execute(statement, (rows,))
            for batch in entry.outbox:
                execute(_PUT_OUTBOX, batch)
            for lane in entry.published:
                execute(_DROP_OUTBOX, lane)
            execute(_PUT_FACTS, (entry.facts,))
            execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                execute("ROLLBACK")
            raise

    def _select(self, statement: str, texts: str) -> dict[str, SeenOrder]:
        assert self._connection is not None
        return dict(records.decode_seen(row) for row in self._connection.execute(statement, (texts,)))
