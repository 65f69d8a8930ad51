"""What only the outbox has: commits that were stored and not carried to LEDGER.

Of each account, in the order of the outbox, they go on from where its journal ends, or they belong to another
history of it. Nothing that follows on the other history may get into LEDGER, also when its number would fit:
whatever is in LEDGER is folded for ever.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from services.dead_letters import dead_letter
from services.ledger import keys
from services.ledger.codec import Commit, decode_commit
from services.ledger.journal import JournalGap
from services.recovery.folding import Folded
from services.runtime.journal_reader import Message


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """A commit as the outbox holds it."""

    commit: Commit
    envelope: bytes

    @classmethod
    def read(cls, envelope: bytes) -> "OutboxEntry":
        """Raises `UnknownFormat`."""
        return cls(decode_commit(envelope), envelope)

    @property
    def last_seq(self) -> int:
        """Number of its last event."""
        return self.commit.seq + len(self.commit.events) - 1


@dataclass(slots=True)
class Salvage:
    """What becomes of an outbox."""

    continuing: list[OutboxEntry] = field(default_factory=list)
    """To be published to LEDGER in this order."""
    contradicting: list[tuple[OutboxEntry, str]] = field(default_factory=list)
    """Not to be published, each with the reason."""


def salvage(folded: Folded, outbox: Iterable[OutboxEntry]) -> Salvage:
    """Sorts out an outbox, and folds what continues the journal.

    `folded` knows, as its commits of interest, what LEDGER tells under the numbers of the outbox.
    """
    found = Salvage()
    contradicted: set[str] = set()
    for entry in outbox:
        commit = entry.commit
        if entry.last_seq <= folded.snapshot.get(commit.account, 0):
            continue
        if folded.told.get((commit.account, commit.seq)) == commit:
            continue
        why = "it follows such a commit" if commit.account in contradicted else _continue(folded, commit)
        if why:
            contradicted.add(commit.account)
            found.contradicting.append((entry, why))
        else:
            found.continuing.append(entry)
    return found


def letter(partition: int, entry: OutboxEntry, why: str) -> bytes:
    """The dead letter of a commit that contradicts LEDGER: whole, since a rebuild empties the outbox."""
    commit = entry.commit
    subject = f"ledger.{partition}.{commit.account}"
    message = Message(commit.seq, subject, entry.envelope, None, commit.time_ns)
    return dead_letter(keys.outbox(partition), message, f"the commit contradicts LEDGER: {why}", None)


def interest(outbox: Sequence[OutboxEntry]) -> set[tuple[str, int]]:
    """The commits of LEDGER that `salvage` compares with."""
    return {(entry.commit.account, entry.commit.seq) for entry in outbox}


def _continue(folded: Folded, commit: Commit) -> str:
    """Folds a commit that continues the journal; otherwise the reason why it does not."""
    held = folded.accounts.get(commit.account)
    if held is not None and commit.seq <= held.account.event_seq:
        return f"LEDGER has another event {commit.seq}"
    try:
        folded.journal.apply(commit)
    except JournalGap as error:
        return str(error)
    return ""
