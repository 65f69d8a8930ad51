"""The statements that the table definitions become."""

from __future__ import annotations

from services.questdb.schema import FILLS, TABLES, TICKS


def test_every_table_replaces_repeated_rows_and_is_cut_by_time() -> None:
    for table in TABLES:
        statement = table.create()
        assert statement.startswith(f"CREATE TABLE IF NOT EXISTS {table.name} (timestamp TIMESTAMP, ")
        assert f"PARTITION BY {table.partition}" in statement
        assert f"WAL DEDUP UPSERT KEYS(timestamp, {', '.join(table.keys[1:])})" in statement
        names = [column.name for column in table.columns]
        assert set(table.keys) <= set(names)
        assert len(names) == len(set(names))


def test_ticks_are_not_kept_for_ever() -> None:
    assert " TTL 7 DAYS WAL " in TICKS.create()
    assert "TTL" not in FILLS.create()


def test_numbers_are_bound_as_text_and_cast_to_the_exact_type() -> None:
    statement = FILLS.insert(2)
    assert statement.count("CAST(%s AS DECIMAL(38,18))") == 6
    assert statement.count("%s") == 2 * len(FILLS.columns)
