"""The questions asked of the fills."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from services.ledger.numbers import install_context
from services.ledger.order import Side
from services.messages import encode
from services.questdb.durable_pull import Delivered
from services.questdb.fill_rows import fill_row
from services.questdb.queries import (
    BadPageToken,
    FillFilter,
    FillTotals,
    count_fills,
    fill_totals,
    list_fills,
    wait_applied,
)
from services.questdb.schema import FILLS, TABLES, ensure_tables
from services.questdb.writes import insert_rows
from services.runtime.connections import QuestdbPool
from services.runtime.local_stack import QuestDbServer
from tests.integration.questdb.support import START, fill, pool_of


async def store(pool: QuestdbPool, account: str, count: int, **members: object) -> None:
    """Stores `count` fills with the sequences 1 … count."""
    await ensure_tables(pool, FILLS)
    rows = []
    for number in range(1, count + 1):
        one = fill(account, number, **members)
        rows.append(fill_row(Delivered(number, f"0.fills.{account}", encode(one), 0, 1, "")))
    await insert_rows(pool, FILLS, rows)
    await wait_applied(pool, FILLS)


async def test_making_the_tables_again_changes_nothing(empty_questdb: QuestDbServer, account: str) -> None:
    async with pool_of(empty_questdb) as pool:
        await ensure_tables(pool)
        await store(pool, account, 3)
        await ensure_tables(pool)
        await ensure_tables(pool)
        names = {row[0] for row in await pool.execute("SELECT table_name FROM tables()")}
        assert names == {table.name for table in TABLES}
        assert await count_fills(pool, account) == 3
        for table in TABLES:
            columns = await pool.execute(f"SELECT \"column\", type FROM table_columns('{table.name}')")
            assert columns == [(column.name, column.kind) for column in table.columns]


async def test_the_documented_count_of_recent_fills_works(empty_questdb: QuestDbServer, account: str) -> None:
    async with pool_of(empty_questdb) as pool:
        now = Decimal(round(datetime.now(UTC).timestamp() * 1_000_000)).scaleb(-6)
        await store(pool, account, 1, timestamp=now)
        query = "SELECT COUNT(*) FROM fills WHERE timestamp > dateadd('m', -10, now())"
        assert await pool.execute(query) == [(1,)]


async def test_a_table_that_does_not_exist_yet_is_empty(empty_questdb: QuestDbServer) -> None:
    async with pool_of(empty_questdb) as pool:
        assert await count_fills(pool) == 0
        assert (await list_fills(pool, FillFilter())).fills == ()
        assert await fill_totals(pool) == {}


async def test_pages_are_newest_first_without_gap_or_repetition_among_equal_times(
    empty_questdb: QuestDbServer, account: str
) -> None:
    async with pool_of(empty_questdb) as pool:
        await store(pool, account, 7, timestamp=START)
        seen: list[int] = []
        token = ""
        while True:
            page = await list_fills(pool, FillFilter(account=account), page_size=3, page_token=token)
            seen += [one.stream_seq for one in page.fills]
            token = page.next_page_token
            if not token:
                break
        assert seen == [7, 6, 5, 4, 3, 2, 1]


async def test_filters_restrict_by_symbol_order_and_time(empty_questdb: QuestDbServer, account: str) -> None:
    async with pool_of(empty_questdb) as pool:
        await store(pool, account, 5)
        start = datetime.fromtimestamp(1_700_000_000, UTC) + timedelta(microseconds=3)

        async def sequences(**restriction: object) -> list[int]:
            wanted = FillFilter(account=account, **restriction)  # type: ignore[arg-type]
            return [one.stream_seq for one in (await list_fills(pool, wanted)).fills]

        assert await sequences() == [5, 4, 3, 2, 1]
        assert await sequences(symbol="ETHUSDT") == []
        assert await sequences(order_id=f"{account}-o4") == [4]
        assert await sequences(start=start, end=start + timedelta(microseconds=2)) == [3, 2]


async def test_a_foreign_page_token_is_refused(empty_questdb: QuestDbServer) -> None:
    async with pool_of(empty_questdb) as pool:
        for token in ("nonsense", "ÄÖÜ", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk6MQ"):
            with pytest.raises(BadPageToken):
                await list_fills(pool, FillFilter(), page_token=token)


async def test_totals_are_exact_and_add_up_over_sequences(empty_questdb: QuestDbServer, account: str) -> None:
    install_context()
    async with pool_of(empty_questdb) as pool:
        tiny = Decimal("10000000000.000000000000000001")
        await store(pool, account, 30, quantity=tiny, fee=Decimal("-0.000000000000000001"))
        expected = sum(tiny if number % 3 else -tiny for number in range(1, 31))
        whole = await fill_totals(pool)
        assert whole == {
            (account, "BTCUSDT"): FillTotals(Decimal(expected), Decimal("-0.000000000000000030"), 30)
        }
        first = await fill_totals(pool, through_sequence=11, accounts=[account])
        later = await fill_totals(pool, after_sequence=11, accounts=[account, "other"])
        key = (account, "BTCUSDT")
        assert first[key].quantity + later[key].quantity == expected
        assert first[key].count == 11
        assert await fill_totals(pool, accounts=["other"]) == {}


async def test_side_and_numbers_come_back_as_they_were_stored(
    empty_questdb: QuestDbServer, account: str
) -> None:
    async with pool_of(empty_questdb) as pool:
        await store(pool, account, 1, side=Side.SELL)
        (one,) = (await list_fills(pool, FillFilter(account=account))).fills
        assert (one.side, one.quantity, one.price, one.fee) == (
            "sell",
            Decimal("0.01"),
            Decimal(45001),
            Decimal("0.0045"),
        )
        assert one.time == datetime.fromtimestamp(1_700_000_000, UTC) + timedelta(microseconds=2)
