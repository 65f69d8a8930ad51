"""The journal's form on the wire, and its fold."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from services.ledger import events as e
from services.ledger.codec import (
    Commit,
    PositionChange,
    UnknownFormat,
    decode_commit,
    decode_commits,
    decode_order,
    decode_positions,
    encode_commit,
    encode_order,
    encode_positions,
    join_commits,
)
from services.ledger.events import EVENT_TYPES
from services.ledger.journal import Journal, JournalGap, differences, fingerprint
from services.ledger.numbers import install_context
from services.ledger.order import (
    NO_RESERVATION,
    Group,
    GroupRole,
    OrderState,
    Replacement,
    Reservation,
    Side,
    Terms,
)
from tests.unit.ledger.making import make_order

TERMS = Terms(Decimal("0.000000000000000001"), Decimal("99999999999999999999.5"), None, Decimal(7))
HELD = Reservation(Decimal(1), Decimal("2.50"), Decimal(0), Decimal("0.1"))
EXAMPLES: dict[str, e.Event] = {
    "opened": e.Opened("life", Decimal(100_000)),
    "registered": e.Registered(),
    "reserved": e.Reserved(make_order("acc")),
    "denied": e.Denied(make_order("acc"), abandoned=True),
    "acknowledged": e.Acknowledged("o", 3),
    "filled": e.Filled(
        "o", "BTCUSDT", Side.SELL, Decimal("0.1"), Decimal("1E+2"), Decimal("-0.01"), "x", "maker", 5, 6,
        late=True, overfill=Decimal("0.05"), unknown=True,
    ),
    "ended": e.Ended("o", OrderState.EXPIRED, "why", "a sentence with \"quotes\" and ü", 4),
    "holding_changed": e.HoldingChanged("o", HELD),
    "activated": e.Activated(replace(make_order("acc"), group=Group("g", GroupRole.EXIT, ("o",), HELD))),
    "cancel_requested": e.CancelRequested("o", 2, "halt"),
    "cancel_rejected": e.CancelRejected("o", "too late", 9),
    "replace_requested": e.ReplaceRequested("o", Replacement(1, TERMS, HELD, NO_RESERVATION), HELD),
    "replaced": e.Replaced("o", 1, 7),
    "replace_rejected": e.ReplaceRejected("o", 1, "no", 8),
    "report_ignored": e.ReportIgnored("o", "fill", "x", "booked before", 10),
    "position_adjusted": e.PositionAdjusted(
        "a", "BTCUSDT", Decimal("-0.1"), Decimal(45000), Decimal("0.1"), Decimal(0), "a fill was lost", "ops",
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _exact() -> None:
    install_context()


def test_there_is_an_example_of_every_event() -> None:
    assert {name: type(event) for name, event in EXAMPLES.items()} == EVENT_TYPES


@pytest.mark.parametrize("name", sorted(EVENT_TYPES))
def test_event_survives_its_way_through_the_journal(name: str) -> None:
    entry = encode_commit("acc", 7, 123, [EXAMPLES[name]])
    assert decode_commit(entry) == Commit("acc", 7, 123, (EXAMPLES[name],))
    assert f'{{"{name}":'.encode() in entry


def test_message_joins_commits_in_their_order() -> None:
    entries = [encode_commit("acc", seq, seq, [EXAMPLES["registered"]]) for seq in (1, 2, 3)]
    assert [commit.seq for commit in decode_commits(join_commits(entries))] == [1, 2, 3]


def test_numbers_carry_their_exact_text() -> None:
    order = make_order("acc", "0.100000000000000000", price="12345678901234567890.000000000000000001")
    record = encode_order(order)
    assert b'"quantity":0.100000000000000000,"price":12345678901234567890.000000000000000001' in record
    assert decode_order(record) == order


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b"[1]",
        b'[{"v":2,"account":"a","seq":1,"time_ns":1,"events":[]}]',
        b'[{"v":1,"account":"a","seq":1,"time_ns":1,"events":[{"teleported":{}}]}]',
        b'[{"v":1,"account":"a","seq":1,"time_ns":1,"events":[{}]}]',
        b'[{"v":1,"account":"a","seq":1,"time_ns":1,"events":[{"acknowledged":{"order_id":"o"}}]}]',
        b'[{"v":1,"x":' + b"[" * 2_000 + b"]" * 2_000 + b"}]",
        b'[{"v":1,"account":"\xff"}]',
    ],
)
def test_what_this_version_cannot_read_is_named_so(payload: bytes) -> None:
    with pytest.raises(UnknownFormat):
        decode_commits(payload)


def test_changed_positions_survive_the_outbox() -> None:
    changes = (PositionChange("BTCUSDT", Decimal("-0.5"), Decimal(100), 12),)
    assert decode_positions(encode_positions(changes)) == changes


def _opened(account: str = "acc") -> Journal:
    journal = Journal()
    journal.apply(Commit(account, 1, 10, (e.Opened("life", Decimal(1000)), e.Registered())))
    return journal


def test_repeated_events_are_skipped_one_by_one() -> None:
    journal = _opened()
    order = make_order("acc")
    steps = journal.apply(Commit("acc", 2, 20, (e.Registered(), e.Reserved(order))))
    assert [(step.seq, step.event) for step in steps] == [(3, e.Reserved(order))]
    assert journal.repeated == 1
    assert journal.apply(Commit("acc", 2, 20, (e.Registered(), e.Reserved(order)))) == []


def test_missing_event_is_an_error() -> None:
    journal = _opened()
    with pytest.raises(JournalGap, match="event 4 follows event 2"):
        journal.apply(Commit("acc", 4, 20, (e.Registered(),)))


def test_journal_that_begins_in_the_middle_is_an_error() -> None:
    with pytest.raises(JournalGap):
        Journal().apply(Commit("acc", 2, 20, (e.Registered(),)))


@pytest.mark.parametrize(
    ("account", "seq", "events"),
    [
        ("acc", 3, (e.Registered(), e.Acknowledged("acc-nobody", 1))),
        ("acc", 3, (e.Registered(), e.Replaced("acc-nobody", 1, 1))),
        ("new", 1, (e.Registered(),)),
    ],
)
def test_event_that_tells_of_what_there_is_not_is_an_error_and_its_commit_is_not_folded(
    account: str, seq: int, events: tuple[e.Event, ...]
) -> None:
    journal = _opened()
    before = fingerprint([journal.accounts["acc"].account], [])
    with pytest.raises(JournalGap, match=f"account {account}: event {seq + len(events) - 1} cannot follow"):
        journal.apply(Commit(account, seq, 20, events))
    assert list(journal.accounts) == ["acc"]
    assert fingerprint([journal.accounts["acc"].account], []) == before


def test_differences_name_every_field() -> None:
    ours, theirs = _opened(), _opened()
    order = make_order("acc")
    ours.apply(Commit("acc", 3, 20, (e.Reserved(order),)))
    found = differences(ours.accounts["acc"], theirs.accounts["acc"])
    assert any("open_orders is 1 in the journal and 0 in the store" in line for line in found)
    assert any("is open in the journal and not stored" in line for line in found)


def test_fingerprint_does_not_depend_on_how_numbers_are_written() -> None:
    one = make_order("acc", "0.1", order_id="acc-01ABCDEFGHJKMNPQRSTVWXYZ01", client_order_id="c")
    two = make_order("acc", "0.10", order_id="acc-01ABCDEFGHJKMNPQRSTVWXYZ01", client_order_id="c")
    assert fingerprint([], [one]) == fingerprint([], [two])
    assert fingerprint([], [one]) != fingerprint(
        [], [make_order("acc", "0.2", order_id=one.order_id, client_order_id="c")]
    )
