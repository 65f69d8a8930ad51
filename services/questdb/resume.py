"""Tables that QuestDB stopped applying are resumed.

When a transaction cannot be applied (no room on the disk), QuestDB suspends its table: it still takes what is
committed, and shows nothing of it until somebody asks it to resume, whatever happens to the cause. Resuming
tries the same transaction again: nothing is skipped, and asking in vain is harmless.
"""

import asyncio
from typing import Final, LiteralString

import psycopg

from services.questdb.schema import TABLES
from services.runtime.connections import QuestdbPool
from services.runtime.telemetry import counter, get_logger

INTERVAL_SEC: Final = 5.0

_resumed: Final = counter("questdb_tables_resumed", "Suspended tables that QuestDB was asked to resume.")
_log = get_logger("questdb.resume")


async def resume_suspended(pool: QuestdbPool) -> list[LiteralString]:
    """Asks QuestDB to go on with our tables that it has suspended; returns their names.

    Raises `psycopg.Error` or `TimeoutError` when QuestDB does not answer.
    """
    suspended = {name for (name,) in await pool.execute("SELECT name FROM wal_tables() WHERE suspended")}
    names = [table.name for table in TABLES if table.name in suspended]
    for name in names:
        await pool.execute(f"ALTER TABLE {name} RESUME WAL")
        _resumed.inc()
        _log.warning("table resumed", table=name)
    return names


async def keep_resumed(pool: QuestdbPool) -> None:
    """Looks after the tables until cancelled."""
    while True:
        try:
            await resume_suspended(pool)
        except (psycopg.Error, OSError, TimeoutError) as error:
            _log.debug("tables not looked at", error=f"{type(error).__name__}: {error}".strip())
        await asyncio.sleep(INTERVAL_SEC)
