"""The streams and buckets of the platform: one table, made to exist by every service at its start."""

from dataclasses import dataclass
from typing import Final

from nats.js import JetStreamContext
from nats.js.api import (
    DiscardPolicy,
    KeyValueConfig,
    RetentionPolicy,
    StorageType,
    StreamConfig,
    SubjectTransform,
)
from nats.js.errors import BadRequestError, BucketNotFoundError, NotFoundError
from nats.js.kv import KeyValue

ORDERS: Final = "ORDERS"
EXECUTIONS: Final = "EXECUTIONS"
LEDGER: Final = "LEDGER"
DEADLETTER: Final = "DEADLETTER"
ACCOUNTS_BUCKET: Final = "accounts"
REPLAY_BUCKET: Final = "replay"

_GIB: Final = 1 << 30


class StreamMismatch(Exception):
    """A stream exists with another meaning than the platform gives it; the message says which property."""


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """One stream. All are files, refuse new messages when full, and keep messages without an age limit."""

    name: str
    subjects: tuple[str, ...]
    max_bytes: int
    """Size at which the stream refuses new messages; an operator may change it on the server."""
    duplicate_window_sec: float = 120.0
    """For how long a message id is recognised."""
    partitioned: bool = False
    """Stored under `<partition>.<subject>`, the partition being that of the account (second token)."""


STREAMS: Final = {
    spec.name: spec
    for spec in (
        StreamSpec(ORDERS, ("orders.*.new", "orders.*.cancel", "orders.*.replace"), 2 * _GIB),
        StreamSpec(EXECUTIONS, ("fills.*", "executions.*"), 8 * _GIB, partitioned=True),
        StreamSpec(LEDGER, ("ledger.*.*",), 8 * _GIB),
        StreamSpec(DEADLETTER, ("deadletter.>",), _GIB // 4),
    )
}


def stream_config(spec: StreamSpec, partitions: int = 16, replicas: int = 1) -> StreamConfig:
    """The server's configuration of `spec`."""
    transform = None
    if spec.partitioned:
        destination = f"{{{{partition({partitions},2)}}}}.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}"
        transform = SubjectTransform(src="*.*", dest=destination)
    return StreamConfig(
        name=spec.name,
        subjects=list(spec.subjects),
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.NEW,
        max_bytes=spec.max_bytes,
        duplicate_window=spec.duplicate_window_sec,
        num_replicas=replicas,
        subject_transform=transform,
        allow_direct=True,
    )


async def ensure_streams(
    js: JetStreamContext, names: tuple[str, ...], *, partitions: int = 16, replicas: int = 1
) -> None:
    """Creates the named streams that do not exist. Harmless to repeat, and for two to do at once.

    Limits of an existing stream are the operator's and stay. Raises `StreamMismatch` when its subjects,
    storage, discard policy or partitioning differ.
    """
    for name in names:
        wanted = stream_config(STREAMS[name], partitions, replicas)
        try:
            found = (await js.stream_info(name)).config
        except NotFoundError:
            try:
                found = (await js.add_stream(wanted)).config
            except BadRequestError:
                # Another service made it in the meantime, or with other limits: what exists is compared
                # below.
                found = (await js.stream_info(name)).config
        _compare(wanted, found)


async def ensure_bucket(
    js: JetStreamContext, bucket: str, *, history: int = 1, replicas: int = 1
) -> KeyValue:
    """The key-value bucket `bucket` (files), created when it does not exist."""
    try:
        return await js.key_value(bucket)
    except BucketNotFoundError:
        config = KeyValueConfig(bucket=bucket, history=history, storage=StorageType.FILE, replicas=replicas)
        return await js.create_key_value(config)


def _compare(wanted: StreamConfig, found: StreamConfig) -> None:
    differences = [
        f"{key} is {have!r}, expected {want!r}"
        for key, want, have in (
            ("subjects", sorted(wanted.subjects or []), sorted(found.subjects or [])),
            ("storage", wanted.storage, found.storage),
            ("discard", wanted.discard, found.discard),
            ("subject_transform", _destination(wanted), _destination(found)),
        )
        if want != have
    ]
    if differences:
        raise StreamMismatch(f"stream {wanted.name}: {'; '.join(differences)}")


def _destination(config: StreamConfig) -> str | None:
    transform = config.subject_transform
    return None if transform is None else f"{transform.src} -> {transform.dest}"
