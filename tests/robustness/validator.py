"""What must hold of an account at rest, as a table of checks, each a function that yields what is wrong.

A check compares two tellings that do not come from each other: what callers saw, what the model makes of the
drop copy, what each store holds. At rest means: no caller waits, and the stores had time to follow.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from tests.robustness.case import Case, terms_of
from tests.robustness.group_checks import GROUP_CHECKS
from tests.robustness.history import (
    AmendAttempt,
    Attempt,
    Copied,
    CopiedOrder,
    CopiedTerms,
    History,
    Look,
    Told,
)
from tests.robustness.model import ENDS, OPEN, ZERO
from tests.robustness.observed import Observed, StoredFill

# "Timeouts and errors are not outcomes": the same request may be sent again and then succeed.
PASSING_REASONS = frozenset({"risk_timeout", "risk_error", "ledger_unavailable", "not_published"})
REVIEW = "review"
"""Way of the attempts that ask once more for what was submitted, when all faults are over."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must not be."""

    check: str
    account: str
    what: str


def validate(history: History, observed: Observed) -> list[Violation]:
    """Every violation of one account."""
    case = Case(history, observed)
    return [Violation(name, observed.account, what) for name, check in CHECKS.items() for what in check(case)]


def _submitted_is_recorded(case: Case) -> Iterator[str]:
    logged = {row.order_id for row in case.observed.logged if row.event == "reserved"}
    for tries in case.tries:
        for order_id in _told(tries, Told.SUBMITTED):
            order = case.model.orders.get(order_id)
            leaves_later = order is not None and order.entry is not None
            if order_id not in case.observed.journal and not leaves_later:
                yield f"{order_id} was answered `submitted` and is not in stream ORDERS"
            if order_id not in logged:
                yield f"{order_id} was answered `submitted` and is not in orders_log"
            if order_id not in case.model.orders:
                yield f"{order_id} was answered `submitted` and is not in the drop copy"


def _one_outcome(case: Case) -> Iterator[str]:
    for tries in case.tries:
        intent = tries[0].intent
        submitted = [t for t in tries if t.answer.told is Told.SUBMITTED and t.intent == intent]
        if len(ids := {t.answer.order_id for t in submitted}) > 1:
            yield f"{intent.client_order_id} was answered `submitted` with {len(ids)} ids: {sorted(ids)}"
        for rejected in (t for t in tries if t.answer.told is Told.REJECTED and t.intent == intent):
            for other in submitted:
                final = rejected.answer.reason not in PASSING_REASONS
                if other.ended <= rejected.began or (final and rejected.ended <= other.began):
                    yield (
                        f"{intent.client_order_id} was answered both `submitted` "
                        f"({other.answer.order_id}) and `rejected` ({rejected.answer.reason})"
                    )
        if tries[-1].way == REVIEW and tries[-1].answer.told is not Told.SUBMITTED:
            yield f"{intent.client_order_id} was submitted, and at rest that is told as {tries[-1].answer}"
        for other in tries:
            if other.intent != intent and other.answer.told is Told.SUBMITTED:
                yield f"{intent.client_order_id} was submitted with other terms too: {other.answer.order_id}"


def _rejected_never_trades(case: Case) -> Iterator[str]:
    for tries in case.tries:
        last = max(tries, key=lambda t: t.ended)
        if last.answer.told is not Told.REJECTED or _told(tries, Told.SUBMITTED):
            continue
        for order in case.by_client_id[last.intent.client_order_id]:
            if order.state == OPEN or order.executed:
                yield (
                    f"{last.intent.client_order_id} was last answered `rejected` ({last.answer.reason}), "
                    f"and its order {order.order_id} is {order.state} with {order.executed} executed"
                )


def _executes_once(case: Case) -> Iterator[str]:
    for order_id, times in case.observed.journal.items():
        # An exit that the venue has not confirmed is sent again by others than who sent it first.
        exits = order_id in case.model.orders and case.model.orders[order_id].entry is not None
        if times > 1 and not exits:
            yield f"{order_id} is {times} times in stream ORDERS"
    for client_id, orders in case.by_client_id.items():
        sent = [order.order_id for order in orders if order.order_id in case.observed.journal]
        if len(sent) > 1 and client_id:
            yield f"{client_id} was sent to the venue {len(sent)} times: {sorted(sent)}"
    for order_id in case.observed.journal:
        if order_id not in case.model.orders:
            yield f"{order_id} is in stream ORDERS and was never reserved"


def _terms_are_the_callers(case: Case) -> Iterator[str]:
    for tries in case.tries:
        intents = [terms_of(intent) for intent in {t.intent for t in tries}]
        for order in case.by_client_id[tries[0].intent.client_order_id]:
            if replace(order.terms, group_id="") not in intents:
                yield f"{order.order_id} has other terms than its caller gave: {order.terms}, asked {intents}"
    known = {tries[0].intent.client_order_id for tries in case.tries}
    for client_id, orders in case.by_client_id.items():
        # One without an id of its own is known by its group, which is looked at as a whole.
        strangers = [order for order in orders if client_id or not order.terms.group_id]
        if client_id not in known and strangers:
            yield f"{strangers[0].order_id} ({client_id}) was never asked for"


