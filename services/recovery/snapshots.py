"""Snapshots of the ledger in JetStream: an object a partition, and one key that names the valid ones.

The key is written last, in one step, and only if it is still as it was when the snapshot was begun: a
snapshot is there whole or not at all, and of two that were made at once one is. The name of an object tells
which revision of the key it was begun after. Once there is a later revision, nobody can make it valid any
more: so whoever has written the key removes what was begun before, and nothing of a snapshot in progress.
"""

import asyncio
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, Final

import msgspec
from nats.js import JetStreamContext
from nats.js.api import ObjectStoreConfig, StorageType
from nats.js.errors import (
    BucketNotFoundError,
    KeyNotFoundError,
    KeyWrongLastSequenceError,
    NotFoundError,
)
from nats.js.errors import Error as JetStreamError
from nats.js.kv import KeyValue
from nats.js.object_store import ObjectStore

from services.ledger import codec
from services.ledger.account import Account
from services.ledger.journal import FoldedAccount
from services.ledger.order import Order
from services.runtime.ids import new_ulid
from services.runtime.streams import ensure_bucket

BUCKET: Final = "ledger"
"""Key-value bucket of the manifest."""
OBJECTS: Final = "ledger-snapshots"
_MANIFEST: Final = "snapshot"
_VERSION: Final = 1
_READ_SEC: Final = 120.0
"""An object whose parts are not all there would be waited for without end."""


class SnapshotUnreadable(Exception):
    """A snapshot is missing, damaged or of an unknown version."""


class SnapshotOvertaken(Exception):
    """Another snapshot became valid while this one was made or read, and stays it."""


_OVERTAKEN: Final = "another snapshot was made meanwhile, and is the valid one"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The valid snapshot: the state of every account after the events up to message `sequence` of LEDGER."""

    sequence: int = 0
    time_ns: int = 0
    partitions: int = 0
    identity: str = ""
    """Identity of the ledger, empty when the store could not be asked."""
    checkpoints: tuple[int, ...] = ()
    """By partition: sequence in EXECUTIONS up to which every report is part of the snapshot."""
    ordered: tuple[int, ...] = ()
    """By partition: the last message of LEDGER, up to `sequence`, that tells of an order."""
    objects: tuple[str, ...] = ()
    """By partition: the name of its object."""
    version: int = _VERSION


@dataclass(frozen=True, slots=True)
class Valid:
    """The valid snapshot, and where it stands."""

    manifest: Manifest
    revision: int
    """Of the key that names it; 0 when there is none."""

    def object_name(self, partition: int) -> str:
        """A new name for an object of the snapshot that is to take this one's place."""
        return f"after-{self.revision}.{new_ulid()}.{partition}"


@dataclass(frozen=True, slots=True)
class _Line:
    account: Account
    orders: tuple[Order, ...] = ()
    tombstones: tuple[str, ...] = ()
    clients: dict[str, str] = field(default_factory=dict)


_LINES: Final = msgspec.json.Decoder(_Line)
_MANIFESTS: Final = msgspec.json.Decoder(Manifest)


class Snapshots:
    """The newest snapshot. Calls raise `SnapshotUnreadable` and errors of the connection."""

    def __init__(self, bucket: KeyValue, objects: ObjectStore) -> None:
        self._bucket = bucket
        self._objects = objects

    @classmethod
    async def open(cls, js: JetStreamContext) -> "Snapshots":
        """Makes the buckets exist."""
        try:
            objects = await js.object_store(OBJECTS)
        except (BucketNotFoundError, NotFoundError):
            objects = await js.create_object_store(
                OBJECTS, ObjectStoreConfig(bucket=OBJECTS, storage=StorageType.FILE)
            )
        return cls(await ensure_bucket(js, BUCKET), objects)

    async def valid(self) -> Valid:
        """The valid snapshot; one at sequence 0, of no account, when there is none."""
        try:
            entry = await self._bucket.get(_MANIFEST)
        except KeyNotFoundError as error:
            removed = error.entry
            return Valid(Manifest(), (removed.revision or 0) if removed is not None else 0)
        try:
            manifest = _MANIFESTS.decode(entry.value or b"")
        except msgspec.MsgspecError as error:
            raise SnapshotUnreadable(f"the snapshot's manifest is not readable: {error}") from error
        if manifest.version != _VERSION:
            raise SnapshotUnreadable(f"version {manifest.version} of a snapshot")
        return Valid(manifest, entry.revision or 0)

    async def accounts(self, manifest: Manifest, partition: int) -> dict[str, FoldedAccount]:
        """The accounts of a partition, as the snapshot holds them.

        Raises `SnapshotOvertaken` when its object went because another snapshot is the valid one now.
        """
        if not manifest.objects:
            return {}
        name = manifest.objects[partition]
        with tempfile.TemporaryFile() as content:
            try:
                async with asyncio.timeout(_READ_SEC):
                    await self._objects.get(name, writeinto=content)
            except (JetStreamError, TimeoutError) as error:
                if (await self.valid()).manifest != manifest:
                    raise SnapshotOvertaken(_OVERTAKEN) from error
                raise SnapshotUnreadable(f"object {name} of the snapshot: {error!r}") from error
            content.seek(0)
            return {one.account.account: one for one in _read(name, content)}

    async def write(self, name: str, accounts: Iterable[FoldedAccount]) -> None:
        """Stores a partition's accounts as the object `name`."""
        with tempfile.TemporaryFile() as content:
            for one in accounts:
                line = _Line(
                    one.account, tuple(one.orders.values()), tuple(sorted(one.tombstones)), one.clients
                )
                content.write(codec.encode(line) + b"\n")
            content.seek(0)
            await self._objects.put(name, _binary(content))

    async def publish(self, manifest: Manifest, instead: Valid) -> None:
        """Makes `manifest` the valid snapshot in the place of `instead`, and removes what was begun before.

        Raises `SnapshotOvertaken` when `instead` is no longer the valid one; then nothing is changed.
        """
        try:
            revision = await self._bucket.update(_MANIFEST, msgspec.json.encode(manifest), instead.revision)
        except KeyWrongLastSequenceError as error:
            raise SnapshotOvertaken(_OVERTAKEN) from error
        try:
            stored = await self._objects.list()
        except NotFoundError:
            stored = []
        for info in stored:
            if info.name not in manifest.objects and not info.deleted and _begun_after(info.name) < revision:
                await self._objects.delete(info.name)


def _begun_after(name: str) -> int:
    """The revision in an object's name; 0 for one that tells none."""
    before, _, revision = name.partition(".")[0].partition("after-")
    return int(revision) if not before and revision.isdecimal() else 0


def _binary(content: IO[bytes]) -> Any:
    return content


def _read(name: str, content: IO[bytes]) -> Iterator[FoldedAccount]:
    for number, text in enumerate(content, 1):
        try:
            line = _LINES.decode(text)
        except msgspec.MsgspecError as error:
            raise SnapshotUnreadable(f"line {number} of the snapshot's object {name}: {error}") from error
        orders = {order.order_id: order for order in line.orders}
        yield FoldedAccount(line.account, orders, set(line.tombstones), line.clients)
