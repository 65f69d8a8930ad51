"""The tables of QuestDB, as data, and the one function that makes them exist.

Times are UTC. Quantities, prices and fees are DECIMAL(38,18): every number that the order path takes fits
exactly. A repeated insert of the same row replaces it (`DEDUP UPSERT KEYS`), which is what makes every writer
free to repeat.
"""

from dataclasses import dataclass
from typing import Final, LiteralString

from services.runtime.connections import QuestdbPool

NUMBER: Final = "DECIMAL(38,18)"


@dataclass(frozen=True, slots=True)
class Column:
    """One column; `kind` is QuestDB's type."""

    name: LiteralString
    kind: LiteralString

    @property
    def placeholder(self) -> LiteralString:
        """How a value is bound: an exact number travels as text, never as a binary float."""
        return "CAST(%s AS DECIMAL(38,18))" if self.kind == NUMBER else "%s"


@dataclass(frozen=True, slots=True)
class Table:
    """One table, partitioned on its first column, the designated timestamp."""

    name: LiteralString
    columns: tuple[Column, ...]
    keys: tuple[LiteralString, ...]
    """Columns that, together, make a row the same row."""
    keep: LiteralString = ""
    """How long rows are kept ("7 DAYS"); empty: for ever."""
    partition: LiteralString = "DAY"
    """The time that one partition spans. Rewriting costs by the partition, so sparse rows share a long
    one."""

    @property
    def symbols(self) -> frozenset[str]:
        """Names of the columns whose texts QuestDB keeps in a dictionary."""
        return frozenset(column.name for column in self.columns if column.kind == "SYMBOL")

    def create(self, name: LiteralString = "") -> LiteralString:
        """The statement that makes the table exist (as `name`, if given); harmless when it does."""
        columns = ", ".join(f"{column.name} {column.kind}" for column in self.columns)
        keep = f" TTL {self.keep}" if self.keep else ""
        return (
            f"CREATE TABLE IF NOT EXISTS {name or self.name} ({columns}) TIMESTAMP({self.columns[0].name}) "
            f"PARTITION BY {self.partition}{keep} WAL DEDUP UPSERT KEYS({', '.join(self.keys)})"
        )

    def insert(self, rows: int = 1, name: LiteralString = "") -> LiteralString:
        """The statement that inserts `rows` rows (into `name`, if given), every column in order.

        For what goes together with other statements; many rows go by `writes.insert_rows`.
        """
        names = ", ".join(column.name for column in self.columns)
        values = ", ".join(column.placeholder for column in self.columns)
        return f"INSERT INTO {name or self.name} ({names}) VALUES " + ", ".join([f"({values})"] * rows)


FILLS: Final = Table(
    name="fills",
    columns=(
        Column("timestamp", "TIMESTAMP"),  # the venue's wall clock
        Column("account", "SYMBOL"),
        Column("symbol", "SYMBOL"),
        Column("side", "SYMBOL"),
        Column("order_id", "VARCHAR"),  # empty: a fill of an unknown order
        Column("fill_id", "VARCHAR"),
        Column("quantity", NUMBER),
        Column("price", NUMBER),
        Column("fee", NUMBER),
        Column("liquidity", "SYMBOL"),
        Column("stream_seq", "LONG"),  # sequence in EXECUTIONS
    ),
    keys=("timestamp", "fill_id"),
)

ORDERS_LOG: Final = Table(
    name="orders_log",
    columns=(
        Column("timestamp", "TIMESTAMP"),  # when the event was committed
        Column("account", "SYMBOL"),
        Column("account_seq", "LONG"),  # number of the event in its account, from 1
        Column("order_id", "VARCHAR"),
        Column("client_order_id", "VARCHAR"),
        Column("event", "SYMBOL"),
        Column("state", "SYMBOL"),  # of the order after the event
        Column("symbol", "SYMBOL"),
        Column("side", "SYMBOL"),
        Column("type", "SYMBOL"),
        Column("quantity", NUMBER),  # total of the terms in force, or of those asked for
        Column("price", NUMBER),  # their limit; NULL without
        Column("cumulative", NUMBER),  # executed after the event
        Column("reason", "VARCHAR"),
        Column("ledger_partition", "INT"),
        Column("stream_seq", "LONG"),  # sequence in LEDGER
    ),
    keys=("timestamp", "account", "account_seq"),
)

ORDERS: Final = Table(
    name="orders",
    columns=(
        Column("timestamp", "TIMESTAMP"),  # of the order's id
        Column("account", "SYMBOL"),
        Column("order_id", "VARCHAR"),
        Column("client_order_id", "VARCHAR"),
        Column("state", "SYMBOL"),  # how it ended
        Column("record", "VARCHAR"),  # the order whole, as JSON with exact numbers
    ),
    keys=("timestamp", "order_id"),
    partition="HOUR",  # an order that ends days after it began rewrites no more than that
)

DAILY_BARS: Final = Table(
    name="daily_bars",
    columns=(
        Column("timestamp", "TIMESTAMP"),  # start of the UTC day
        Column("symbol", "SYMBOL"),
        Column("open", NUMBER),
        Column("high", NUMBER),
        Column("low", NUMBER),
        Column("close", NUMBER),
        Column("volume", NUMBER),
    ),
    keys=("timestamp", "symbol"),
    partition="YEAR",
)

TICKS: Final = Table(
    name="ticks",
    columns=(
        Column("timestamp", "TIMESTAMP"),
        Column("symbol", "SYMBOL"),
        Column("price", NUMBER),
    ),
    keys=("timestamp", "symbol"),
    keep="7 DAYS",
)

TABLES: Final = (FILLS, ORDERS_LOG, ORDERS, DAILY_BARS, TICKS)


async def ensure_tables(pool: QuestdbPool, *tables: Table) -> None:
    """Creates those of `tables` (all when none is named) that do not exist.

    Harmless to repeat, and for several processes to do at once. Raises `psycopg.Error` or `TimeoutError` when
    QuestDB does not answer.
    """
    for table in tables or TABLES:
        await pool.execute(table.create())
