"""Opening accounts in two phases, so that neither a crash nor lost data opens one anew.

Registry entry "opening" → commit `Open` → entry "open <incarnation>" → commit `Register`, folded before the
first other command. Any worker repeats any step, and two at once do no harm.
"""

from collections.abc import Callable
from decimal import Decimal

from services.ledger import commands as c
from services.ledger.draft import Copy, Draft
from services.ledger.errors import LedgerUnavailable
from services.ledger.registry import AccountRegistry
from services.runtime.clock import Clock
from services.runtime.ids import new_ulid


class Opening:
    """The registry's side of an account. Every call raises `LedgerUnavailable`."""

    def __init__(self, registry: AccountRegistry, clock: Clock, cash: Callable[[], Decimal | None]) -> None:
        """`cash` tells what a new account begins with; None: none is opened here."""
        self._registry = registry
        self._clock = clock
        self._cash = cash

    async def was_opened(self, account: str) -> bool:
        """Whether the registry says that the account is open: then it has to be stored."""
        entry = await self._registry.look_up(account)
        return entry is not None and bool(entry.incarnation)

    async def draft(self, account: str) -> Draft | None:
        """The commit that opens an account that is not stored; None when the registry says "open" by now."""
        cash = self._cash()
        if cash is None:
            raise LedgerUnavailable(f"account {account} is not open, and this service opens none")
        entry = await self._registry.begin(account)
        if entry.incarnation:
            return None
        draft = Draft(Copy(), self._clock.now_ns())
        draft.apply(c.Open(account, new_ulid(), cash))
        return draft

    async def confirm(self, account: str, incarnation: str) -> str:
        """Has the registry say that the account is open under `incarnation`, and returns that."""
        entry = await self._registry.look_up(account)
        if entry is None:
            entry = await self._registry.begin(account)
        if not entry.incarnation:
            entry = await self._registry.confirm(account, entry, incarnation)
        if entry.incarnation != incarnation:
            # What is stored was opened after the account's true state had been lost.
            raise LedgerUnavailable(f"account {account} is stored under another incarnation than registered")
        return incarnation
