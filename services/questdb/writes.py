"""Writing rows to QuestDB from an event loop that has other things to do."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, TypeAlias

from services.questdb.schema import Table
from services.runtime.connections import QuestdbPool

CHUNK_ROWS: Final = 50
"""Rows handed to the driver at once: it binds them without giving way to other tasks, at about 20 µs each."""

Row: TypeAlias = Sequence[Any]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


async def insert_rows(pool: QuestdbPool, table: Table, rows: Sequence[Row]) -> None:
    """Inserts `rows` (values in the order of the table's columns); returns when QuestDB has committed them.

    One transaction, hence one commit, whatever the number of rows: all of them are there, or none. When the
    answer to the commit was lost, that is open; repeating is harmless, since the table replaces a row by its
    keys. Raises `psycopg.Error`, `OSError`, or `TimeoutError` after the pool's timeout.
    """
    statement = table.insert()
    async with pool.connection() as connection, connection.transaction(), connection.cursor() as cursor:
        for start in range(0, len(rows), CHUNK_ROWS):
            await cursor.executemany(statement, rows[start : start + CHUNK_ROWS])


def moment(seconds: Decimal) -> datetime:
    """Seconds since the epoch as a UTC time, to the microsecond below."""
    return _EPOCH + timedelta(microseconds=int(seconds.scaleb(6)))


def moment_ns(nanoseconds: int) -> datetime:
    """Nanoseconds since the epoch as a UTC time, to the microsecond below."""
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000)