def _every_fill_everywhere(case: Case) -> Iterator[str]:
    copied = {
        fill_id: StoredFill(fill_id, event.order_id, f.symbol, f.side, f.quantity, f.price)
        for fill_id, event in case.model.fills.items()
        if (f := event.fill) is not None
    }
    tellings: Mapping[str, list[StoredFill]] = {
        "table fills": case.observed.stored_fills,
        "stream EXECUTIONS": case.observed.reported_fills,
    }
    for where, fills in tellings.items():
        for fill_id, times in Counter(fill.fill_id for fill in fills).items():
            if times > 1:
                yield f"trade {fill_id} is {times} times in {where}"
        told = {fill.fill_id: fill for fill in fills}
        for fill_id in copied.keys() - told.keys():
            yield f"trade {fill_id} of {copied[fill_id].order_id} is missing in {where}"
        for fill_id in told.keys() - copied.keys():
            yield f"trade {fill_id} of {told[fill_id].order_id} is in {where} and not in the drop copy"
        for fill_id in copied.keys() & told.keys():
            if copied[fill_id] != told[fill_id]:
                yield f"trade {fill_id} in {where} is {told[fill_id]}, in the drop copy {copied[fill_id]}"


def _positions_are_sums(case: Case) -> Iterator[str]:
    seen = case.observed
    held = {symbol: position.quantity for symbol, position in seen.positions.items()}
    tellings = {"the ledger": held, "the venue": seen.venue_positions, "the projection": seen.projected}
    for symbol in {*case.model.positions, *held, *seen.venue_positions, *seen.projected}:
        expected = case.model.positions.get(symbol, ZERO)
        for where, told in tellings.items():
            if told.get(symbol, ZERO) != expected:
                yield f"{symbol}: position in {where} is {told.get(symbol, ZERO)}, Σ fills {expected}"


def _reservations_are_leaves(case: Case) -> Iterator[str]:
    symbols = {order.terms.symbol for order in case.model.orders.values()} | case.observed.positions.keys()
    for symbol in symbols:
        position = case.observed.positions.get(symbol)
        for side in ("buy", "sell"):
            held = ZERO if position is None else position.open_buy if side == "buy" else position.open_sell
            expected = case.model.held(symbol, side)
            if held != expected:
                yield f"{symbol}: open {side} quantity is {held}, open orders need {expected}"
    expected_count = sum(o.state == OPEN and not o.waits for o in case.model.orders.values())
    if case.observed.open_orders != expected_count:
        yield f"risk counts {case.observed.open_orders} open orders, there are {expected_count}"


def _orders_agree(case: Case) -> Iterator[str]:
    told = case.observed.orders
    for order_id in case.model.orders.keys() - told.keys():
        yield f"{order_id} is in the drop copy and not listed"
    for order_id in told.keys() - case.model.orders.keys():
        yield f"{order_id} is listed and not in the drop copy"
    for order_id in case.model.orders.keys() & told.keys():
        ours, listed = case.model.orders[order_id], told[order_id]
        if listed.state.startswith("pending"):
            yield f"{order_id} is still {listed.state}"
        state = listed.state if listed.state in ENDS else OPEN
        if (listed.state == "waiting") != ours.waits:
            yield f"{order_id} is listed {listed.state}, and {'waits' if ours.waits else 'does not wait'}"
        if listed.quantity != ours.quantity:
            yield f"{order_id} is listed with a total of {listed.quantity}, amended to {ours.quantity}"
        if (state, listed.cumulative, listed.leaves) != (ours.state, ours.executed, ours.leaves):
            yield (
                f"{order_id} is listed {listed.state} {listed.cumulative}/{listed.leaves}, "
                f"the drop copy makes it {ours.state} {ours.executed}/{ours.leaves}"
            )


def _venue_agrees(case: Case) -> Iterator[str]:
    working = [order for order in case.model.orders.values() if order.state == OPEN and not order.waits]
    ours = {order.order_id: order.leaves for order in working}
    for order_id in ours.keys() | case.observed.venue_open.keys():
        here, there = ours.get(order_id), case.observed.venue_open.get(order_id)
        if here != there:
            yield f"{order_id}: open quantity {here} here, {there} at the venue"


def _drop_copy_is_whole(case: Case) -> Iterator[str]:
    yield from case.model.complaints
    whole = case.observed.drop_copy
    for number, event in enumerate(whole, 1):
        if event.sequence != number:
            yield f"event {number} of the drop copy has number {event.sequence}"
            break
    for copy in case.history.copies[case.observed.account]:
        yield from copy.complaints
        if len(copy.events) != len(whole):
            yield f"{copy.follower} has {len(copy.events)} events of {len(whole)}"
        for mine, its in zip(copy.events, whole, strict=False):
            if mine != its:
                yield f"{copy.follower} received {mine}, another stream {its}"
                break


