"""One partition as LEDGER has it: the snapshot, and the events that were told after it."""

from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from nats.js.errors import NotFoundError

from services.ledger.codec import Commit
from services.ledger.journal import FoldedAccount, Journal
from services.ledger.journal_tail import commits_of, journal_messages
from services.ledger.transition import event_order
from services.recovery.site import API_TIMEOUT_SEC, Site
from services.recovery.snapshots import Manifest
from services.runtime.journal_reader import Message, StreamReader
from services.runtime.nats_client import NatsClient
from services.runtime.streams import EXECUTIONS

KEPT_NS: Final = 48 * 3600 * 1_000_000_000
"""Orders that ended longer ago are left out of a snapshot: the store forgets them after half of it."""


@dataclass(slots=True)
class Folded:
    """A partition. `sequence`: the message of LEDGER up to which it is folded."""

    partition: int
    journal: Journal
    sequence: int
    ordered: int
    """The last message that tells of an order."""
    snapshot: dict[str, int]
    """Number of each account's last event in the snapshot."""
    told: dict[tuple[str, int], Commit] = field(default_factory=dict)
    """Commits of interest, by account and first event, as LEDGER has them."""

    @property
    def accounts(self) -> Mapping[str, FoldedAccount]:
        return self.journal.accounts


async def fold(
    site: Site,
    manifest: Manifest,
    partition: int,
    *,
    until: int = 0,
    interest: Collection[tuple[str, int]] = (),
) -> Folded:
    """Folds a partition up to message `until` of LEDGER, or to its present end.

    Commits that begin with an event of `interest` (account, number) are kept as they are. Raises what
    `FAILURES` lists.
    """
    journal = Journal()
    journal.accounts.update(await site.snapshots.accounts(manifest, partition))
    ordered = manifest.ordered[partition] if manifest.ordered else 0
    begun = {name: one.account.event_seq for name, one in journal.accounts.items()}
    folded = Folded(partition, journal, manifest.sequence, ordered, begun)
    await fold_on(site.nats, folded, until=until, interest=interest)
    return folded


async def fold_on(
    client: NatsClient, folded: Folded, *, until: int = 0, interest: Collection[tuple[str, int]] = ()
) -> int:
    """Folds what was told meanwhile; returns the number of new events."""
    new = 0
    async for messages in journal_messages(client, folded.partition, folded.sequence, until):
        for message in messages:
            for commit in commits_of(message):
                new += len(folded.journal.apply(commit))
                if (commit.account, commit.seq) in interest:
                    folded.told[commit.account, commit.seq] = commit
                if any(map(event_order, commit.events)):
                    folded.ordered = message.sequence
        folded.sequence = messages[-1].sequence
    return new


def pruned(accounts: Mapping[str, FoldedAccount], now_ns: int) -> list[FoldedAccount]:
    """The accounts without the orders that nobody can ask for any more."""
    kept = []
    for one in accounts.values():
        orders = {
            order_id: order
            for order_id, order in one.orders.items()
            if order.is_open or order.updated_ns > now_ns - KEPT_NS
        }
        clients = {client: order_id for client, order_id in one.clients.items() if order_id in orders}
        kept.append(FoldedAccount(one.account, orders, one.tombstones & orders.keys(), clients))
    return kept


async def checkpoint(
    client: NatsClient, partition: int, after: int, accounts: Mapping[str, FoldedAccount]
) -> int:
    """Sequence in EXECUTIONS up to which every report of the partition is part of `accounts`.

    `after` is one that is known to be.
    """
    reached = after
    async for messages in _reports(client, partition, after):
        for message in messages:
            held = accounts.get(message.subject.rpartition(".")[2])
            if held is None or message.sequence > held.account.applied_seq:
                return message.sequence - 1
            reached = message.sequence
    return reached


async def _reports(client: NatsClient, partition: int, after: int) -> AsyncIterator[list[Message]]:
    subject = f"{partition}.>"
    try:
        js = client.jetstream(timeout=API_TIMEOUT_SEC)
        last = (await js.get_last_msg(EXECUTIONS, subject)).seq or 0
    except NotFoundError:
        return
    if last <= after:
        return
    async with StreamReader(client, EXECUTIONS, subjects=(subject,), start_sequence=after + 1) as reader:
        async for batch in reader.batches():
            yield batch
            if batch[-1].sequence >= last:
                return
