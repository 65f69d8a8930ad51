"""The ledger as risk reads it: also knows, without asking anybody, which accounts were never opened."""

from typing import Any

from services.ledger.account import Account
from services.ledger.ledger import Ledger


class RiskLedger(Ledger):
    """A client may check orders of accounts that do not exist at full speed: a missing key is tracked too."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._absent: dict[str, object] = {}

    def known_absent(self, account: str) -> bool:
        """Whether the account was read, was never opened, and nothing has changed since."""
        slot = self._slots.get(account)
        if slot is None or not slot.fresh or slot.copy is None or slot.copy.account is not None:
            return False
        if self._loop.time() - slot.loaded_at > self._options.position_cache_ttl:
            return False
        return self._options.cache_accounts and self._absent.get(account) is slot.copy

    async def account(self, account: str, *, fresh: bool = False) -> Account | None:
        """See `Ledger.account`."""
        found = await super().account(account, fresh=fresh)
        slot = self._slots.get(account)
        if found is None and slot is not None:
            if len(self._absent) > 10_000:
                self._absent.clear()
            self._absent[account] = slot.copy
        elif self._absent:
            self._absent.pop(account, None)
        return found
