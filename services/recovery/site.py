"""What every command of recovery works on, opened together and closed together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from nats.errors import Error as NatsError
from nats.js.kv import KeyValue

from services.ledger.codec import UnknownFormat
from services.ledger.errors import LedgerError
from services.ledger.journal import JournalGap
from services.ledger.numbers import install_context
from services.recovery.snapshots import SnapshotOvertaken, Snapshots, SnapshotUnreadable
from services.runtime.nats_client import NatsClient, open_nats
from services.runtime.streams import (
    ACCOUNTS_BUCKET,
    DEADLETTER,
    EXECUTIONS,
    LEDGER,
    StreamMismatch,
    ensure_bucket,
    ensure_streams,
)

CONNECT_SEC: Final = 5.0
API_TIMEOUT_SEC: Final = 5.0


class RecoveryError(Exception):
    """Why a command could not do what it was asked for; the message is for the operator."""


FAILURES: Final = (
    LedgerError,
    JournalGap,
    UnknownFormat,
    SnapshotUnreadable,
    SnapshotOvertaken,
    StreamMismatch,
    NatsError,
    OSError,
    TimeoutError,
)
"""What can go wrong with servers and data; none of it leaves an account in a state that is used."""


@dataclass(frozen=True, slots=True)
class Where:
    """Addresses. `projection_db` is oms's own database on `projection_url`."""

    ledger_url: str
    ledger_db: int
    partitions: int
    projection_url: str
    projection_db: int
    nats_url: str
    questdb_pg_url: str
    questdb_http_url: str
    remembered_denials: int = 1000


@dataclass(frozen=True, slots=True)
class Site:
    """Open connections to what survives Valkey."""

    where: Where
    nats: NatsClient
    snapshots: Snapshots
    registry: KeyValue


@asynccontextmanager
async def open_site(where: Where) -> AsyncIterator[Site]:
    """Connects to NATS; raises `RecoveryError` when it does not answer in `CONNECT_SEC`."""
    install_context()
    try:
        async with asyncio.timeout(CONNECT_SEC):
            client = await open_nats(where.nats_url, "recovery")
    except (NatsError, OSError, TimeoutError) as error:
        raise RecoveryError(f"NATS does not answer at {where.nats_url}") from error
    try:
        js = client.jetstream(timeout=API_TIMEOUT_SEC)
        await ensure_streams(js, (EXECUTIONS, LEDGER, DEADLETTER), partitions=where.partitions)
        registry = await ensure_bucket(js, ACCOUNTS_BUCKET)
        yield Site(where, client, await Snapshots.open(js), registry)
    finally:
        await client.close()
