"""A history of several processes that change one account at once is one that a single worker could have made.

The events of an account are numbered, so the order to check is given and needs no search. It is legal when
each command, applied alone to the fold of the events before it, causes exactly that event and that answer.
It is consistent with real time when no event comes before one of a command that was answered before its own
command began. A command without an event must find, between the commands that certainly came before it and
those that certainly came after, a state in which it is answered as it was.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import accumulate
from multiprocessing import get_context

import redis

from services.ledger import events as e
from services.ledger.account import Account
from services.ledger.codec import decode_commit
from services.ledger.commands import (
    Abandon,
    ApplyReport,
    Command,
    Effect,
    ReportKind,
    RequestCancel,
    Reserve,
)
from services.ledger.continuity import NoJournal
from services.ledger.events import Event
from services.ledger.evolve import event_order, evolve
from services.ledger.keys import outbox
from services.ledger.ledger import Ledger, LedgerOptions
from services.ledger.order import Order
from services.ledger.partition import partition_of
from services.ledger.registry import MemoryAccountRegistry
from services.ledger.transition import Transition, transition
from services.runtime.clock import SystemClock
from services.runtime.local_stack import ValkeyServer
from tests.integration.ledger.concurrent_worker import Call, few_open, work
from tests.integration.ledger.proxy import Faults, faulty_proxy
from tests.unit.ledger.making import abandon, fill, make_order, report, request_cancel, reserve

PROCESSES = 3
ORDERS = 60
COMMANDS = 220


@dataclass(slots=True)
class State:
    """An account after some of its events."""

    account: Account | None = None
    orders: dict[str, Order] = field(default_factory=dict)
    clients: dict[str, str] = field(default_factory=dict)
    """client order id → the order that holds it."""
    given_up: dict[str, str] = field(default_factory=dict)
    """client order id → the order that was given up last under it."""

    def after(self, event: Event, time_ns: int, account: str) -> State:
        order_id = event_order(event)
        changed, order = evolve(self.account, self.orders.get(order_id), event, time_ns, account)
        orders = {**self.orders, order_id: order} if order is not None else self.orders
        clients, given_up = dict(self.clients), dict(self.given_up)
        if isinstance(event, e.Reserved) or (isinstance(event, e.Denied) and not event.abandoned):
            clients[event.order.client_order_id] = event.order.order_id
        elif isinstance(event, e.Ended | e.Denied) and event.abandoned and order is not None:
            clients.pop(order.client_order_id, None)
            given_up[order.client_order_id] = order.order_id
        return State(changed, orders, clients, given_up)

    def apply(self, command: Command, time_ns: int) -> Transition:
        """What the rule book says of `command` here."""
        if isinstance(command, (Reserve, Abandon)):
            named = command.order.order_id
            client = command.order.client_order_id
            if named not in self.orders:
                # An order that was given up holds the id against older ones.
                named = self.clients.get(client) or max(named, self.given_up.get(client, ""))
        else:
            named = command.order_id if isinstance(command, (RequestCancel, ApplyReport)) else ""
        return transition(self.account, self.orders.get(named), command, time_ns)


@dataclass(slots=True)
class Recorded:
    """The events of one account in their order, and the states between them."""

    events: list[Event] = field(default_factory=list)
    times_ns: list[int] = field(default_factory=list)
    states: list[State] = field(default_factory=lambda: [State()])

    def append(self, event: Event, time_ns: int, account: str) -> None:
        self.events.append(event)
        self.times_ns.append(time_ns)
        self.states.append(self.states[-1].after(event, time_ns, account))


def recorded(url: str, account: str) -> Recorded:
    """What the outbox holds of `account`; nobody carries it away in these tests."""
    history = Recorded()
    with redis.Redis.from_url(url) as client:
        entries = client.xrange(outbox(partition_of(account, 16)))
    for _, entry in entries:
        commit = decode_commit(entry[b"e"])
        if commit.account == account:
            assert commit.seq == len(history.events) + 1
            for event in commit.events:
                history.append(event, commit.time_ns, account)
    return history


def cause(event: Event) -> tuple[object, ...]:
    """What identifies the command behind an event: each causes at most one."""
    if isinstance(event, e.Reserved):
        return ("reserve", event.order.order_id)
    if isinstance(event, e.Denied):
        return ("abandon" if event.abandoned else "reserve", event.order.order_id)
    if isinstance(event, e.CancelRequested):
        return ("cancel", event.order_id, event.number)
    if isinstance(event, e.Ended) and not event.stream_seq:
        return ("abandon", event.order_id)
    return ("report", getattr(event, "stream_seq", 0))


def intention(call: Call) -> tuple[object, ...]:
    """The same of an answered command that did something; unanswered ones leave a cancel's number open."""
    command = call.command
    if isinstance(command, Reserve):
        return ("reserve", command.order.order_id)
    if isinstance(command, Abandon):
        return ("abandon", command.order.order_id)
    if isinstance(command, RequestCancel):
        return ("cancel", command.order_id, call.order.cancels if call.order else 0)
    assert isinstance(command, ApplyReport)
    return ("report", command.stream_seq)


