"""A run: rounds of traffic and faults, each ended by rest and validation of all that happened in it.

Accounts are new in each round, so that a violation is found near what caused it, and the accounts of all
rounds are looked at once more in the end: what was settled must still stand.
"""

from __future__ import annotations

import asyncio
import decimal
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Final

import grpc
import httpx
import nats

from tests.robustness.callers import Caller
from tests.robustness.faults import inject
from tests.robustness.followers import follow_grpc, follow_rest
from tests.robustness.group_checks import SIBLING_EXECUTED
from tests.robustness.history import DropCopy, History
from tests.robustness.observed import Observed
from tests.robustness.observer import FAILURES, Observer
from tests.robustness.plan import Fault, plan
from tests.robustness.platform import Platform
from tests.robustness.recovery import BOUND_SEC, Probe, Recovery
from tests.robustness.validator import Violation, validate
from tests.robustness.wire import Grpc, Rest

ACCOUNTS: Final = 5
CALLERS: Final = 8
ROUND_SEC: Final = 90.0
SETTLE_SEC: Final = 90.0
"""At rest, everything agrees within so long."""
SYMBOLS: Final = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
ROUNDING: Final = decimal.Context(
    prec=50, rounding=decimal.ROUND_HALF_EVEN, traps=[decimal.InvalidOperation, decimal.DivisionByZero]
)
"""Prices of the traffic are rounded; what the services install, as tests in one process do, refuses that."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the operator chose. `rate`: requests a second of all callers together, about."""

    seconds: float
    seed: int
    rate: float = 30.0
    faults: tuple[tuple[Fault, ...], ...] = ()
    """Instead of the seeded plan: one round with these."""


@dataclass(frozen=True, slots=True)
class Injected:
    """A fault, or two together, and what came after."""

    faults: tuple[Fault, ...]
    at_sec: float
    recovery: Recovery


@dataclass(slots=True)
class Result:
    """Everything that a run found."""

    options: Options
    injected: list[Injected] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)
    orders: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    settle_sec: list[float] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    took_sec: float = 0.0

    @property
    def faults(self) -> int:
        """How many were injected."""
        return sum(len(injected.faults) for injected in self.injected)

    @property
    def too_slow(self) -> list[Injected]:
        """After which the platform took longer than it may."""
        return [injected for injected in self.injected if injected.recovery.seconds > BOUND_SEC]

    def add(self, table: dict[str, int], name: str, count: int = 1) -> None:
        table[name] = table.get(name, 0) + count


