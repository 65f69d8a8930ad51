"""Writing rows to QuestDB from an event loop that has other things to do."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, TypeAlias

from services.questdb.schema import Table
from services.runtime.connections import QuestdbPool

CHUNK_ROWS: Final = 50
"""Rows encoded before other tasks have their turn, at about 4 µs each."""

Row: TypeAlias = Sequence[Any]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


async def insert_rows(pool: QuestdbPool, table: Table, rows: Sequence[Row]) -> None:
    """Inserts `rows` (values in the order of the table's columns); returns when QuestDB has committed them.

    One transaction, hence one commit, whatever the number of rows: all of them are there, or none. When the
    answer was lost, that is open; repeating is harmless, since the table replaces a row by its keys. Numbers
    are `Decimal`, times aware `datetime`; None leaves a column NULL. Raises `OSError` when QuestDB does not
    take the rows or does not answer in the pool's time: also when the table does not exist.
    """
    first, *others = (column.name for column in table.columns)
    assert first == "timestamp"
    tags = tuple((name, place) for place, name in enumerate(others, 1) if name in table.symbols)
    fields = tuple((name, place) for place, name in enumerate(others, 1) if name not in table.symbols)
    buffer = pool.rows.buffer()
    for count, row in enumerate(rows, 1):
        buffer.row(
            table.name,
            symbols={name: row[place] for name, place in tags},
            columns={name: row[place] for name, place in fields},
            at=row[0],
        )
        if count % CHUNK_ROWS == 0:
            await asyncio.sleep(0)
    await pool.rows.send(buffer)


def moment(seconds: Decimal) -> datetime:
    """Seconds since the epoch as a UTC time, to the microsecond below."""
    return _EPOCH + timedelta(microseconds=int(seconds.scaleb(6)))


def moment_ns(nanoseconds: int) -> datetime:
    """Nanoseconds since the epoch as a UTC time, to the microsecond below."""
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000)