def violations(history: Recorded, calls: Sequence[Call]) -> Iterator[str]:
    """Everything that no single worker could have done, as sentences."""
    numbers = {cause(event): number for number, event in enumerate(history.events, 1)}
    did = [call for call in calls if call.effect in (Effect.DONE, Effect.IGNORED)]
    placed: dict[int, Call] = {}
    for call in did:
        number = numbers.get(intention(call))
        if number is None:
            yield f"{intention(call)} was answered {call.effect}, and no event tells of it"
        elif number in placed:
            yield f"event {number} answers two commands: {intention(call)}"
        else:
            placed[number] = call
            yield from _legal(history, number, call)
    yield from _in_real_time(placed)
    yield from _asked_before(history, calls)
    ended = sorted((call.ended, number) for number, call in placed.items())
    latest = list(accumulate((number for _, number in ended), max))
    began = sorted((call.began, number) for number, call in placed.items())
    soonest = list(accumulate((number for _, number in reversed(began)), min))[::-1]
    for call in calls:
        if call.effect is None or call.effect in (Effect.DONE, Effect.IGNORED):
            continue
        before = bisect_left(ended, (call.began, 0))
        after = bisect_left(began, (call.ended, 0))
        low = latest[before - 1] if before else 0
        high = soonest[after] - 1 if after < len(soonest) else len(history.events)
        if not any(_answers(history.states[n], call) for n in range(max(low, 1), high + 1)):
            state = call.order.state if call.order else ""
            yield (
                f"{intention(call)} was answered {call.effect} {state}, "
                f"which no state between events {low} and {high} allows"
            )


def _legal(history: Recorded, number: int, call: Call) -> Iterator[str]:
    time_ns = history.times_ns[number - 1]
    step = history.states[number - 1].apply(call.command, time_ns)
    if step.events != (history.events[number - 1],):
        yield f"event {number} is {history.events[number - 1]}, alone the command causes {step.events}"
    elif (step.outcome.effect, step.outcome.order) != (call.effect, call.order):
        yield f"event {number}: answered {call.effect} {call.order}, alone it is {step.outcome}"


def _answers(state: State, call: Call) -> bool:
    step = state.apply(call.command, 0)
    return not step.events and (step.outcome.effect, step.outcome.order) == (call.effect, call.order)


def _in_real_time(placed: dict[int, Call]) -> Iterator[str]:
    """Going backwards, no command may have begun after one behind it in the order was answered."""
    soonest_end = math.inf
    for number in sorted(placed, reverse=True):
        if placed[number].began > soonest_end:
            yield f"event {number} is of a command that began after a later event's command was answered"
        soonest_end = min(soonest_end, placed[number].ended)


def _asked_before(history: Recorded, calls: Sequence[Call]) -> Iterator[str]:
    """Every event but the account's own comes from some command, answered or not."""
    asked = {intention(call)[:2] for call in calls}
    for number, event in enumerate(history.events, 1):
        if not isinstance(event, (e.Opened, e.Registered)) and cause(event)[:2] not in asked:
            yield f"event {number} was asked for by nobody: {event}"


