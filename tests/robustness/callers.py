"""The platform's callers: seeded traffic over gRPC and REST, with the habits of real clients.

A caller repeats a request whose outcome it does not know under the same client order id. Sometimes it gives
up, or goes away in the middle of a call, or asks again for an order long answered, or uses an id twice by
mistake. Everything that it sees goes into the history.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from tests.robustness.history import (
    AmendAttempt,
    Answer,
    Attempt,
    CancelAttempt,
    GroupAttempt,
    GroupIntent,
    History,
    Intent,
    Look,
    Told,
)
from tests.robustness.intents import Intents, Wanted
from tests.robustness.validator import PASSING_REASONS, REVIEW
from tests.robustness.wire import Grpc, Rest

REPEAT_FOR_SEC: Final = 20.0
"""How long a caller asks again for an outcome that it does not know."""
REVIEWED: Final = 25
"""Of how many submissions a caller asks for the outcome once more when all faults are over."""


@dataclass(frozen=True, slots=True)
class Habits:
    """Chances of what a caller does next and how it takes answers."""

    batch: float = 0.1
    group: float = 0.12
    cancel_group: float = 0.3
    """Of a group just submitted: its orders are canceled while they execute."""
    cancel: float = 0.17
    cancel_all: float = 0.005
    amend: float = 0.1
    look: float = 0.08
    ask_again: float = 0.05
    reuse_id: float = 0.02
    go_away: float = 0.04
    give_up: float = 0.1
    rest: float = 0.4


class Caller:
    """One client with connections of its own."""

    def __init__(
        self,
        name: str,
        seed: int,
        grpc: Grpc,
        rest: Rest,
        history: History,
        accounts: Sequence[str],
        marks: Mapping[str, Decimal],
        pause_sec: float,
    ) -> None:
        """`accounts`: the first is the hot one. `pause_sec`: mean time between an answer and the next
        request."""
        self._choose = random.Random(f"{seed}/{name}")
        self._grpc = grpc
        self._rest = rest
        self._history = history
        self._accounts = accounts
        self._intents = Intents(name, self._choose, accounts, marks)
        self._pause_sec = pause_sec
        self._habits = Habits()
        self._answered: list[Wanted] = []
        self._working: list[str] = []
        self._known: list[str] = []
        self._asked: dict[str, Intent] = {}

    async def run(self, until: asyncio.Event) -> None:
        """Sends requests until the event, then finishes what is on its way, and reviews some outcomes."""
        while not until.is_set():
            await self._act()
            await asyncio.sleep(self._choose.expovariate(1 / self._pause_sec))
        for wanted in self._choose.sample(self._answered, min(REVIEWED, len(self._answered))):
            answer = await self._submit(wanted, REVIEW)
            if answer.told is not Told.SUBMITTED:
                return  # that is a violation already

    async def _act(self) -> None:
        habits = self._habits
        chance = self._choose.random()
        for likely, act in (
            (habits.batch, self._submit_batch),
            (habits.group, self._submit_group),
            (habits.cancel, self._cancel),
            (habits.cancel_all, self._cancel_all),
            (habits.amend, self._amend),
            (habits.look, self._look),
            (habits.ask_again, self._ask_again),
            (habits.reuse_id, self._reuse_id),
            (habits.go_away, self._go_away),
        ):
            if chance < likely:
                await act()
                break
            chance -= likely
        else:
            await self._submit(self._intents.order())

    async def _submit(self, wanted: Wanted, way: str = "") -> Answer:
        """Until an outcome is known, the caller loses patience, or a rejection is taken as final.

        `way`: by which the attempts are known; empty: that which they take.
        """
        deadline = time.monotonic() + REPEAT_FOR_SEC
        pause, answer = 0.05, Answer(Told.UNKNOWN)
        while time.monotonic() < deadline:
            answer = await self._try(wanted, way)
            if answer.told in (Told.SUBMITTED, Told.CONFLICT, Told.ERROR):
                break
            if answer.told is Told.REJECTED:
                if answer.reason not in PASSING_REASONS or self._choose.random() < 0.5:
                    break
            elif way != REVIEW and self._choose.random() < self._habits.give_up:
                break
            await asyncio.sleep(pause * self._choose.uniform(0.8, 1.2))
            pause = min(2 * pause, 1.0)
        return answer

    async def _try(self, wanted: Wanted, way: str = "") -> Answer:
        """One attempt. The answer of a group is that of its first order: all of them have the same."""
        by_rest = self._choose.random() < self._habits.rest
        began = time.monotonic()
        answers = await _ask(self._rest if by_rest else self._grpc, wanted)
        self._note(wanted, way or ("rest" if by_rest else "grpc"), began, answers)
        return answers[0]

    def _note(self, wanted: Wanted, way: str, began: float, answers: Sequence[Answer]) -> None:
        ended = time.monotonic()
        if isinstance(wanted, GroupIntent):
            self._history.note_group(GroupAttempt(wanted, way, began, ended, tuple(answers)))
        else:
            attempt = Attempt(wanted, way, began, ended, answers[0])
            self._history.attempts[wanted.client_order_id].append(attempt)
        for intent, answer in zip(_orders_of(wanted), answers, strict=True):
            if answer.told is Told.SUBMITTED:
                self._known.append(answer.order_id)
                self._working.append(answer.order_id)
                self._asked[answer.order_id] = intent
        if answers[0].told is Told.SUBMITTED:
            self._answered.append(wanted)

    async def _submit_group(self) -> None:
        group = self._intents.group()
        await self._submit(group)
        attempt = self._history.groups[group.text][-1]
        if attempt.answers[0].told is Told.SUBMITTED and self._choose.random() < self._habits.cancel_group:
            await asyncio.sleep(self._choose.uniform(0.0, 0.15))
            if self._choose.random() < 0.15:
                await self._cancel_all_of(group.account)
                return
            unwanted = self._choose.sample(attempt.answers, self._choose.randint(1, len(attempt.answers)))
            await asyncio.gather(*(self._cancel_order(answer.order_id) for answer in unwanted))

    async def _submit_batch(self) -> None:
        left = [self._intents.order() for _ in range(self._choose.randrange(2, 12))]
        for _ in range(5):
            began = time.monotonic()
            by_rest = self._choose.random() < self._habits.rest
            answers = await (self._rest.submit_all(left) if by_rest else self._grpc.submit_all(left))
            for intent, answer in zip(left, answers, strict=True):
                self._note(intent, "batch", began, (answer,))
            open_ones = (Told.UNKNOWN, Told.NOTHING_DONE)
            left = [i for i, answer in zip(left, answers, strict=True) if answer.told in open_ones]
            if not left:
                return
            await asyncio.sleep(self._choose.uniform(0.1, 0.5))

    async def _cancel(self) -> None:
        if self._working:
            await self._cancel_order(self._working.pop(self._choose.randrange(len(self._working))))

    async def _cancel_order(self, order_id: str) -> None:
        by_rest = self._choose.random() < self._habits.rest
        for _ in range(6):
            began = time.monotonic()
            told, detail = await (self._rest.cancel(order_id) if by_rest else self._grpc.cancel(order_id))
            self._history.cancels.append(CancelAttempt(order_id, began, time.monotonic(), told, detail))
            if told != "unknown":
                return
            await asyncio.sleep(self._choose.uniform(0.1, 0.8))

    async def _cancel_all(self) -> None:
        await self._cancel_all_of(self._choose.choice(self._accounts))

    async def _cancel_all_of(self, account: str) -> None:
        began = time.monotonic()
        for order_id in await self._grpc.cancel_all(account, self._choose.choice(("", "BTCUSDT"))):
            self._history.cancels.append(CancelAttempt(order_id, began, time.monotonic(), "asked"))

    async def _amend(self) -> None:
        """New terms of an order that may be working, asked for again while no answer comes."""
        amendable = [order_id for order_id in self._working[-30:] if self._asked[order_id].type != "market"]
        if not amendable:
            return
        order_id = self._choose.choice(amendable)
        intent = self._asked[order_id]
        quantity, price = Decimal(self._choose.randrange(1, 30)) / 100, intent.price
        if price is not None and self._choose.random() < 0.5:
            price += Decimal(self._choose.randrange(-500, 500)) / 100
        by_rest = self._choose.random() < self._habits.rest
        for _ in range(4):
            way = self._rest.amend if by_rest else self._grpc.amend
            told, detail = await way(order_id, quantity, price)
            self._history.amends.append(AmendAttempt(order_id, quantity, price, told, detail))
            if told != "unknown":
                return
            await asyncio.sleep(self._choose.uniform(0.1, 0.8))

    async def _look(self) -> None:
        if not self._known:
            return
        order_id = self._known[-1 - int(self._choose.random() ** 2 * len(self._known))]
        began = time.monotonic()
        seen = await self._grpc.look(order_id)
        if seen is not None:
            state, cumulative = seen
            look = Look(order_id, began, time.monotonic(), state, cumulative, missing=not state)
            self._history.looks.append(look)

    async def _ask_again(self) -> None:
        if self._answered:
            await self._submit(self._choose.choice(self._answered))

    async def _reuse_id(self) -> None:
        if self._answered:
            await self._try(self._intents.mistaken(self._choose.choice(self._answered)))

    async def _go_away(self) -> None:
        """Cancels its own call in the middle; asks again, or never does."""
        wanted = self._intents.group() if self._choose.random() < 0.2 else self._intents.order()
        began = time.monotonic()
        call = asyncio.create_task(_ask(self._grpc, wanted))
        await asyncio.wait({call}, timeout=self._choose.uniform(0.0, 0.03))
        if call.done():
            self._note(wanted, "grpc", began, call.result())
            return
        call.cancel()
        await asyncio.wait({call})
        gone = Answer(Told.UNKNOWN, detail="the caller went away")
        self._note(wanted, "grpc", began, [gone] * len(_orders_of(wanted)))
        if self._choose.random() < 0.5:
            await self._submit(wanted)


async def _ask(client: Grpc | Rest, wanted: Wanted) -> list[Answer]:
    """What was answered for each order."""
    if isinstance(wanted, GroupIntent):
        return await client.submit_group(wanted)
    return [await client.submit(wanted)]


def _orders_of(wanted: Wanted) -> Sequence[Intent]:
    return wanted.orders if isinstance(wanted, GroupIntent) else (wanted,)
