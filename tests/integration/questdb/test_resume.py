"""Tables that QuestDB suspended go on when they are resumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from services.ledger.numbers import install_context
from services.messages import encode
from services.questdb.durable_pull import Delivered
from services.questdb.fill_rows import fill_row
from services.questdb.queries import FillFilter, TableSuspended, list_fills, wait_applied
from services.questdb.resume import resume_suspended
from services.questdb.schema import FILLS, ensure_tables
from services.questdb.writes import insert_rows
from services.runtime.local_stack import QuestDbServer, free_ports
from tests.integration.questdb.support import fill, pool_of


class _Suspendable(QuestDbServer):
    """A QuestDB that may be asked to suspend a table, as a full disk makes it do."""

    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), "QDB_DEV_MODE_ENABLED": "true"}


@pytest.fixture
def questdb(tmp_path: Path) -> Iterator[QuestDbServer]:
    http, pg, health = free_ports(3)
    with _Suspendable(tmp_path, http, pg, health) as server:
        yield server


async def test_a_resumed_table_shows_what_was_committed_while_it_was_suspended(
    questdb: QuestDbServer, account: str
) -> None:
    install_context()

    def row(number: int) -> Sequence[object]:
        payload = encode(fill(account, number))
        return fill_row(Delivered(number, f"0.fills.{account}", payload, 0, 1, ""))

    async with pool_of(questdb) as pool:
        await ensure_tables(pool, FILLS)
        await insert_rows(pool, FILLS, [row(1)])
        await wait_applied(pool, FILLS)
        await pool.execute("ALTER TABLE fills SUSPEND WAL")
        await insert_rows(pool, FILLS, [row(2)])
        with pytest.raises(TableSuspended):
            await wait_applied(pool, FILLS)
        assert len((await list_fills(pool, FillFilter(account), 10, "")).fills) == 1
        assert await resume_suspended(pool) == ["fills"]
        await wait_applied(pool, FILLS)
        assert len((await list_fills(pool, FillFilter(account), 10, "")).fills) == 2
        assert await resume_suspended(pool) == []