def commands_of(account: str, seed: int) -> list[list[Command]]:
    """For each process its commands: all know the same orders, and touch them at about the same time."""
    choose = random.Random(seed)
    # Some orders share a client order id, with the same payload or another.
    orders = [
        make_order(
            account,
            "2",
            client_order_id=f"c{choose.randrange(ORDERS * 3 // 4)}",
            digest=choose.choice(("same", "same", "other")),
        )
        for _ in range(ORDERS)
    ]
    parts: list[list[Command]] = [[] for _ in range(PROCESSES)]
    for at in range(COMMANDS):
        near = at * ORDERS // COMMANDS
        for number, part in enumerate(parts):
            order = orders[max(0, min(ORDERS - 1, near + choose.randrange(-4, 5)))]
            sequence = PROCESSES * at + number + 1
            made: Command = choose.choice(
                (
                    reserve(order, few_open),
                    reserve(order, few_open),
                    abandon(order),
                    request_cancel(order, again=choose.random() < 0.5),
                    report(ReportKind.ACCEPTED, order, sequence),
                    report(ReportKind.CANCELED, order, sequence),
                    fill(order, sequence, "1", exec_id=f"x{choose.randrange(COMMANDS)}"),
                )
            )
            part.append(made)
    return parts


async def _history(url: str, seed: int, account: str, timeout: float = 5.0) -> list[Call]:
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        working = [
            loop.run_in_executor(pool, work, url, commands, timeout)
            for commands in commands_of(account, seed)
        ]
        return [call for calls in await asyncio.gather(*working) for call in calls]


async def _opened(url: str, account: str) -> Call:
    """The account's first order, which opens it."""
    ledger = await Ledger.open(LedgerOptions(url=url), MemoryAccountRegistry(), NoJournal(), SystemClock())
    command = reserve(make_order(account))
    began = time.monotonic()
    outcome = await ledger.execute(command)
    await ledger.close()
    return Call(command, began, time.monotonic(), outcome.effect, outcome.order)


async def test_answers_of_several_processes_have_one_legal_order(
    empty_valkey: ValkeyServer, account: str
) -> None:
    first = await _opened(empty_valkey.url, account)
    calls = [first, *await _history(empty_valkey.url, 1, account)]
    history = recorded(empty_valkey.url, account)
    kinds = {call.effect for call in calls}
    assert {Effect.DONE, Effect.REPEATED, Effect.CONFLICT, Effect.NOT_OPEN, Effect.IGNORED} <= kinds
    assert list(violations(history, calls)) == []


async def test_lost_and_late_answers_leave_one_legal_order(empty_valkey: ValkeyServer, account: str) -> None:
    first = await _opened(empty_valkey.url, account)
    async with faulty_proxy("127.0.0.1", empty_valkey.port, 2) as proxy:
        proxy.faults = Faults(lose_answer=0.03, deliver_late=0.03, delay=0.2, longest=0.2)
        calls = [first, *await _history(proxy.url, 2, account, timeout=0.1)]
        assert proxy.done.lost + proxy.done.late > 0
    await asyncio.sleep(0.3)  # what was on its way past the proxy lands
    history = recorded(empty_valkey.url, account)
    assert sum(call.effect is None for call in calls) > 0
    assert list(violations(history, calls)) == []


async def test_the_check_finds_a_false_history(empty_valkey: ValkeyServer, account: str) -> None:
    first = await _opened(empty_valkey.url, account)
    calls = [first, *await _history(empty_valkey.url, 3, account)]
    history = recorded(empty_valkey.url, account)
    assert list(violations(history, calls)) == []
    done = [call for call in calls if call.effect is Effect.DONE and call.order]
    told, refused = done[len(done) // 2], next(call for call in calls if call.effect is Effect.NOT_OPEN)
    assert told.order is not None
    lies = {
        "an answer that was not given": (
            told,
            replace(told, order=replace(told.order, cumulative=told.order.cumulative + 1)),
        ),
        "an order turned round": (told, replace(told, began=told.began + 3600, ended=told.ended + 3600)),
        "an answer from before": (refused, replace(refused, began=first.began, ended=first.began)),
    }
    for lie, (true, false) in lies.items():
        told_so = [false if call is true else call for call in calls]
        assert list(violations(history, told_so)) != [], lie
