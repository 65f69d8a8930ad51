"""The questions asked of QuestDB. Numbers come back as exact decimals."""

import asyncio
import base64
import binascii
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import psycopg
from ulid import ULID

from services.questdb.order_fold import LoggedOrder, from_rows
from services.questdb.schema import FILLS, ORDERS_LOG, Table
from services.runtime.connections import QuestdbPool

LARGEST_PAGE: Final = 1000
_POLL_SEC: Final = 0.01
_ORDERS_AT_ONCE: Final = 200
_CLOCK_SLACK: Final = timedelta(minutes=10)
_MISSING_TABLE: Final = "table does not exist"
"""How QuestDB says so: it has no error codes."""


class TableSuspended(Exception):
    """QuestDB has stopped applying a table's log; an operator has to resume it."""


class BadPageToken(ValueError):
    """A page token that this query did not give out."""


@dataclass(frozen=True, slots=True)
class StoredFill:
    """One row of `fills`."""

    time: datetime
    """The venue's wall clock, UTC."""
    account: str
    symbol: str
    side: str
    order_id: str
    """Empty: a fill of an unknown order."""
    fill_id: str
    quantity: Decimal
    price: Decimal
    fee: Decimal
    liquidity: str
    stream_seq: int
    """Sequence in EXECUTIONS."""


@dataclass(frozen=True, slots=True)
class FillFilter:
    """Which fills; an empty member does not restrict."""

    account: str = ""
    symbol: str = ""
    order_id: str = ""
    start: datetime | None = None
    """Fills at or after it."""
    end: datetime | None = None
    """Fills before it."""


@dataclass(frozen=True, slots=True)
class FillPage:
    """Fills, newest first."""

    fills: tuple[StoredFill, ...]
    next_page_token: str
    """Empty on the last page."""


@dataclass(frozen=True, slots=True)
class FillTotals:
    """Sums over the fills of one account in one symbol."""

    quantity: Decimal
    """Bought less sold."""
    fees: Decimal
    count: int


async def list_fills(
    pool: QuestdbPool, wanted: FillFilter, page_size: int = 100, page_token: str = ""
) -> FillPage:
    """One page of the fills that match, newest first; `page_size` is cut to 1 … `LARGEST_PAGE`.

    Pages are cut by (time, sequence), so fills that are stored meanwhile shift nothing. Raises
    `BadPageToken`, and `psycopg.Error` or `TimeoutError` when QuestDB does not answer.
    """
    size = min(max(page_size, 1), LARGEST_PAGE) + 1  # one more: it tells whether a page follows
    found: list[StoredFill] = []
    before: datetime | None = None
    if page_token:
        before, sequence = _position(page_token)
        found = await _fills_at(pool, wanted, before, sequence, size)
    if len(found) < size:
        older = await _fills_before(pool, wanted, before, size - len(found))
        if len(older) == size - len(found):
            # The last moment may have more fills than fitted, and they came in any order.
            last = older[-1].time
            older = [one for one in older if one.time > last]
            older += await _fills_at(pool, wanted, last, None, size - len(found) - len(older))
        found += older
    fills = tuple(found[: size - 1])
    return FillPage(fills, _token(fills[-1]) if len(found) == size else "")


async def count_fills(pool: QuestdbPool, account: str = "") -> int:
    """How many fills are stored, of `account` or of all; 0 when the table does not exist yet."""
    conditions, values = _conditions(FillFilter(account=account))
    rows = await read_rows(pool, f"SELECT count() FROM {FILLS.name}{_where(conditions)}", values)
    return int(rows[0][0]) if rows else 0