def _log_is_the_drop_copy(case: Case) -> Iterator[str]:
    def of_orders(events: list[Copied]) -> set[tuple[int, str, str]]:
        return {(event.sequence, event.order_id, event.kind) for event in events if event.order_id}

    logged = {(row.number, row.order_id, row.event) for row in case.observed.logged if row.order_id}
    copied = of_orders(case.observed.drop_copy)
    for missing in sorted(copied - logged)[:5]:
        yield f"orders_log lacks event {missing}"
    for extra in sorted(logged - copied)[:5]:
        yield f"orders_log has event {extra}, the drop copy has not"
    for number, times in Counter(row.number for row in case.observed.logged).items():
        if times > 1:
            yield f"orders_log has event {number} {times} times"


def _cancels_end_orders(case: Case) -> Iterator[str]:
    for cancel in case.history.cancels:
        order = case.model.orders.get(cancel.order_id)
        if order is not None and cancel.told in ("asked", "ended") and order.state == OPEN:
            yield f"{cancel.order_id}: a cancel was answered `{cancel.told}`, and the order is open"
        if order is not None and cancel.told in ("missing", "error"):
            yield f"{cancel.order_id}: a cancel was answered `{cancel.told}` ({cancel.detail})"


def _amendments_are_the_callers(case: Case) -> Iterator[str]:
    asked: dict[str, list[AmendAttempt]] = defaultdict(list)
    for attempt in case.history.amends:
        order = case.model.orders.get(attempt.order_id)
        if order is None:
            continue
        asked[attempt.order_id].append(attempt)
        # What changes nothing is not recorded; of an order of a group even that is refused.
        unchanged = not order.terms.group_id and _same_terms(attempt, order.terms)
        recorded = any(_same_terms(attempt, terms) for terms in order.amendments.values())
        if attempt.told == "asked" and not recorded and not unchanged:
            entered: CopiedTerms | CopiedOrder = order.terms
            held = [f"{one.quantity} at {one.price}" for one in (entered, *order.amendments.values())]
            wanted = f"{attempt.quantity} at {attempt.price}"
            yield f"{attempt.order_id}: an amendment to {wanted} was answered, and is not recorded: {held}"
        if attempt.told in ("missing", "error"):
            yield f"{attempt.order_id}: an amendment was answered `{attempt.told}` ({attempt.detail})"
    for order in case.model.orders.values():
        for revision, terms in order.amendments.items():
            if not any(_same_terms(attempt, terms) for attempt in asked[order.order_id]):
                yield f"{order.order_id}: nobody asked for revision {revision}: {terms}"


def _same_terms(attempt: AmendAttempt, terms: CopiedTerms | CopiedOrder) -> bool:
    return attempt.quantity == terms.quantity and attempt.price in (None, terms.price)


def _looks_never_go_back(case: Case) -> Iterator[str]:
    by_order: dict[str, list[Look]] = defaultdict(list)
    for look in case.history.looks:
        if look.order_id in case.model.orders:
            by_order[look.order_id].append(look)
    for order_id, looks in by_order.items():
        order = case.model.orders[order_id]
        for look in looks:
            if look.missing:
                yield f"{order_id} was answered NOT_FOUND"
            elif look.state in ENDS and (look.state, look.cumulative) != (order.state, order.executed):
                yield (
                    f"{order_id} was told {look.state} with {look.cumulative} executed, "
                    f"and is {order.state} with {order.executed}"
                )
        looks = sorted((look for look in looks if not look.missing), key=lambda look: look.ended)
        for earlier, later in itertools.combinations(looks, 2):
            if later.began > earlier.ended and later.cumulative < earlier.cumulative:
                yield f"{order_id}: executed quantity went from {earlier.cumulative} to {later.cumulative}"


def _answers_follow_the_contract(case: Case) -> Iterator[str]:
    for tries in case.tries:
        for attempt in tries:
            same = attempt.intent == tries[0].intent
            if attempt.answer.told is Told.ERROR or (attempt.answer.told is Told.CONFLICT and same):
                yield f"{attempt.intent.client_order_id} by {attempt.way}: {attempt.answer}"


CHECKS: Mapping[str, Callable[[Case], Iterator[str]]] = {
    "submitted is recorded": _submitted_is_recorded,
    "one outcome": _one_outcome,
    "rejected never trades": _rejected_never_trades,
    "executes once": _executes_once,
    "terms are the caller's": _terms_are_the_callers,
    "every fill everywhere": _every_fill_everywhere,
    "positions are sums": _positions_are_sums,
    "reservations are leaves": _reservations_are_leaves,
    "orders agree": _orders_agree,
    "venue agrees": _venue_agrees,
    "drop copy is whole": _drop_copy_is_whole,
    "log is the drop copy": _log_is_the_drop_copy,
    "cancels end orders": _cancels_end_orders,
    "amendments are the caller's": _amendments_are_the_callers,
    "looks never go back": _looks_never_go_back,
    "answers follow the contract": _answers_follow_the_contract,
    **GROUP_CHECKS,
}


def _told(tries: list[Attempt], told: Told) -> set[str]:
    return {t.answer.order_id for t in tries if t.answer.told is told}
