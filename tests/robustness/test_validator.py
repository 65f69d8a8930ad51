"""The validator sees what is wrong: one sound account, then one lie a test, each found by the check named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from decimal import Decimal

import pytest

from tests.robustness.history import (
    AmendAttempt,
    Answer,
    Attempt,
    CancelAttempt,
    Copied,
    CopiedFill,
    CopiedOrder,
    CopiedTerms,
    DropCopy,
    History,
    Intent,
    Look,
    Told,
)
from tests.robustness.observed import LedgerOrder, LedgerPosition, LoggedEvent, Observed, StoredFill
from tests.robustness.test_group_checks import LIES as GROUP_LIES
from tests.robustness.validator import CHECKS, validate

ONE, HALF, ZERO, PRICE = Decimal(1), Decimal("0.5"), Decimal(0), Decimal(45_000)
Telling = tuple[History, Observed]


def intent(name: str, side: str = "buy") -> Intent:
    return Intent(name, "a", "BTCUSDT", side, "limit", ONE, PRICE)


def entered(number: int, kind: str, order_id: str, name: str, reason: str = "") -> Copied:
    terms = CopiedOrder(name, "BTCUSDT", "buy", "limit", ONE, PRICE, None)
    state = "pending_new" if kind == "reserved" else "denied"
    return Copied(number, kind, order_id, state, reason, None, terms)


def trade(number: int, order_id: str, fill_id: str) -> Copied:
    fill = CopiedFill(fill_id, "BTCUSDT", "buy", HALF, PRICE)
    return Copied(number, "filled", order_id, "", "", fill, None)


def plain(number: int, kind: str, order_id: str = "", state: str = "") -> Copied:
    return Copied(number, kind, order_id, state, "", None, None)


def amended(number: int, kind: str, order_id: str) -> Copied:
    terms = CopiedTerms(Decimal(3), PRICE, None) if kind == "replace_requested" else None
    return Copied(number, kind, order_id, "", "", None, None, 1, terms)


def sound() -> Telling:
    """Order 1 is half executed and open, 2 was executed whole, 3 canceled, 4 denied; 5 has no outcome."""
    history = History()
    for number in range(1, 6):
        told = Told.SUBMITTED if number < 4 else Told.REJECTED if number == 4 else Told.UNKNOWN
        answer = Answer(told, f"a-{number}" if number < 4 else "", "order_size_limit" if number == 4 else "")
        asked = Attempt(intent(f"c{number}"), "grpc", 2.0 * number, 2.0 * number + 1, answer)
        unknown = replace(asked, began=asked.began - 1, ended=asked.began, answer=Answer(Told.UNKNOWN))
        history.attempts[f"c{number}"] = [unknown, asked]
    history.cancels.append(CancelAttempt("a-3", 20, 21, "asked"))
    history.looks += [
        Look("a-2", 20, 21, "partially_filled", HALF),
        Look("a-2", 22, 23, "filled", ONE),
    ]
    events = [
        plain(1, "opened"),
        entered(2, "reserved", "a-1", "c1"),
        entered(3, "reserved", "a-2", "c2"),
        entered(4, "reserved", "a-3", "c3"),
        entered(5, "denied", "a-4", "c4", "order_size_limit"),
        plain(6, "acknowledged", "a-1", "new"),
        trade(7, "a-1", "f1"),
        trade(8, "a-2", "f2"),
        trade(9, "a-2", "f3"),
        plain(10, "cancel_requested", "a-3", "pending_cancel"),
        plain(11, "ended", "a-3", "canceled"),
    ]
    history.copies["a"] = [DropCopy("a by grpc", list(events)), DropCopy("a by rest", list(events))]

    def listed(order_id: str, state: str, cumulative: Decimal, leaves: Decimal) -> LedgerOrder:
        return LedgerOrder(order_id, f"c{order_id[2:]}", "BTCUSDT", "buy", state, ONE, cumulative, leaves)

    fills = [
        StoredFill(name, order_id, "BTCUSDT", "buy", HALF, PRICE)
        for name, order_id in (("f1", "a-1"), ("f2", "a-2"), ("f3", "a-2"))
    ]
    observed = Observed(
        "a",
        orders={
            order.order_id: order
            for order in (
                listed("a-1", "partially_filled", HALF, HALF),
                listed("a-2", "filled", ONE, ZERO),
                listed("a-3", "canceled", ZERO, ZERO),
                listed("a-4", "denied", ZERO, ZERO),
            )
        },
        positions={"BTCUSDT": LedgerPosition(Decimal("1.5"), HALF, ZERO)},
        open_orders=1,
        venue_open={"a-1": HALF},
        venue_positions={"BTCUSDT": Decimal("1.5")},
        stored_fills=list(fills),
        reported_fills=list(fills),
        logged=[LoggedEvent(event.sequence, event.order_id, event.kind) for event in events],
        journal=Counter(["a-1", "a-2", "a-3"]),
        projected={"BTCUSDT": Decimal("1.5")},
        drop_copy=events,
    )
    return history, observed


def answered(history: History, name: str, answer: Answer, began: float = 40, **terms: object) -> None:
    """Another attempt of an order, later than all others."""
    asked = replace(intent(name), **terms)  # type: ignore[arg-type]
    history.attempts[name].append(Attempt(asked, "rest", began, began + 1, answer))


def lose(observed: Observed, order_id: str) -> None:
    del observed.journal[order_id]


def send_again(observed: Observed) -> None:
    observed.drop_copy.append(entered(12, "reserved", "a-5", "c2"))
    observed.journal["a-5"] += 1


def follower(history: History) -> DropCopy:
    return history.copies["a"][0]


LIES: dict[str, tuple[str, Callable[[History, Observed], object]]] = {
    "submitted, not in the journal": ("submitted is recorded", lambda h, o: lose(o, "a-2")),
    "submitted, not in the log": ("submitted is recorded", lambda h, o: o.logged.pop(1)),
    "submitted twice with two ids": (
        "one outcome",
        lambda h, o: answered(h, "c2", Answer(Told.SUBMITTED, "a-9")),
    ),
    "submitted, then rejected": (
        "one outcome",
        lambda h, o: answered(h, "c2", Answer(Told.REJECTED, "", "risk_error")),
    ),
    "rejected by a rule, then submitted": (
        "one outcome",
        lambda h, o: answered(h, "c4", Answer(Told.SUBMITTED, "a-4")),
    ),
    "rejected and executed": (
        "rejected never trades",
        lambda h, o: h.attempts.update(
            c2=[Attempt(intent("c2"), "rest", 1, 2, Answer(Told.REJECTED, "", "risk_timeout"))]
        ),
    ),
    "an outcome that is not told again": (
        "one outcome",
        lambda h, o: h.attempts["c2"].append(
            Attempt(intent("c2"), "review", 40, 41, Answer(Told.UNKNOWN, detail="ask again"))
        ),
    ),
    "other terms under a used id": (
        "one outcome",
        lambda h, o: answered(h, "c2", Answer(Told.SUBMITTED, "a-2"), quantity=HALF),
    ),
    "twice in the journal": ("executes once", lambda h, o: o.journal.update(["a-2"])),
    "two orders of one id at the venue": (
        "executes once",
        lambda h, o: send_again(o),
    ),
    "published without a reservation": ("executes once", lambda h, o: o.journal.update(["a-7"])),
    "other terms than asked": (
        "terms are the caller's",
        lambda h, o: h.attempts.update(
            c1=[replace(t, intent=replace(t.intent, quantity=HALF)) for t in h.attempts["c1"]]
        ),
    ),
    "an order that nobody asked for": ("terms are the caller's", lambda h, o: h.attempts.pop("c3")),
    "a trade lost by QuestDB": ("every fill everywhere", lambda h, o: o.stored_fills.pop()),
    "a trade doubled by QuestDB": (
        "every fill everywhere",
        lambda h, o: o.stored_fills.append(o.stored_fills[0]),
    ),
    "a trade that only the venue told": (
        "every fill everywhere",
        lambda h, o: o.reported_fills.append(replace(o.reported_fills[0], fill_id="f9")),
    ),
    "a trade at another price": (
        "every fill everywhere",
        lambda h, o: o.stored_fills.__setitem__(0, replace(o.stored_fills[0], price=ONE)),
    ),
    "another position in the ledger": (
        "positions are sums",
        lambda h, o: o.positions.update(BTCUSDT=LedgerPosition(ONE, HALF, ZERO)),
    ),
    "another position at the venue": ("positions are sums", lambda h, o: o.venue_positions.clear()),
    "a projection that lags": ("positions are sums", lambda h, o: o.projected.update(BTCUSDT=ONE)),
    "a reservation that leaks": (
        "reservations are leaves",
        lambda h, o: o.positions.update(BTCUSDT=LedgerPosition(Decimal("1.5"), ONE, ZERO)),
    ),
    "an open order too many": ("reservations are leaves", lambda h, o: setattr(o, "open_orders", 2)),
    "a listed state that is not true": (
        "orders agree",
        lambda h, o: o.orders.update({"a-2": replace(o.orders["a-2"], state="canceled")}),
    ),
    "an order stuck on its way": (
        "orders agree",
        lambda h, o: o.orders.update({"a-1": replace(o.orders["a-1"], state="pending_cancel")}),
    ),
    "an order that vanished": ("orders agree", lambda h, o: o.orders.pop("a-2")),
    "open here, unknown to the venue": ("venue agrees", lambda h, o: o.venue_open.clear()),
    "open at the venue, ended here": ("venue agrees", lambda h, o: o.venue_open.update({"a-3": ONE})),
    "a gap in the drop copy": ("drop copy is whole", lambda h, o: o.drop_copy.pop(5)),
    "a trade booked twice": (
        "drop copy is whole",
        lambda h, o: o.drop_copy.append(trade(12, "a-1", "f1")),
    ),
    "more executed than ordered": (
        "drop copy is whole",
        lambda h, o: o.drop_copy.append(trade(12, "a-2", "f9")),
    ),
    "something after the end": (
        "drop copy is whole",
        lambda h, o: o.drop_copy.append(plain(12, "acknowledged", "a-3", "new")),
    ),
    "a follower with a gap": ("drop copy is whole", lambda h, o: follower(h).receive(plain(13, "ended"))),
    "a follower with a repetition": (
        "drop copy is whole",
        lambda h, o: follower(h).receive(plain(11, "ended")),
    ),
    "a follower that stays behind": ("drop copy is whole", lambda h, o: follower(h).events.pop()),
    "two followers that differ": (
        "drop copy is whole",
        lambda h, o: follower(h).events.__setitem__(6, trade(7, "a-1", "f9")),
    ),
    "a heartbeat ahead of its stream": ("drop copy is whole", lambda h, o: follower(h).heartbeat(12)),
    "a log with a gap": ("log is the drop copy", lambda h, o: o.logged.pop()),
    "a log with a repetition": ("log is the drop copy", lambda h, o: o.logged.append(o.logged[-1])),
    "a cancel without effect": (
        "cancels end orders",
        lambda h, o: h.cancels.append(CancelAttempt("a-1", 30, 31, "asked")),
    ),
    "a cancel of an order that is said not to exist": (
        "cancels end orders",
        lambda h, o: h.cancels.append(CancelAttempt("a-1", 30, 31, "missing")),
    ),
    "an amendment that was answered and is not there": (
        "amendments are the caller's",
        lambda h, o: h.amends.append(AmendAttempt("a-1", Decimal(3), PRICE, "asked")),
    ),
    "an amendment that nobody asked for": (
        "amendments are the caller's",
        lambda h, o: o.drop_copy.append(amended(12, "replace_requested", "a-1")),
    ),
    "an answer to no amendment": (
        "drop copy is whole",
        lambda h, o: o.drop_copy.append(amended(12, "replaced", "a-1")),
    ),
    "an amendment asked for again with other terms": (
        "drop copy is whole",
        lambda h, o: o.drop_copy.extend(
            [
                amended(12, "replace_requested", "a-1"),
                replace(amended(13, "replace_requested", "a-1"), terms=CopiedTerms(HALF, PRICE, None)),
            ]
        ),
    ),
    "a total that was not amended": (
        "orders agree",
        lambda h, o: o.orders.update({"a-1": replace(o.orders["a-1"], quantity=Decimal(3))}),
    ),
    "an order told not to exist": (
        "looks never go back",
        lambda h, o: h.looks.append(Look("a-1", 30, 31, "", ZERO, missing=True)),
    ),
    "an end that was taken back": (
        "looks never go back",
        lambda h, o: h.looks.append(Look("a-1", 30, 31, "canceled", HALF)),
    ),
    "an executed quantity that shrinks": (
        "looks never go back",
        lambda h, o: h.looks.append(Look("a-2", 30, 31, "partially_filled", HALF)),
    ),
    "an error for a valid request": (
        "answers follow the contract",
        lambda h, o: answered(h, "c5", Answer(Told.ERROR, detail="13: internal")),
    ),
    "a conflict with itself": (
        "answers follow the contract",
        lambda h, o: answered(h, "c5", Answer(Told.CONFLICT)),
    ),
}


def test_a_sound_account_has_no_violation() -> None:
    assert validate(*sound()) == []


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_found(lie: str) -> None:
    check, tell = LIES[lie]
    history, observed = deepcopy(sound())
    tell(history, observed)
    assert check in {violation.check for violation in validate(history, observed)}


def test_every_check_is_tested() -> None:
    lies = [*LIES.values(), *GROUP_LIES.values()]
    assert {check for check, _ in lies} == set(CHECKS)


def test_an_amendment_may_be_sent_again_and_another_taken_back_before_it_came() -> None:
    history, observed = sound()
    history.amends.append(AmendAttempt("a-1", Decimal(3), PRICE, "asked"))
    more = [
        amended(12, "replace_requested", "a-1"),
        amended(13, "replace_requested", "a-1"),
        amended(14, "replace_rejected", "a-1"),
        replace(amended(15, "replace_rejected", "a-1"), revision=2),
    ]
    observed.drop_copy.extend(more)
    observed.logged.extend(LoggedEvent(event.sequence, event.order_id, event.kind) for event in more)
    for copy in history.copies["a"]:
        copy.events.extend(more)
    assert validate(history, observed) == []


def test_a_passing_rejection_may_be_followed_by_a_submission() -> None:
    history, observed = sound()
    first = history.attempts["c2"][0]
    early = replace(first, answer=Answer(Told.REJECTED, "", "risk_timeout"))
    history.attempts["c2"].insert(0, replace(early, began=0.0, ended=0.5))
    assert validate(history, observed) == []
