"""Comparing the stored ledger with its journal, on a running system too.

What is stored is read in pieces, each in one transaction that also tells at which event its account stands.
Then the journal, which was folded before, is folded on to that very event, and the two are compared: an event
is by then in LEDGER, or still in the outbox.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from services.ledger import codec, keys
from services.ledger.codec import Commit
from services.ledger.connection import Argument, Connection, Endpoint
from services.ledger.deadline import due_ns, is_sent_again
from services.ledger.journal import FoldedAccount, Journal, differences
from services.ledger.journal_tail import commits_of, journal_messages
from services.ledger.keys import AccountKeys
from services.ledger.order import Order
from services.ledger.partition import partition_of
from services.ledger.registry import KvAccountRegistry
from services.ledger.store import by_field, read_copy, read_holder, read_order
from services.recovery.folding import fold
from services.recovery.site import FAILURES, RecoveryError, Site

Say = Callable[[str], None]

_ANSWER_SEC: Final = 30.0
_ORDERS_AT_ONCE: Final = 500


@dataclass(slots=True)
class Verified:
    """What was compared, and every difference as a sentence."""

    accounts: int = 0
    orders: int = 0
    differences: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Piece:
    """An account and some of its orders, as they stood together."""

    fields: dict[bytes, bytes]
    orders: dict[str, Order | None]
    is_open: dict[str, bool]
    """Whether each order is in the set of open ones."""
    due_ms: dict[str, int | None]
    holders: dict[str, str | None]
    """By client order id."""


async def verify(site: Site, say: Say) -> Verified:
    """Compares every account, order and index; `say` is told each difference at once.

    Raises `RecoveryError` when journal or store cannot be read.
    """
    where = site.where
    connection = Connection(Endpoint.parse(where.ledger_url, where.ledger_db, _ANSWER_SEC))
    done = Verified()
    try:
        await connection.open()
        manifest = (await site.snapshots.valid()).manifest
        registry = KvAccountRegistry(site.registry)
        names = await registry.names()
        for partition in range(where.partitions):
            folded = await fold(site, manifest, partition)
            some = set(folded.accounts)
            for name in names:
                if partition_of(name, where.partitions) == partition and name not in some:
                    entry = await registry.look_up(name)
                    if entry is not None and entry.incarnation:
                        some.add(name)
            store = _Stored(connection, where.partitions)
            pieces = {name: await store.pieces(name, folded.accounts.get(name)) for name in sorted(some)}
            later = _Later(await store.outbox(partition))
            async for messages in journal_messages(site.nats, partition, folded.sequence):
                for message in messages:
                    later.add(commits_of(message))
            found = await store.marks(partition)
            for name, read in pieces.items():
                done.accounts += 1
                for piece in read:
                    done.orders += sum(order is not None for order in piece.orders.values())
                    found += _compared(name, folded.journal, later, piece)
            for line in found:
                say(line)
            done.differences += found
    except FAILURES as error:
        raise RecoveryError(str(error) or type(error).__name__) from error
    finally:
        await connection.close()
    return done


class _Later:
    """Commits after the fold, by account."""

    def __init__(self, commits: Iterable[Commit]) -> None:
        self._by_account: dict[str, dict[int, Commit]] = {}
        self.add(commits)

    def add(self, commits: Iterable[Commit]) -> None:
        for commit in commits:
            self._by_account.setdefault(commit.account, {})[commit.seq] = commit

    def fold_to(self, journal: Journal, account: str, number: int) -> None:
        """Folds an account on, up to event `number`."""
        held = self._by_account.get(account, {})
        for seq in sorted(held):
            known = journal.accounts.get(account)
            last = known.account.event_seq if known is not None else 0
            if last >= number or seq > last + 1:
                return
            journal.apply(held[seq])


class _Stored:
    """Reads what is stored."""

    def __init__(self, connection: Connection, partitions: int) -> None:
        self._connection = connection
        self._partitions = partitions

    async def marks(self, partition: int) -> list[str]:
        """What is wrong with the partition as a whole."""
        if await self._connection.request("EXISTS", keys.rebuilding(partition)):
            return [f"partition {partition} is marked as being rebuilt: a rebuild was interrupted"]
        return []

    async def outbox(self, partition: int) -> list[Commit]:
        answer = await self._connection.request("XRANGE", keys.outbox(partition), "-", "+")
        return [
            codec.decode_commit(dict(zip(flat[::2], flat[1::2], strict=True))[keys.ENVELOPE])
            for _, flat in answer
        ]

    async def pieces(self, name: str, folded: FoldedAccount | None) -> list[_Piece]:
        held = keys.account_keys(name, self._partitions)
        indexed = await self._connection.request("ZRANGE", held.index, 0, -1)
        known = folded.orders if folded is not None else {}
        ids = sorted(known.keys() | {order_id.decode() for order_id in indexed})
        found = []
        for start in range(0, max(1, len(ids)), _ORDERS_AT_ONCE):
            some = ids[start : start + _ORDERS_AT_ONCE]
            clients = {known[i].client_order_id for i in some if i in known} - {""}
            found.append(await self._piece(held, some, sorted(clients)))
        return found

    async def _piece(self, held: AccountKeys, ids: list[str], clients: list[str]) -> _Piece:
        requests: list[tuple[Argument, ...]] = [("HGETALL", held.account)]
        if ids:
            requests += [
                ("MGET", *(held.order_prefix + i for i in ids)),
                ("ZMSCORE", held.open, *ids),
                ("ZMSCORE", held.deadline, *ids),
            ]
        if clients:
            requests.append(("MGET", *(held.client_prefix + client for client in clients)))
        request = self._connection.request
        waiting = [request("MULTI"), *(request(*one) for one in requests), request("EXEC")]
        answers: list[Any] = (await asyncio.gather(*waiting))[-1]
        records, opened, due = answers[1:4] if ids else ([], [], [])
        holders = answers[-1] if clients else []
        return _Piece(
            by_field(answers[0]),
            {i: read_order(record, held.name) for i, record in zip(ids, records, strict=True)},
            {i: score is not None for i, score in zip(ids, opened, strict=True)},
            {i: None if score is None else int(score) for i, score in zip(ids, due, strict=True)},
            {
                client: None if holder is None else read_holder(holder, None, held.name, client)[0]
                for client, holder in zip(clients, holders, strict=True)
            },
        )


def _compared(name: str, journal: Journal, later: _Later, piece: _Piece) -> list[str]:
    """The differences of one piece."""
    stored = read_copy(piece.fields, None).account
    if stored is None:
        known = name in journal.accounts
        return [f"account {name} is {'in the journal' if known else 'registered as open'} and not stored"]
    later.fold_to(journal, name, stored.event_seq)
    held = journal.accounts.get(name)
    if held is None:
        return [f"account {name} is stored at event {stored.event_seq} and not in the journal"]
    if held.account.event_seq != stored.event_seq:
        return [
            (
                f"account {name}: event_seq is {held.account.event_seq} in the journal and "
                f"{stored.event_seq} in the store"
            )
        ]
    ours = replace(held, orders={i: held.orders[i] for i in piece.orders if i in held.orders})
    theirs = {i: order for i, order in piece.orders.items() if order is not None}
    found = differences(ours, FoldedAccount(stored, theirs))
    for order_id, order in ours.orders.items():
        if order_id not in theirs:
            continue
        if piece.is_open[order_id] != order.is_open:
            found.append(f"order {order_id} is {order.state} and {_listed(piece.is_open[order_id])} as open")
        due = due_ns(order)
        expected = None if due is None else due // 1_000_000
        indexed = piece.due_ms[order_id]
        put_off = is_sent_again(order) and indexed is not None and expected is not None and indexed > expected
        if indexed != expected and not put_off:
            found.append(f"order {order_id}: due at {expected}, indexed at {indexed}")
        client = order.client_order_id
        if held.clients.get(client) != order_id or client not in piece.holders:
            continue  # not the holder, or told after the fold, so that the key was not asked for
        # The client id of an ended order is forgotten some day.
        if piece.holders[client] != (order_id if piece.holders[client] or order.is_open else None):
            found.append(f"client order id {client!r} of account {name} does not lead to order {order_id}")
    return found


def _listed(is_open: bool) -> str:
    return "listed" if is_open else "not listed"