async def fill_totals(
    pool: QuestdbPool,
    after_sequence: int = 0,
    through_sequence: int | None = None,
    accounts: Iterable[str] = (),
) -> dict[tuple[str, str], FillTotals]:
    """Σ of the stored fills by (account, symbol), exactly.

    Only fills with `after_sequence` < sequence ≤ `through_sequence` (None: all later ones) count, so a caller
    can add the result to that of an earlier call. `accounts` restricts to some. Call `wait_applied` first
    when everything that was acknowledged has to be in it.
    """
    conditions, values = ["stream_seq > %s"], [after_sequence]
    if through_sequence is not None:
        conditions.append("stream_seq <= %s")
        values.append(through_sequence)
    names = sorted(set(accounts))
    if names:
        conditions.append(f"account IN ({', '.join(['%s'] * len(names))})")
    query = (
        f"SELECT account, symbol, side, sum(quantity), sum(fee), count() FROM {FILLS.name}"
        f"{_where(conditions)} GROUP BY account, symbol, side"
    )
    totals: dict[tuple[str, str], FillTotals] = {}
    for account, symbol, side, quantity, fees, count in await read_rows(pool, query, [*values, *names]):
        signed = quantity if side == "buy" else -quantity
        before = totals.get((account, symbol), _NOTHING)
        totals[account, symbol] = FillTotals(
            before.quantity + signed, before.fees + fees, before.count + int(count)
        )
    return totals


async def fills_between(
    pool: QuestdbPool, after_sequence: int, through_sequence: int
) -> list[tuple[str, str, Decimal, int, str]]:
    """(account, symbol, signed quantity, sequence, fill id) of each stored fill with a sequence in between,
    the upper end included. For short stretches: every row is told."""
    query = (
        f"SELECT account, symbol, side, quantity, stream_seq, fill_id FROM {FILLS.name} "
        "WHERE stream_seq > %s AND stream_seq <= %s"
    )
    rows = await read_rows(pool, query, [after_sequence, through_sequence])
    return [
        (account, symbol, quantity if side == "buy" else -quantity, int(sequence), fill_id)
        for account, symbol, side, quantity, sequence, fill_id in rows
    ]


async def logged_orders(pool: QuestdbPool, order_ids: Sequence[str]) -> dict[str, LoggedOrder]:
    """Those of `order_ids` that `orders_log` knows, as their stored events leave them.

    Everything committed before the call is in it. Raises what `wait_applied` raises, and `psycopg.Error`.
    """
    found: dict[str, LoggedOrder] = {}
    columns = ", ".join(column.name for column in ORDERS_LOG.columns)
    if order_ids:
        await wait_applied(pool, ORDERS_LOG)
    for start in range(0, len(order_ids), _ORDERS_AT_ONCE):
        chunk = order_ids[start : start + _ORDERS_AT_ONCE]
        query = (
            f"SELECT {columns} FROM {ORDERS_LOG.name} WHERE timestamp >= %s "
            f"AND order_id IN ({', '.join(['%s'] * len(chunk))}) ORDER BY account_seq"
        )
        found.update(from_rows(await read_rows(pool, query, [_made_after(chunk), *chunk])))
    return found


async def wait_applied(pool: QuestdbPool, *tables: Table | str, timeout_sec: float = 30.0) -> None:
    """Returns when everything committed to `tables` (or tables of these names) before the call can be read.

    Raises `TimeoutError`, and `TableSuspended` for a table that QuestDB no longer applies.
    """
    names = [table if isinstance(table, str) else table.name for table in tables]
    query = "SELECT name, suspended, writerTxn, sequencerTxn FROM wal_tables()"
    targets: dict[str, int] | None = None
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_sec
    while True:
        state = {row[0]: row[1:] for row in await pool.execute(query) if row[0] in names}
        if targets is None:
            targets = {name: committed for name, (_, _, committed) in state.items()}
        suspended = sorted(name for name, (stopped, _, _) in state.items() if stopped)
        if suspended:
            raise TableSuspended(f"suspended tables: {', '.join(suspended)}")
        if all(applied >= targets.get(name, 0) for name, (_, applied, _) in state.items()):
            return
        if loop.time() > deadline:
            raise TimeoutError(f"QuestDB has not applied everything in {timeout_sec:g} s")
        await asyncio.sleep(_POLL_SEC)


