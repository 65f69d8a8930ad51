"""One of several processes that change the same accounts at once, and what it was answered when."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from services.ledger.account import Account
from services.ledger.commands import Approved, Command, Effect, Refused
from services.ledger.continuity import NoJournal
from services.ledger.errors import CommitUnknown, LedgerUnavailable
from services.ledger.ledger import Ledger, LedgerOptions
from services.ledger.order import Order
from services.ledger.registry import MemoryAccountRegistry
from services.runtime.clock import SystemClock
from tests.unit.ledger.making import hold_price

IN_FLIGHT = 6
MOST_OPEN = 4


def few_open(account: Account, order: Order) -> Approved | Refused:
    """A check whose answer depends on everything that came before: at most `MOST_OPEN` open orders."""
    if account.open_orders >= MOST_OPEN:
        return Refused("max_open_orders", f"{account.open_orders} orders are open")
    return hold_price(account, order)


@dataclass(frozen=True, slots=True)
class Call:
    """One command and its answer. Times of the machine's monotonic clock, which all processes share."""

    command: Command
    began: float
    ended: float
    """Infinite when no answer came: the change may land at any time, or never."""
    effect: Effect | None = None
    order: Order | None = None


def work(url: str, commands: Sequence[Command], timeout: float) -> list[Call]:
    """Runs `commands`, a few at a time, in a process of its own; each has `timeout` seconds."""
    return asyncio.run(_work(url, commands, timeout))


async def _work(url: str, commands: Sequence[Command], timeout: float) -> list[Call]:
    options = LedgerOptions(
        url=url,
        socket_timeout=timeout,
        remembered_denials=100_000,
        opening_cash=Decimal(1_000_000),
        read_ahead=True,
    )
    ledger = await _opened(options)
    turn = asyncio.Semaphore(IN_FLIGHT)
    pauses = random.Random(len(commands))

    async def call(command: Command) -> Call:
        async with turn:
            await asyncio.sleep(pauses.random() * 0.004)
            began = time.monotonic()
            try:
                outcome = await ledger.execute(command, timeout=timeout)
            except (CommitUnknown, LedgerUnavailable):
                return Call(command, began, math.inf)
            return Call(command, began, time.monotonic(), outcome.effect, outcome.order)

    try:
        return await asyncio.gather(*map(call, commands))
    finally:
        await ledger.close()


async def _opened(options: LedgerOptions) -> Ledger:
    """Over a bad network it may take several attempts."""
    while True:
        try:
            return await Ledger.open(options, MemoryAccountRegistry(), NoJournal(), SystemClock())
        except LedgerUnavailable:
            await asyncio.sleep(0.05)