class Run:
    """One run on one platform."""

    def __init__(self, platform: Platform, options: Options) -> None:
        self._platform = platform
        self._options = options
        self._began = time.monotonic()
        self._faults: Iterator[tuple[Fault, ...]] = (
            iter(options.faults) if options.faults else plan(options.seed)
        )
        self._marks: dict[str, Decimal] = {}
        self.result = Result(options)

    async def run(self) -> Result:
        """Rounds until the time is over; always at least one."""
        target = self._platform.where.oms_grpc
        everybody: list[tuple[History, list[str]]] = []
        async with Observer(self._platform.where, target) as observer:
            number = 0
            while number == 0 or (self._left() > 10 and not self._options.faults):
                number += 1
                everybody.append(await self._round(number, observer))
            accounts = [account for _, some in everybody for account in some]
            self._say(f"looking at all {len(accounts)} accounts once more")
            for history, some in everybody[:-1]:
                history.copies.clear()  # their followers have left
                await self._settle(observer, history, some, final=True)
        self.result.took_sec = time.monotonic() - self._began
        return self.result

    def _left(self) -> float:
        return self._options.seconds - (time.monotonic() - self._began)

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:7.1f} s  {text}", flush=True)

    async def _read_marks(self) -> dict[str, Decimal]:
        marks: dict[str, Decimal] = {}
        client = await nats.connect(self._platform.where.nats)
        try:
            subscription = await client.subscribe("ticks.*")
            async with asyncio.timeout(30):
                while marks.keys() < set(SYMBOLS):
                    tick = json.loads((await subscription.next_msg(timeout=30)).data, parse_float=Decimal)
                    marks[tick["symbol"]] = Decimal(tick["price"])
        finally:
            await client.close()
        return marks

    async def _round(self, number: int, observer: Observer) -> tuple[History, list[str]]:
        self._marks = await self._read_marks()
        history = History()
        accounts = [f"round{number}-{index}" for index in range(ACCOUNTS)]
        links = self._platform.links
        grpc_target, rest_root = links["callers>oms"].address, f"http://{links['callers>oms.rest'].address}"
        stop = asyncio.Event()
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            direct = await enter(httpx.AsyncClient(base_url=self._platform.where.oms, timeout=5))
            probe = Probe(
                self._platform,
                await enter(Grpc(grpc_target)),
                await enter(Rest(rest_root)),
                direct,
                history,
                f"round{number}-probe",
            )
            followed = [*accounts, probe.account]
            following = await self._follow(stack, followed, history, grpc_target, rest_root)
            callers = [
                Caller(
                    f"r{number}c{index}",
                    self._options.seed,
                    await enter(Grpc(grpc_target)),
                    await enter(Rest(rest_root)),
                    history,
                    accounts,
                    self._marks,
                    CALLERS / self._options.rate,
                )
                for index in range(CALLERS)
            ]
            calling = [asyncio.create_task(caller.run(stop)) for caller in callers]
            await self._hurt(self._left() if self._options.faults else min(ROUND_SEC, self._left()), probe)
            stop.set()
            await asyncio.gather(*calling)
            self._count_attempts(history)
            await self._settle(observer, history, followed)
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)
        return history, followed

    async def _follow(
        self,
        stack: AsyncExitStack,
        accounts: Sequence[str],
        history: History,
        grpc_target: str,
        rest_root: str,
    ) -> list[asyncio.Task[None]]:
        timeout = httpx.Timeout(4.0)
        following = []
        for account in accounts:
            by_grpc, by_rest = DropCopy(f"{account} by grpc"), DropCopy(f"{account} by rest")
            history.copies[account] += [by_grpc, by_rest]
            channel = await stack.enter_async_context(Grpc(grpc_target))
            client = await stack.enter_async_context(httpx.AsyncClient(base_url=rest_root, timeout=timeout))
            following.append(asyncio.create_task(follow_grpc(channel, account, by_grpc)))
            following.append(asyncio.create_task(follow_rest(client, account, by_rest)))
        return following

    async def _hurt(self, seconds: float, probe: Probe) -> None:
        until = time.monotonic() + seconds
        first = await probe.recovered()
        self._say(f"traffic flows after {first.seconds:.1f} s {first.last_missing}")
        while time.monotonic() < until:
            faults = next(self._faults, None)
            if faults is None:
                return
            at = time.monotonic() - self._began
            await asyncio.gather(*(inject(self._platform, fault) for fault in faults))
            recovery = await probe.recovered()
            self.result.injected.append(Injected(faults, at, recovery))
            self._say(
                f"{' and '.join(map(str, faults))}: whole after {recovery.seconds:.1f} s"
                + (f" ({recovery.last_missing[:160]})" if recovery.seconds > 5 else "")
            )

    def _count_attempts(self, history: History) -> None:
        for tries in history.attempts.values():
            for attempt in tries:
                answer = attempt.answer
                name = f"{answer.told} {answer.reason}".strip()
                self.result.add(self.result.outcomes, name)
        counts = self.result.counts
        self.result.add(counts, "client order ids", len(history.attempts))
        self.result.add(counts, "submissions", sum(map(len, history.attempts.values())))
        self.result.add(counts, "groups", len(history.groups))
        self.result.add(counts, "submissions of groups", sum(map(len, history.groups.values())))
        self.result.add(counts, "cancels", len(history.cancels))
        self.result.add(counts, "amendments", len(history.amends))
        self.result.add(counts, "looks", len(history.looks))

    async def _settle(
        self, observer: Observer, history: History, accounts: Sequence[str], final: bool = False
    ) -> None:
        """Validates until nothing is wrong or `SETTLE_SEC` are over; what is wrong then is a violation.

        Orders still end meanwhile, so an account that agreed once is not looked at again.
        """
        began = time.monotonic()
        violations: list[Violation] = []
        observed: dict[str, Observed] = {}
        left = list(accounts)
        while True:
            try:
                looked = await observer.look(left)
            except (*FAILURES, grpc.aio.AioRpcError) as error:
                violations = [Violation("stores answer", "", repr(error))]
            else:
                observed |= {seen.account: seen for seen in looked}
                violations = [found for seen in looked for found in validate(history, seen)]
                left = [account for account in left if any(v.account == account for v in violations)]
                if not violations:
                    break
            if time.monotonic() - began > SETTLE_SEC:
                break
            await asyncio.sleep(1.0)
        took = time.monotonic() - began
        self.result.violations += violations
        if final:
            return
        self.result.settle_sec.append(took)
        for seen in observed.values():
            for order in seen.orders.values():
                self.result.add(self.result.orders, order.state)
            self.result.add(self.result.counts, "trades", len(seen.stored_fills))
            self.result.add(self.result.counts, "events", len(seen.drop_copy))
            for event in seen.drop_copy:
                if event.kind == "activated":
                    self.result.add(self.result.counts, "exits activated")
                elif event.reason == SIBLING_EXECUTED and event.kind == "ended":
                    self.result.add(self.result.counts, "orders ended by their sibling's trade")
        for copies in history.copies.values():
            self.result.add(self.result.counts, "drop copies resumed", sum(copy.resumed for copy in copies))
        self._say(f"at rest after {took:.1f} s, {len(violations)} violations")
        for violation in violations[:40]:
            self._say(f"  {violation.check}: {violation.what[:400]}")


async def run(folder: Path, options: Options) -> Result:
    """A platform of its own under `folder`, hurt for `options.seconds`."""
    decimal.setcontext(ROUNDING.copy())
    print(f"robustness: seed {options.seed}, {options.seconds:.0f} s, data in {folder}", flush=True)
    async with Platform(folder, options.seed) as platform:
        return await Run(platform, options).run()