async def _fills_before(
    pool: QuestdbPool, wanted: FillFilter, time: datetime | None, limit: int
) -> list[StoredFill]:
    """The newest fills before `time`. Ordered by the designated timestamp alone, which QuestDB reads
    backwards without sorting: with a second column it would sort every fill that matches."""
    conditions, values = _conditions(wanted)
    if time is not None:
        conditions.append("timestamp < %s")
        values.append(time)
    query = f"SELECT {_COLUMNS} FROM {FILLS.name}{_where(conditions)} ORDER BY timestamp DESC LIMIT {limit}"
    fills = [_stored_fill(row) for row in await read_rows(pool, query, values)]
    return sorted(fills, key=lambda one: (one.time, one.stream_seq), reverse=True)


async def _fills_at(
    pool: QuestdbPool, wanted: FillFilter, time: datetime, before_sequence: int | None, limit: int
) -> list[StoredFill]:
    """The fills at the very microsecond `time`, latest sequence first."""
    conditions, values = _conditions(wanted)
    conditions.append("timestamp = %s")
    values.append(time)
    if before_sequence is not None:
        conditions.append("stream_seq < %s")
        values.append(before_sequence)
    query = f"SELECT {_COLUMNS} FROM {FILLS.name}{_where(conditions)} ORDER BY stream_seq DESC LIMIT {limit}"
    return [_stored_fill(row) for row in await read_rows(pool, query, values)]


def _stored_fill(row: tuple[Any, ...]) -> StoredFill:
    return StoredFill(row[0].replace(tzinfo=UTC), *row[1:])


_COLUMNS: Final = ", ".join(column.name for column in FILLS.columns)
_NOTHING: Final = FillTotals(Decimal(0), Decimal(0), 0)


def is_missing_table(error: psycopg.DatabaseError) -> bool:
    """Whether a statement failed because a table of it does not exist."""
    return _MISSING_TABLE in str(error)


async def read_rows(pool: QuestdbPool, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """The answer of `query`; none when its table was not made yet, because nothing was ever stored."""
    try:
        return await pool.execute(query, values)
    except psycopg.DatabaseError as error:
        if is_missing_table(error):
            return []
        raise


def _made_after(order_ids: Sequence[str]) -> datetime:
    """A moment before any event of these orders: their ids say when they were made."""
    oldest = datetime.now(UTC)
    for order_id in order_ids:
        try:
            oldest = min(oldest, ULID.from_str(order_id.rpartition("-")[2]).datetime)
        except ValueError:
            return datetime(2000, 1, 1, tzinfo=UTC)  # not made here: no telling
    return oldest - _CLOCK_SLACK


def _conditions(wanted: FillFilter) -> tuple[list[str], list[Any]]:
    start = wanted.start
    if wanted.order_id:
        # Text is compared row by row; the order's id says since when there can be any.
        made = _made_after([wanted.order_id])
        start = made if start is None else max(start, made)
    given = (
        ("account = %s", wanted.account),
        ("symbol = %s", wanted.symbol),
        ("order_id = %s", wanted.order_id),
        ("timestamp >= %s", start),
        ("timestamp < %s", wanted.end),
    )
    chosen = [(condition, value) for condition, value in given if value]
    return [condition for condition, _ in chosen], [value for _, value in chosen]


def _where(conditions: Sequence[str]) -> str:
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def _token(last: StoredFill) -> str:
    microseconds = round(last.time.timestamp() * 1_000_000)
    return base64.urlsafe_b64encode(f"{microseconds}:{last.stream_seq}".encode()).decode().rstrip("=")


def _position(token: str) -> tuple[datetime, int]:
    try:
        text = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
        microseconds, _, sequence = text.partition(":")
        return datetime.fromtimestamp(int(microseconds) // 1_000_000, UTC).replace(
            microsecond=int(microseconds) % 1_000_000
        ), int(sequence)
    except (ValueError, OverflowError, OSError, binascii.Error) as error:
        raise BadPageToken("the page token is not one of this list") from error
