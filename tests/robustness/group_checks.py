"""What must hold of orders that were submitted together, as further checks of `validator.py`.

One cancels the other (a pair: the legs of an OCO, or the exits of a bracket), or an entry brings its exits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from tests.robustness.case import Case, terms_of
from tests.robustness.history import GroupAttempt, GroupIntent, Told
from tests.robustness.model import OPEN, ModelOrder

SIBLING_EXECUTED: Final = "sibling_executed"
"""Why the venue ends the one of a pair when the other executes."""
ENTRY_UNFILLED: Final = "entry_unfilled"
"""Why exits end whose entry did without execution."""
OVERTAKEN: Final = ("canceled", "unknown_order")
"""How an order ends whose cancel came to the venue before it did."""


def _groups_are_answered_whole(case: Case) -> Iterator[str]:
    for tries in case.group_tries:
        told: set[tuple[str, ...]] = set()
        for attempt in tries:
            if _answered_one_by_one(case, attempt):
                continue
            if len({(answer.told, answer.reason) for answer in attempt.answers}) > 1:
                yield f"orders of one group were answered differently: {attempt.answers}"
            elif attempt.answers[0].told is Told.SUBMITTED:
                told.add(tuple(answer.order_id for answer in attempt.answers))
        if len(told) > 1:
            yield f"a group was answered `submitted` with several ids: {sorted(told)}"
        for ids in told:
            members = case.model.groups.get(ids[0], ())
            if (recorded := tuple(order.order_id for order in members)) != ids:
                yield f"group {ids} was answered `submitted`, the drop copy has {recorded}"
            for order in members:
                if order.entry is None and order.order_id not in case.observed.journal:
                    yield f"{order.order_id} was answered `submitted` and is not in stream ORDERS"


def _answered_one_by_one(case: Case, attempt: GroupAttempt) -> bool:
    """Whether a cancel of one of a pair had come to the venue before the two did, and the other one works."""
    answers = attempt.answers
    lived = next((answer.order_id for answer in answers if answer.told is Told.SUBMITTED), "")
    order = case.model.orders.get(lived)
    members = case.model.groups.get(order.terms.group_id, []) if order is not None else []
    if attempt.intent.kind != "oco" or len(members) != len(answers):
        return False
    overtaken = [(member.state, member.reason) == OVERTAKEN for member in members]
    rejected = [(answer.told, answer.reason) == (Told.REJECTED, "not_published") for answer in answers]
    return any(rejected) and overtaken == rejected


def _groups_are_recorded_whole(case: Case) -> Iterator[str]:
    for group_id, members in case.model.groups.items():
        entered = [order.entered for order in members]
        if members[0].order_id != group_id or entered != list(range(entered[0], entered[0] + len(members))):
            yield f"group {group_id} is not recorded at once: {[order.order_id for order in members]}"
        if len({order.state == "denied" for order in members}) > 1:
            yield f"group {group_id} is denied in part"
        if not any(_is(intent, members) for intent in _asked_with(case, members)):
            yield f"nobody asked for group {group_id}: {[order.terms for order in members]}"
        for order in members:
            listed = case.observed.orders.get(order.order_id)
            if listed is not None and listed.group_id != group_id:
                yield f"{order.order_id} is listed with group {listed.group_id!r}, it is of {group_id}"
            if order.amendments:
                yield f"{order.order_id} is of group {group_id} and was amended"


def _asked_with(case: Case, members: list[ModelOrder]) -> Iterator[GroupIntent]:
    """What callers asked for under a client order id of these orders."""
    named = next((order.terms.client_order_id for order in members if order.terms.client_order_id), "")
    for text in {attempt.intent.group for attempt in case.history.attempts.get(named, ())} - {""}:
        yield case.history.groups[text][0].intent


def _is(intent: GroupIntent, members: list[ModelOrder]) -> bool:
    if [replace(order.terms, group_id="") for order in members] != [terms_of(o) for o in intent.orders]:
        return False
    if members[0].state == "denied":
        return True
    exits = [intent.kind == "bracket" and place > 0 for place in range(len(members))]
    return exits == [order.entry is not None for order in members]


def _groups_are_sent_whole(case: Case) -> Iterator[str]:
    for pair in case.model.pairs():
        # Exits leave when they are activated; one that was canceled before does not go along.
        leaving = {o.order_id for o in pair if o.entry is None or o.activated} & case.observed.together.keys()
        for order_id in leaving:
            came_with = case.observed.together[order_id]
            if came_with != (leaving - {order_id} or {""}):
                yield f"{order_id} was sent to the venue with {sorted(came_with)}, of its pair are {leaving}"


def _one_of_a_pair_executes(case: Case) -> Iterator[str]:
    for pair in case.model.pairs():
        executed = sorted((order for order in pair if order.executed), key=lambda order: order.first_trade)
        if len(executed) > 1:
            yield f"both of a pair executed: {[(order.order_id, order.executed) for order in executed]}"
        for order in pair:
            others = [other for other in executed if other is not order]
            if order.reason == SIBLING_EXECUTED and not any(o.first_trade < order.ended for o in others):
                yield f"{order.order_id} ended because its sibling executed, which it had not"
            if order.executed or not others:
                continue
            if order.state == OPEN:
                yield f"{order.order_id} is open although its sibling {others[0].order_id} executed"
            elif order.ended > others[0].first_trade and (
                (order.state, order.reason) != ("canceled", SIBLING_EXECUTED)
            ):
                yield (
                    f"{order.order_id} was open when its sibling {others[0].order_id} executed, "
                    f"and ended as {order.state} ({order.reason})"
                )


def _exits_follow_their_entry(case: Case) -> Iterator[str]:
    for order in case.model.orders.values():
        if order.entry is not None:
            for what in _wrong_with_exit(order, order.entry, order.order_id in case.observed.journal):
                yield f"exit {order.order_id} {what} ({order.entry.order_id})"


def _wrong_with_exit(order: ModelOrder, entry: ModelOrder, sent: bool) -> Iterator[str]:
    if order.executed > entry.executed:
        yield f"executed {order.executed}, its entry {entry.executed}"
    if sent != bool(order.activated):
        yield "was sent without being activated" if sent else "was activated and never sent"
    if order.activated:
        if entry.state == OPEN or entry.ended > order.activated:
            yield "was activated before its entry ended"
        if order.quantity != min(order.terms.quantity, entry.executed):
            yield f"works for {order.quantity} of {order.terms.quantity}, its entry executed {entry.executed}"
    unfilled = entry.state != OPEN and not entry.executed
    if order.reason == ENTRY_UNFILLED and not unfilled:
        yield f"ended although its entry, {entry.state}, executed {entry.executed}"
    if entry.state == OPEN or order.activated:
        return
    if order.state == OPEN:
        yield f"waits although its entry is {entry.state}"
    elif order.ended > entry.ended and order.reason not in (ENTRY_UNFILLED, entry.reason):
        # Both have one reason when their submission gave them up.
        yield f"was left behind by its entry, and ended later as {order.state} ({order.reason})"


GROUP_CHECKS: Mapping[str, Callable[[Case], Iterator[str]]] = {
    "groups are answered whole": _groups_are_answered_whole,
    "groups are recorded whole": _groups_are_recorded_whole,
    "groups are sent whole": _groups_are_sent_whole,
    "one of a pair executes": _one_of_a_pair_executes,
    "exits follow their entry": _exits_follow_their_entry,
}
