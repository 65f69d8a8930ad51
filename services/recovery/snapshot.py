"""Writing a snapshot, and trimming LEDGER up to it.

A snapshot comes from the journal alone: it needs no Valkey. Trimming needs three witnesses: the snapshot that
takes the place of what goes, and that was read whole; a store that continues LEDGER and is told so (its
watermarks); and orders_log, which must have stored every order event that goes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import psycopg

from services.ledger import keys
from services.ledger.connection import Connection, Endpoint
from services.ledger.continuity import LIFE_REQUESTS, Continuity, life_of
from services.ledger.errors import LedgerError
from services.ledger.journal_tail import LedgerTail
from services.ledger.store import LOAD_LIBRARY, function
from services.questdb.orders_log_end import OtherStream, last_logged
from services.questdb.queries import TableSuspended, wait_applied
from services.questdb.schema import ORDERS_LOG, ensure_tables
from services.recovery.folding import checkpoint, fold, pruned
from services.recovery.site import API_TIMEOUT_SEC, RecoveryError, Site
from services.recovery.snapshots import Manifest
from services.runtime.clock import Clock
from services.runtime.connections import open_questdb
from services.runtime.streams import LEDGER

Say = Callable[[str], None]
_ANSWER_SEC: Final = 5.0


@dataclass(frozen=True, slots=True)
class Taken:
    """What a snapshot holds."""

    manifest: Manifest
    accounts: int
    orders: int


async def take(site: Site, clock: Clock) -> Taken:
    """Writes a snapshot of every account at the present end of LEDGER and makes it the valid one.

    Raises what `FAILURES` lists. Then the valid one is still what it was; only when the last write had no
    answer, it is that one or this one, whole.
    """
    valid = await site.snapshots.valid()
    manifest = valid.manifest
    js = site.nats.jetstream(timeout=API_TIMEOUT_SEC)
    sequence = (await js.stream_info(LEDGER)).state.last_seq
    partitions = site.where.partitions
    accounts = orders = 0
    checkpoints, ordered, objects = [], [], []
    for partition in range(partitions):
        folded = await fold(site, manifest, partition, until=sequence)
        kept = pruned(folded.accounts, clock.now_ns())
        accounts += len(kept)
        orders += sum(len(one.orders) for one in kept)
        name = valid.object_name(partition)
        await site.snapshots.write(name, kept)
        objects.append(name)
        ordered.append(folded.ordered)
        known = manifest.checkpoints[partition] if manifest.checkpoints else 0
        checkpoints.append(await checkpoint(site.nats, partition, known, folded.accounts))
    identity = await _identity(site) or manifest.identity
    fresh = Manifest(
        sequence, clock.now_ns(), partitions, identity, tuple(checkpoints), tuple(ordered), tuple(objects)
    )
    await site.snapshots.publish(fresh, instead=valid)
    return Taken(fresh, accounts, orders)


async def _identity(site: Site) -> str:
    """The identity of the stored ledger; empty when the store cannot be asked."""
    connection = Connection(Endpoint.parse(site.where.ledger_url, site.where.ledger_db, _ANSWER_SEC))
    try:
        await connection.open()
        found = await connection.request("HGET", keys.IDENTITY, "id")
    except LedgerError:
        return ""
    finally:
        await connection.close()
    return "" if found is None else str(found.decode())


async def trim(site: Site, say: Say) -> int:
    """Removes from LEDGER what the valid snapshot covers and orders_log has stored.

    Returns the sequence up to which LEDGER is trimmed. Raises `RecoveryError` when the store does not
    continue LEDGER or QuestDB cannot be asked, and `SnapshotUnreadable` when an object of the snapshot is
    damaged or missing; then nothing is removed.
    """
    manifest = (await site.snapshots.valid()).manifest
    for partition in range(len(manifest.objects)):
        # What goes is nowhere else: the snapshot is read before, not only believed.
        await site.snapshots.accounts(manifest, partition)
    until = await _stored_in_log(site, manifest, say)
    where = site.where
    connection = Connection(
        Endpoint.parse(where.ledger_url, where.ledger_db, _ANSWER_SEC),
        prepare=(LOAD_LIBRARY, *LIFE_REQUESTS),
        life=life_of,
    )
    try:
        await connection.open()
        await Continuity(connection, where.partitions, LedgerTail(site.nats)).ensure_all()
        for partition in range(where.partitions):
            # Whoever finds LEDGER begin later than its watermark takes the store for an old copy.
            await connection.request("FCALL", function("relayed"), 1, keys.relayed(partition), until)
    except LedgerError as error:
        raise RecoveryError(f"LEDGER is not trimmed: {error}") from error
    finally:
        await connection.close()
    if until:
        js = site.nats.jetstream(timeout=API_TIMEOUT_SEC)
        await js.purge_stream(LEDGER, seq=until + 1)
    return until


async def _stored_in_log(site: Site, manifest: Manifest, say: Say) -> int:
    """Sequence up to which the snapshot covers LEDGER and orders_log has every event of an order."""
    pool = open_questdb(site.where.questdb_pg_url, site.where.questdb_http_url)
    stored: dict[int, int] = {}
    try:
        await ensure_tables(pool, ORDERS_LOG)
        await wait_applied(pool, ORDERS_LOG)
        for partition in range(len(manifest.ordered)):
            try:
                stored[partition] = await last_logged(site.nats, pool, partition)
            except OtherStream as other:
                say(f"partition {partition}: {other}")
    except (psycopg.Error, OSError, TimeoutError, TableSuspended) as error:
        raise RecoveryError(f"LEDGER is not trimmed: orders_log cannot be read ({error})") from error
    finally:
        await pool.close()
    until = manifest.sequence
    for partition, ordered in enumerate(manifest.ordered):
        newest = stored.get(partition, 0)
        if newest < ordered:
            say(f"partition {partition}: orders_log is at message {newest} of LEDGER, not yet at {ordered}")
            until = min(until, newest)
    return until
