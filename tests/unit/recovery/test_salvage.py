"""Commits that only the outbox has: carried on, recognised, or of another history."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal

from services.dead_letters import LARGEST_DATA, read_dead_letter
from services.ledger import events as e
from services.ledger.codec import Commit, encode_commit
from services.ledger.journal import Journal
from services.recovery.folding import Folded
from services.recovery.salvage import OutboxEntry, Salvage, interest, letter, salvage
from tests.unit.ledger.making import make_order

OPENED = Commit("a", 1, 10, (e.Opened("life", Decimal(1000)),))
REGISTERED = Commit("a", 2, 20, (e.Registered(),))
ORDER = make_order("a", "1")
RESERVED = Commit("a", 2, 20, (e.Reserved(ORDER),))
ACKNOWLEDGED = Commit("a", 3, 30, (e.Acknowledged(ORDER.order_id, 7),))


def entry(commit: Commit) -> OutboxEntry:
    return OutboxEntry.read(encode_commit(commit.account, commit.seq, commit.time_ns, commit.events))


def sort_out(
    ledger: Iterable[Commit], outbox: Iterable[Commit], snapshot: dict[str, int] | None = None
) -> tuple[Folded, Salvage]:
    entries = [entry(commit) for commit in outbox]
    wanted = interest(entries)
    folded = Folded(0, Journal(), 0, 0, snapshot or {})
    for commit in ledger:
        folded.journal.apply(commit)
        if (commit.account, commit.seq) in wanted:
            folded.told[commit.account, commit.seq] = commit
    return folded, salvage(folded, entries)


def contradicting(found: Salvage) -> list[int]:
    return [one.commit.seq for one, _ in found.contradicting]


def test_what_goes_on_from_the_journal_is_carried_and_what_is_told_already_is_not() -> None:
    folded, found = sort_out([OPENED], [OPENED, RESERVED, ACKNOWLEDGED])
    assert [one.commit for one in found.continuing] == [RESERVED, ACKNOWLEDGED]
    assert found.contradicting == []
    assert folded.accounts["a"].account.event_seq == 3


def test_account_of_which_only_the_outbox_knows_is_carried_whole() -> None:
    _, found = sort_out([], [OPENED, REGISTERED])
    assert [one.commit.seq for one in found.continuing] == [1, 2]


def test_what_follows_on_a_contradiction_is_put_aside_with_it_although_its_number_fits() -> None:
    """Known failure: event 3 of another history was published to LEDGER, which nobody could fold any more."""
    other = replace(OPENED, account="b")
    fitting = Commit("a", 3, 30, (e.Denied(make_order("a", "1")),))
    folded, found = sort_out([OPENED, REGISTERED], [RESERVED, other, fitting])
    assert contradicting(found) == [2, 3]
    assert "LEDGER has another event 2" in found.contradicting[0][1]
    assert [one.commit for one in found.continuing] == [other]
    assert folded.accounts["a"].account.event_seq == 2
    assert folded.accounts["a"].orders == {}


def test_commit_with_a_fitting_number_that_the_account_cannot_have_made_is_put_aside() -> None:
    folded, found = sort_out([OPENED, REGISTERED], [ACKNOWLEDGED])
    assert contradicting(found) == [3]
    assert "event 3 cannot follow event 2" in found.contradicting[0][1]
    assert folded.accounts["a"].account.event_seq == 2


def test_commit_behind_a_hole_is_put_aside() -> None:
    _, found = sort_out([OPENED], [ACKNOWLEDGED])
    assert contradicting(found) == [3]
    assert "event 3 follows event 1" in found.contradicting[0][1]


def test_dead_letter_of_a_commit_names_it_and_keeps_it_whole() -> None:
    """Known failure: the bare commit was published, which is no dead letter."""
    reserved = tuple(e.Reserved(make_order("a", "1")) for _ in range(200))
    large = entry(Commit("a", 3, 30, reserved))
    assert len(large.envelope) > LARGEST_DATA
    told = read_dead_letter(letter(7, large, "LEDGER has another event 3"))
    assert told.text is not None
    assert (told.text.encode(), told.truncated) == (large.envelope, False)
    assert (told.stream, told.sequence, told.subject, told.time_ns) == ("outbox:{p7}", 3, "ledger.7.a", 30)
    assert told.reason == "the commit contradicts LEDGER: LEDGER has another event 3"


def test_commit_that_the_snapshot_holds_is_neither() -> None:
    _, found = sort_out([OPENED, REGISTERED], [REGISTERED, ACKNOWLEDGED], {"a": 2})
    assert contradicting(found) == [3]
    assert found.continuing == []
