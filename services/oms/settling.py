"""Commits that were not answered, settled by committing again: never by a read, for a write may be late."""

import asyncio
from typing import Final, Protocol

from services.ledger.commands import Command, Outcome
from services.ledger.errors import CommitUnknown, LedgerUnavailable
from services.runtime.clock import Clock

SETTLE_SEC: Final = 2.0
"""How long an unanswered commit is settled before the client is told that the outcome is unknown."""
COMMIT_TIMEOUT_SEC: Final = 1.0
_PAUSE_SEC: Final = 0.05


class Ledger(Protocol):
    """What settling needs of the account ledger."""

    async def execute(self, command: Command, timeout: float = 1.0) -> Outcome: ...


async def settled(ledger: Ledger, command: Command, clock: Clock, *, gives_up: bool) -> Outcome:
    """Runs `command` until it is answered.

    Raises `CommitUnknown` when no answer comes for `SETTLE_SEC`. With `gives_up`, `LedgerUnavailable` is
    raised as soon as it is certain that the command did nothing: for one that nobody needs to be done.
    """
    deadline = clock.monotonic() + SETTLE_SEC
    unknown = False
    while True:
        try:
            return await ledger.execute(command, timeout=COMMIT_TIMEOUT_SEC)
        except LedgerUnavailable:
            if gives_up and not unknown:
                raise
        except CommitUnknown:
            unknown = True
        if clock.monotonic() >= deadline:
            raise CommitUnknown("no commit was answered")
        await asyncio.sleep(_PAUSE_SEC)
