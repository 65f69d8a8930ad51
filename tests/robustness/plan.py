"""Which faults a run injects, as data, and the seeded choice among them.

A deck holds every pair of kind and target once; it is dealt to its end before it is shuffled again, so that a
run of some length hurts everything in every way. Now and then two cards are played together.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tests.robustness.platform import WAYS


class Kind(StrEnum):
    """What is done."""

    KILL = "kill"
    """SIGKILL every process of the part; it is started again after a while."""
    KILL_FIRST = "kill supervisor"
    """SIGKILL the service's supervisor alone: its workers must not outlive it."""
    RESTART = "restart"
    """SIGTERM, the end it takes its time for, start."""
    PAUSE = "pause"
    """SIGSTOP every process of the part, SIGCONT after a while."""
    KILL_WORKER = "kill worker"
    PAUSE_WORKER = "pause worker"
    """One worker hangs; after two seconds its supervisor may kill it."""
    CUT = "cut"
    """Connections of a link break, none can be made."""
    MUTE = "mute"
    """Requests pass, answers do not; connections stay open."""
    LOSSY = "lossy"
    """Pieces are delayed, answers lost, pieces delivered after their sender lost its connection."""
    SLOW = "slow"
    """Every piece is late."""
    FULL = "full"
    """No room: see `faults.py` for what that means for each target."""
    CLOCK = "clock"
    """The service's wall clock jumps, and after a while back."""


_PARTS: Final = ("valkey", "nats", "questdb", "market-data", "live-gateway", "risk", "oms")
_SERVICES: Final = ("market-data", "live-gateway", "risk", "oms")
_SCALING: Final = ("risk", "oms")

TARGETS: Final[Mapping[Kind, tuple[str, ...]]] = {
    Kind.KILL: _PARTS,
    Kind.KILL_FIRST: _SERVICES,
    Kind.RESTART: _PARTS,
    Kind.PAUSE: _PARTS,
    Kind.KILL_WORKER: _SCALING,
    Kind.PAUSE_WORKER: _SCALING,
    Kind.CUT: tuple(WAYS),
    Kind.MUTE: tuple(WAYS),
    Kind.LOSSY: tuple(way for way in WAYS if way.partition(">")[0] in ("callers", "oms", "risk")),
    Kind.SLOW: tuple(WAYS),
    Kind.FULL: ("valkey", "nats", "live-gateway", "questdb", "ORDERS", "EXECUTIONS", "LEDGER"),
    Kind.CLOCK: ("risk", "oms", "live-gateway"),
}

SECONDS: Final[Mapping[Kind, tuple[float, float]]] = {
    Kind.KILL: (0.1, 2.0),
    Kind.KILL_FIRST: (0.1, 1.0),
    Kind.RESTART: (0.0, 1.0),
    Kind.PAUSE: (0.3, 5.0),
    Kind.KILL_WORKER: (0.0, 0.0),
    Kind.PAUSE_WORKER: (0.3, 5.0),
    Kind.CUT: (0.2, 3.0),
    Kind.MUTE: (0.3, 4.0),
    Kind.LOSSY: (2.0, 4.0),
    Kind.SLOW: (1.0, 3.0),
    Kind.FULL: (0.5, 3.0),
    Kind.CLOCK: (1.0, 3.0),
}
"""How long each kind lasts, from … to."""

JUMPS_SEC: Final = (-3600.0, -30.0, -2.0, 2.0, 30.0, 3600.0)
PAIRED: Final = 0.2


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `amount`: seconds of a clock's jump; a chance from 0 to 1 that chooses a worker."""

    kind: Kind
    target: str
    seconds: float
    amount: float = 0.0

    def __str__(self) -> str:
        jump = f" by {self.amount:+.0f} s" if self.kind is Kind.CLOCK else ""
        return f"{self.kind} {self.target}{jump} for {self.seconds:.1f} s"


def plan(seed: int) -> Iterator[tuple[Fault, ...]]:
    """Faults to inject one after the other, without end; those of one tuple at the same time."""
    choose = random.Random(seed)
    deck: list[tuple[Kind, str]] = []

    def deal() -> Fault:
        if not deck:
            deck.extend((kind, target) for kind, targets in TARGETS.items() for target in targets)
            choose.shuffle(deck)
        kind, target = deck.pop()
        amount = choose.choice(JUMPS_SEC) if kind is Kind.CLOCK else choose.random()
        return Fault(kind, target, choose.uniform(*SECONDS[kind]), amount)

    while True:
        first = deal()
        if choose.random() < PAIRED:
            second = deal()
            if second.target != first.target:
                yield first, second
            else:
                yield (first,)
                yield (second,)
        else:
            yield (first,)
