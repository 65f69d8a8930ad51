"""Every key of the ledger. All keys of an account carry the hash tag of its partition, `{p<N>}`."""

from functools import lru_cache
from typing import Final

from services.ledger.partition import PARTITIONS, partition_of

IDENTITY: Final = "ledger:identity"
"""Hash: `id`, `partitions`, and `stream:<name>` = when a stream that the data counts on was created."""

LIFE: Final = "ledger:life"
"""String: names the last rebuild; a server that restarts, or is rebuilt, begins another life of the data."""

TOKEN: Final = "token"
HEAD: Final = "head"
SYMBOL_PREFIX: Final = "s:"
"""Fields of an account hash: commit token, account without positions, one position a symbol."""

ENVELOPE: Final = b"e"
POSITIONS: Final = b"p"
"""Fields of an outbox entry: the commit's events, and the positions that its fills changed."""


def tag(partition: int) -> str:
    """The hash tag of a partition."""
    return f"{{p{partition}}}"


class AccountKeys:
    """The keys of one account and of its partition."""

    __slots__ = (
        "account",
        "client_prefix",
        "deadline",
        "denied",
        "ended",
        "index",
        "name",
        "open",
        "order_prefix",
        "outbox",
        "partition",
    )

    def __init__(self, name: str, partitions: int = PARTITIONS) -> None:
        partition = partition_of(name, partitions)
        braced = tag(partition)
        self.name = name
        self.partition = partition
        self.account = f"account:{braced}:{name}"
        """Hash: the account's state."""
        self.open = f"open:{braced}:{name}"
        """Sorted set (score 0, so by order id, which is by time): orders that have not ended."""
        self.index = f"orders:{braced}:{name}"
        """Sorted set (score 0): every order whose record is still there."""
        self.denied = f"denied:{braced}:{name}"
        """List: denials with a client order id, oldest first, as `<order id> <client order id>`."""
        self.order_prefix = f"order:{braced}:"
        """String `order:{p<N>}:<order id>`: the order's record."""
        self.client_prefix = f"client:{braced}:{name}:"
        """String `client:{p<N>}:<account>:<client order id>` → order id, or what is kept of the order
        once its record has gone (`codec.encode_memory`)."""
        self.deadline = deadline(partition)
        self.outbox = outbox(partition)
        self.ended = ended(partition)


@lru_cache(maxsize=16_384)
def account_keys(name: str, partitions: int = PARTITIONS) -> AccountKeys:
    return AccountKeys(name, partitions)


def deadline(partition: int) -> str:
    """Sorted set: order id by the millisecond at which the sweeper looks at it."""
    return f"deadline:{tag(partition)}"


def outbox(partition: int) -> str:
    """Stream: commits that the relay has not yet carried to LEDGER."""
    return f"outbox:{tag(partition)}"


def ended(partition: int) -> str:
    """Sorted set: id of an ended order by the millisecond of the server's clock at which it ended (a
    tombstone: an hour later). It is in there until its record goes."""
    return f"ended:{tag(partition)}"


def checkpoint(partition: int) -> str:
    """String: sequence in EXECUTIONS up to which every report of the partition is committed."""
    return f"checkpoint:{tag(partition)}"


def relayed(partition: int) -> str:
    """String: sequence in LEDGER up to which every message of the partition is part of the stored state."""
    return f"relayed:{tag(partition)}"


def proven(partition: int) -> str:
    """String: the lives of store and journal in which the partition was found to be no older than LEDGER."""
    return f"proven:{tag(partition)}"


def rebuilding(partition: int) -> str:
    """String: name of the rebuild that is writing the partition; nothing of it may be used."""
    return f"rebuilding:{tag(partition)}"


def lease(partition: int) -> str:
    """String `<worker> <fence>` that expires: who runs the partition's owner tasks."""
    return f"lease:{tag(partition)}"


def fence(partition: int) -> str:
    """Counter of the partition's leases."""
    return f"fence:{tag(partition)}"


def client_leases(partition: int) -> str:
    """Sorted set: account by the millisecond at which its client counts as gone."""
    return f"clients:{tag(partition)}"


WORKERS: Final = "workers:oms"
"""Sorted set: workers that may own partitions, by the millisecond at which their presence ends."""


def projected_position(account: str, symbol: str) -> str:
    """Published key of a position, in oms's own database: a hash with `quantity` and `last_price`.

    Its field `number` is the account's event that set it; a set with a lower number is ignored.
    """
    return f"position:{account}:{symbol}"
