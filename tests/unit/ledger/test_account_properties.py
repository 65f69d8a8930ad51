"""Properties of every history of an account: exact money, exact reservations, and the fold of its events."""

from __future__ import annotations

import itertools
import random
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from services.ledger.codec import Commit, decode_commits, encode_commit, join_commits
from services.ledger.commands import Command, Open, Register
from services.ledger.draft import Copy, Draft, preread
from services.ledger.journal import FoldedAccount, Journal, differences, fingerprint
from services.ledger.numbers import install_context
from services.ledger.order import Order
from tests.unit.ledger.venue import Traffic, broken_invariants


@given(seed=st.integers(min_value=0), length=st.integers(1, 120), batch=st.integers(1, 9))
def test_any_history_keeps_money_reservations_and_journal_exact(seed: int, length: int, batch: int) -> None:
    install_context()
    rng = random.Random(seed)
    traffic = Traffic("acc", rng, itertools.count(1))
    journal = Journal()
    stored: dict[str, Order] = {}
    clients: dict[str, str] = {}
    copy = Copy()
    commands: list[Command] = [Open("acc", "life", Decimal(100_000)), Register("acc")]
    commands += [
        traffic.client_command() if rng.random() < 0.5 else traffic.venue_report() for _ in range(length)
    ]
    for start in range(0, len(commands), batch):
        part = commands[start : start + batch]
        while missing := preread(part, copy):
            copy.orders.update((order_id, stored.get(order_id)) for order_id in missing)
        # What a refused commit would bring: the holders of order ids and client order ids.
        copy.orders.update(stored)
        copy.clients = dict(clients)
        draft = Draft(copy, 1_000_000 + start)
        for command in part:
            draft.apply(command)
        assert not [result for result in draft.results if isinstance(result, Exception)]
        stored.update(draft.orders)
        for client_id, holder in draft.clients.items():
            clients.pop(client_id, None)
            if holder is not None:
                clients[client_id] = holder
        if draft.events:
            assert draft.account is not None
            seq = draft.account.event_seq - len(draft.events) + 1
            entry = encode_commit("acc", seq, draft.now_ns, draft.events)
            (commit,) = decode_commits(join_commits([entry]))
            assert commit == Commit("acc", seq, draft.now_ns, tuple(draft.events))
            journal.apply(commit)
        copy = Copy("t", draft.account)
        assert draft.account is not None
    account = copy.account
    assert account is not None
    assert broken_invariants(account, list(stored.values()), traffic.expected) == []
    folded = journal.accounts["acc"]
    assert differences(folded, FoldedAccount(account, stored)) == []
    assert fingerprint([account], stored.values()) == fingerprint([folded.account], folded.orders.values())
