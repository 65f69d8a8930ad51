"""Snapshots of the ledger in JetStream: an object a partition, and one key that names the valid ones.

The key is written last, in one step: a snapshot is there whole or not at all. Objects that it does not name
are left-overs of an interrupted one, and are removed with the next.
"""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, Final

import msgspec
from nats.js import JetStreamContext
from nats.js.api import ObjectStoreConfig, StorageType
from nats.js.errors import BucketNotFoundError, KeyNotFoundError, NotFoundError
from nats.js.errors import Error as JetStreamError
from nats.js.kv import KeyValue
from nats.js.object_store import ObjectStore

from services.ledger import codec
from services.ledger.account import Account
from services.ledger.journal import FoldedAccount
from services.ledger.order import Order
from services.runtime.streams import ensure_bucket

BUCKET: Final = "ledger"
"""Key-value bucket of the manifest."""
OBJECTS: Final = "ledger-snapshots"
_MANIFEST: Final = "snapshot"
_VERSION: Final = 1


class SnapshotUnreadable(Exception):
    """A snapshot is missing, damaged or of an unknown version."""


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

    async def manifest(self) -> Manifest:
        """The valid snapshot; one at sequence 0, of no account, when there is none."""
        try:
            entry = await self._bucket.get(_MANIFEST)
        except KeyNotFoundError:
            return Manifest()
        try:
            manifest = _MANIFESTS.decode(entry.value or b"")
        except msgspec.MsgspecError as error:
            raise SnapshotUnreadable(f"the snapshot's manifest is not readable: {error}") from error
        if manifest.version != _VERSION:
            raise SnapshotUnreadable(f"version {manifest.version} of a snapshot")
        return manifest

    async def accounts(self, manifest: Manifest, partition: int) -> dict[str, FoldedAccount]:
        """The accounts of a partition, as the snapshot holds them."""
        if not manifest.objects:
            return {}
        name = manifest.objects[partition]
        with tempfile.TemporaryFile() as content:
            try:
                await self._objects.get(name, writeinto=content)
            except JetStreamError as error:
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

    async def publish(self, manifest: Manifest) -> None:
        """Makes `manifest` the valid snapshot, and removes the objects that it does not name."""
        await self._bucket.put(_MANIFEST, msgspec.json.encode(manifest))
        try:
            stored = await self._objects.list()
        except NotFoundError:
            stored = []
        for info in stored:
            if info.name not in manifest.objects and not info.deleted:
                await self._objects.delete(info.name)


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
