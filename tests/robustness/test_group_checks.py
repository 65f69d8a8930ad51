"""The validator sees what is wrong with groups: one sound account, then one lie a test, found as named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from decimal import Decimal

import pytest

from tests.robustness.history import (
    AmendAttempt,
    Answer,
    CancelAttempt,
    Copied,
    CopiedFill,
    CopiedOrder,
    CopiedTerms,
    DropCopy,
    GroupAttempt,
    GroupIntent,
    History,
    Intent,
    Told,
)
from tests.robustness.observed import LedgerOrder, LedgerPosition, LoggedEvent, Observed, StoredFill
from tests.robustness.validator import validate

ZERO, QUARTER, HALF, ONE, TWO = map(Decimal, ("0", "0.25", "0.5", "1", "2"))
PRICE = Decimal(45_000)
Telling = tuple[History, Observed]

# Group → kind, and of each order: client order id, side, quantity.
GROUPS: dict[str, tuple[str, tuple[tuple[str, str, Decimal], ...]]] = {
    "p": ("oco", (("p1", "sell", ONE), ("p2", "sell", TWO))),
    "o": ("oco", (("o1", "buy", ONE), ("", "buy", TWO))),
    "b": ("bracket", (("b1", "buy", ONE), ("b2", "sell", ONE), ("", "sell", QUARTER))),
    "u": ("bracket", (("", "buy", ONE), ("u2", "sell", ONE))),
    "w": ("bracket", (("w1", "buy", ONE), ("w2", "sell", ONE), ("w3", "sell", QUARTER))),
    "d": ("oco", (("d1", "sell", ONE), ("d2", "sell", ONE))),
}
# Order → its state, total and executed quantity at rest.
LISTED: dict[str, tuple[str, Decimal, Decimal]] = {
    "p-1": ("filled", ONE, ONE),
    "p-2": ("canceled", TWO, ZERO),
    "o-1": ("new", ONE, ZERO),
    "o-2": ("new", TWO, ZERO),
    "b-1": ("canceled", ONE, HALF),
    "b-2": ("partially_filled", HALF, QUARTER),
    "b-3": ("canceled", QUARTER, ZERO),
    "u-1": ("canceled", ONE, ZERO),
    "u-2": ("canceled", ONE, ZERO),
    "w-1": ("partially_filled", ONE, HALF),
    "w-2": ("waiting", ONE, ZERO),
    "w-3": ("waiting", QUARTER, ZERO),
    "d-1": ("denied", ONE, ZERO),
    "d-2": ("denied", ONE, ZERO),
}
OPEN = {"new", "partially_filled", "waiting"}
SENT_TOGETHER = (("p-1", "p-2"), ("o-1", "o-2"), ("b-1",), ("b-2", "b-3"), ("u-1",), ("w-1",))


def intent_of(group: str) -> GroupIntent:
    kind, orders = GROUPS[group]
    return GroupIntent.of(
        kind, [Intent(name, "g", "BTCUSDT", side, "limit", size, PRICE) for name, side, size in orders]
    )


def entered(order_id: str, kind: str = "reserved", quantity: Decimal | None = None) -> Copied:
    group, _, place = order_id.partition("-")
    of, orders = GROUPS[group]
    name, side, size = orders[int(place) - 1]
    waits = of == "bracket" and place != "1" and kind == "reserved"
    state = "waiting" if waits else "denied" if kind == "denied" else "pending_new"
    terms = CopiedOrder(name, "BTCUSDT", side, "limit", quantity or size, PRICE, None, f"{group}-1")
    return Copied(0, kind, order_id, state, "", None, terms)


def trade(order_id: str, fill_id: str, quantity: Decimal) -> Copied:
    group, _, place = order_id.partition("-")
    fill = CopiedFill(fill_id, "BTCUSDT", GROUPS[group][1][int(place) - 1][1], quantity, PRICE)
    return Copied(0, "filled", order_id, "", "", fill, None)


def plain(kind: str, order_id: str = "", state: str = "", reason: str = "") -> Copied:
    return Copied(0, kind, order_id, state, reason, None, None)


def ended(order_id: str, reason: str = "", state: str = "canceled") -> Copied:
    return plain("ended", order_id, state, reason)


EVENTS = (
    plain("opened"),
    entered("p-1"),
    entered("p-2"),
    entered("o-1"),
    entered("o-2"),
    entered("b-1"),
    entered("b-2"),
    entered("b-3"),
    entered("u-1"),
    entered("u-2"),
    entered("w-1"),
    entered("w-2"),
    entered("w-3"),
    entered("d-1", "denied"),
    entered("d-2", "denied"),
    trade("p-1", "f1", ONE),
    plain("holding_changed", "p-2"),
    ended("p-2", "sibling_executed"),
    trade("b-1", "f2", HALF),
    plain("holding_changed", "b-2"),
    ended("b-1", "client_request"),
    entered("b-2", "activated", HALF),
    entered("b-3", "activated"),
    trade("b-2", "f3", QUARTER),
    ended("b-3", "sibling_executed"),
    ended("u-1", "client_request"),
    ended("u-2", "entry_unfilled"),
    trade("w-1", "f4", HALF),
)


def tell(history: History, observed: Observed, events: Sequence[Copied]) -> None:
    """Everybody who follows the account is told these events."""
    numbered = [replace(event, sequence=number) for number, event in enumerate(events, 1)]
    observed.drop_copy = numbered
    observed.logged = [LoggedEvent(event.sequence, event.order_id, event.kind) for event in numbered]
    history.copies["g"] = [DropCopy("g by grpc", list(numbered)), DropCopy("g by rest", list(numbered))]


def sound() -> Telling:
    """p: one executed; o: both are open; b: an exit works; u: unfilled; w: exits wait; d: denied."""
    history, observed = History(), Observed("g")
    for group, (_, orders) in GROUPS.items():
        answers = tuple(
            Answer(Told.REJECTED, "", "order_size_limit")
            if group == "d"
            else Answer(Told.SUBMITTED, f"{group}-{place}")
            for place in range(1, len(orders) + 1)
        )
        unknown = (Answer(Told.UNKNOWN),) * len(orders)
        history.note_group(GroupAttempt(intent_of(group), "grpc", 1, 2, unknown))
        history.note_group(GroupAttempt(intent_of(group), "rest", 3, 4, answers))
    tell(history, observed, EVENTS)
    for order_id, (state, total, executed) in LISTED.items():
        group, _, place = order_id.partition("-")
        name, side, _ = GROUPS[group][1][int(place) - 1]
        leaves = total - executed if state in OPEN else ZERO
        observed.orders[order_id] = LedgerOrder(
            order_id, name, "BTCUSDT", side, state, total, executed, leaves, f"{group}-1"
        )
        if state in OPEN - {"waiting"}:
            observed.venue_open[order_id] = leaves
    # To buy: the larger of o, and half of w. To sell: a quarter of b, and what the entry of w executed.
    observed.positions = {"BTCUSDT": LedgerPosition(-QUARTER, Decimal("2.5"), Decimal("0.75"))}
    observed.open_orders = 4
    observed.venue_positions = {"BTCUSDT": -QUARTER}
    observed.projected = {"BTCUSDT": -QUARTER}
    observed.stored_fills = [
        StoredFill(fill.fill_id, event.order_id, fill.symbol, fill.side, fill.quantity, fill.price)
        for event in EVENTS
        if (fill := event.fill) is not None
    ]
    observed.reported_fills = list(observed.stored_fills)
    for ids in SENT_TOGETHER:
        # Exits may be sent twice: the venue takes an order once.
        observed.journal.update(ids * 2 if ids == ("b-2", "b-3") else ids)
        for order_id in ids:
            observed.together[order_id] = {other for other in ids if other != order_id} or {""}
    return history, observed


def altered(*changes: tuple[str, str, Copied | None]) -> Callable[[History, Observed], None]:
    """A lie: the event of that kind and order is another one, or missing."""

    def lie(history: History, observed: Observed) -> None:
        events: list[Copied] = list(EVENTS)
        for kind, order_id, instead in changes:
            place = next(
                i for i, event in enumerate(events) if (event.kind, event.order_id) == (kind, order_id)
            )
            events[place : place + 1] = [] if instead is None else [instead]
        tell(history, observed, events)

    return lie


def added(*events: Copied) -> Callable[[History, Observed], None]:
    return lambda history, observed: tell(history, observed, [*EVENTS, *events])


def moved(kind: str, order_id: str, to: int) -> Callable[[History, Observed], None]:
    """A lie: the event came to another place among the others."""

    def lie(history: History, observed: Observed) -> None:
        event = next(event for event in EVENTS if (event.kind, event.order_id) == (kind, order_id))
        events = [other for other in EVENTS if other is not event]
        tell(history, observed, [*events[:to], event, *events[to:]])

    return lie


def answer(history: History, group: str, *answers: Answer) -> None:
    history.note_group(GroupAttempt(intent_of(group), "grpc", 10, 11, answers))


def submitted(*ids: str) -> list[Answer]:
    return [Answer(Told.SUBMITTED, order_id) for order_id in ids]


def asked_otherwise(history: History, group: str, intent: GroupIntent) -> None:
    """Nobody asked for the group as it is recorded."""
    for tries in history.groups.pop(intent_of(group).text):
        for order in tries.intent.orders:
            history.attempts.pop(order.client_order_id, None)
    answers = tuple(submitted(*(f"{group}-{place}" for place in range(1, len(intent.orders) + 1))))
    history.note_group(GroupAttempt(intent, "grpc", 1, 2, answers))


def shifted(observed: Observed, buy: Decimal = ZERO, sell: Decimal = ZERO) -> None:
    held = observed.positions["BTCUSDT"]
    observed.positions["BTCUSDT"] = replace(
        held, open_buy=held.open_buy + buy, open_sell=held.open_sell + sell
    )


LIES: dict[str, tuple[str, Callable[[History, Observed], object]]] = {
    "a group answered in part": (
        "groups are answered whole",
        lambda h, o: answer(h, "p", *submitted("p-1"), Answer(Told.REJECTED, "", "not_published")),
    ),
    "a group rejected for two reasons": (
        "groups are answered whole",
        lambda h, o: answer(h, "d", Answer(Told.REJECTED, "", "x"), Answer(Told.REJECTED, "", "y")),
    ),
    "a group submitted twice with other ids": (
        "groups are answered whole",
        lambda h, o: answer(h, "p", *submitted("p-1", "p-9")),
    ),
    "a group of which an order is missing": (
        "groups are answered whole",
        altered(("reserved", "o-2", None)),
    ),
    "an entry without a name that was not sent": (
        "groups are answered whole",
        lambda h, o: o.journal.pop("u-1"),
    ),
    "a group in two commits": ("groups are recorded whole", moved("reserved", "p-2", 6)),
    "a group denied in part": (
        "groups are recorded whole",
        altered(("denied", "d-2", entered("d-2"))),
    ),
    "other terms than asked, of an order without a name": (
        "groups are recorded whole",
        altered(("reserved", "o-2", entered("o-2", quantity=ONE))),
    ),
    "a group of another kind": (
        "groups are recorded whole",
        lambda h, o: asked_otherwise(h, "o", GroupIntent.of("bracket", intent_of("o").orders)),
    ),
    "another group in the listing": (
        "groups are recorded whole",
        lambda h, o: o.orders.update({"p-2": replace(o.orders["p-2"], group_id="")}),
    ),
    "an amended order of a group": (
        "groups are recorded whole",
        added(replace(plain("replace_requested", "o-1"), revision=1, terms=CopiedTerms(HALF, PRICE, None))),
    ),
    "an amendment of a group that was taken": (
        "amendments are the caller's",
        lambda h, o: h.amends.append(AmendAttempt("o-1", ONE, PRICE, "asked")),
    ),
    "a leg sent alone": ("groups are sent whole", lambda h, o: o.together.update({"p-2": {""}})),
    "exits sent one by one": (
        "groups are sent whole",
        lambda h, o: o.together.update({"b-2": {""}, "b-3": {""}}),
    ),
    "a leg sent twice": ("executes once", lambda h, o: o.journal.update(["p-2"])),
    "a leg lost on its way": ("submitted is recorded", lambda h, o: o.journal.pop("p-2")),
    "both of a pair executed": ("one of a pair executes", added(trade("b-3", "f9", QUARTER))),
    "an order open although its sibling executed": (
        "one of a pair executes",
        altered(("ended", "p-2", None)),
    ),
    "an order that its sibling's trade did not end": (
        "one of a pair executes",
        altered(("ended", "p-2", ended("p-2", "client_request"))),
    ),
    "an order ended by a trade that never was": (
        "one of a pair executes",
        added(ended("o-1", "sibling_executed")),
    ),
    "an order ended by a trade that came later": (
        "one of a pair executes",
        moved("ended", "p-2", 15),
    ),
    "more executed than the entry": (
        "exits follow their entry",
        altered(("filled", "b-2", trade("b-2", "f3", ONE))),
    ),
    "an exit for more than was filled": (
        "exits follow their entry",
        altered(("activated", "b-2", entered("b-2", "activated", ONE))),
    ),
    "an exit activated before its entry ended": (
        "exits follow their entry",
        moved("activated", "b-2", 20),
    ),
    "an exit sent while it waits": ("exits follow their entry", lambda h, o: o.journal.update(["w-2"])),
    "an exit that was never sent": ("exits follow their entry", lambda h, o: o.journal.pop("b-2")),
    "an exit that outlives its unfilled entry": (
        "exits follow their entry",
        altered(("ended", "u-2", None)),
    ),
    "an exit that waits for a filled entry": (
        "exits follow their entry",
        added(trade("w-1", "f9", HALF)),
    ),
    "an exit that ended for an entry that executed": (
        "exits follow their entry",
        added(ended("w-1"), ended("w-2", "entry_unfilled"), entered("w-3", "activated")),
    ),
    "an exit canceled after it was forgotten": (
        "exits follow their entry",
        altered(("ended", "u-2", ended("u-2", "expired"))),
    ),
    "an exit that trades while it waits": ("drop copy is whole", added(trade("w-2", "f9", QUARTER))),
    "an exit acknowledged while it waits": (
        "drop copy is whole",
        added(plain("acknowledged", "w-2", "new")),
    ),
    "an exit activated again": ("drop copy is whole", added(entered("b-2", "activated", HALF))),
    "an exit activated with other terms": (
        "drop copy is whole",
        altered(
            (
                "activated",
                "b-2",
                replace(
                    entered("b-2", "activated"),
                    order=CopiedOrder("b2", "BTCUSDT", "sell", "limit", HALF, ONE, None, "b-1"),
                ),
            )
        ),
    ),
    "an exit without its entry": ("drop copy is whole", altered(("reserved", "u-1", None))),
    "a pair that holds for both": ("reservations are leaves", lambda h, o: shifted(o, buy=ONE)),
    "an executed pair that still holds": ("reservations are leaves", lambda h, o: shifted(o, sell=TWO)),
    "an exit that holds more than was filled": (
        "reservations are leaves",
        lambda h, o: shifted(o, sell=HALF),
    ),
    "an exit that holds nothing": ("reservations are leaves", lambda h, o: shifted(o, sell=-HALF)),
    "waiting exits that count as open orders": (
        "reservations are leaves",
        lambda h, o: setattr(o, "open_orders", 6),
    ),
    "a waiting exit that is listed as new": (
        "orders agree",
        lambda h, o: o.orders.update({"w-2": replace(o.orders["w-2"], state="new")}),
    ),
    "a waiting exit that the venue has": ("venue agrees", lambda h, o: o.venue_open.update({"w-2": ONE})),
    "a cancel that a waiting exit survives": (
        "cancels end orders",
        lambda h, o: h.cancels.append(CancelAttempt("w-2", 30, 31, "asked")),
    ),
}


def test_sound_groups_have_no_violation() -> None:
    assert validate(*sound()) == []


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_found(lie: str) -> None:
    check, tell_it = LIES[lie]
    history, observed = deepcopy(sound())
    tell_it(history, observed)
    assert check in {violation.check for violation in validate(history, observed)}


def test_a_mistaken_repetition_is_a_conflict_of_the_whole_group() -> None:
    history, observed = sound()
    first, second = intent_of("p").orders
    other = GroupIntent.of("oco", [replace(first, quantity=TWO), second])
    conflict = (Answer(Told.CONFLICT),) * 2
    history.note_group(GroupAttempt(other, "grpc", 20, 21, conflict))
    assert validate(history, observed) == []
    history.note_group(GroupAttempt(intent_of("p"), "grpc", 22, 23, conflict))
    assert {violation.check for violation in validate(history, observed)} == {"answers follow the contract"}


def test_a_pair_of_which_a_cancel_overtook_one_is_answered_one_by_one() -> None:
    history, observed = sound()
    answers = (Answer(Told.REJECTED, "", "not_published"), Answer(Told.SUBMITTED, "o-2"))
    unknown, _ = history.groups[intent_of("o").text]
    history.groups[intent_of("o").text] = [unknown]
    history.attempts["o1"] = history.attempts["o1"][:1]
    answer(history, "o", *answers)
    observed.orders["o-1"] = replace(observed.orders["o-1"], state="canceled", leaves=ZERO)
    del observed.venue_open["o-1"]
    observed.open_orders = 3
    tell(history, observed, [*EVENTS, ended("o-1", "unknown_order")])
    assert validate(history, observed) == []
    tell(history, observed, [*EVENTS, ended("o-1", "client_request")])
    assert {violation.check for violation in validate(history, observed)} == {"groups are answered whole"}


def test_a_group_that_its_submission_gave_up_ends_as_one() -> None:
    history, observed = sound()
    given_up = [(o, "risk_timeout") for o in ("u-1", "u-2")]
    events = [event for event in EVENTS if not (event.kind == "ended" and event.order_id.startswith("u"))]
    tell(history, observed, [*events, *(ended(order_id, reason) for order_id, reason in given_up)])
    assert validate(history, observed) == []


def test_a_pair_of_two_sides_holds_each_its_own_until_one_executes() -> None:
    history, observed = sound()
    buy, sell = intent_of("o").orders
    two_sided = GroupIntent.of("oco", [buy, replace(sell, side="sell")])
    asked_otherwise(history, "o", two_sided)
    reserved = entered("o-2")
    assert reserved.order is not None
    other_side = replace(reserved, order=replace(reserved.order, side="sell"))
    events = [other_side if event == reserved else event for event in EVENTS]
    observed.orders["o-2"] = replace(observed.orders["o-2"], side="sell")
    tell(history, observed, events)
    shifted(observed, buy=-ONE, sell=TWO)
    assert validate(history, observed) == []
