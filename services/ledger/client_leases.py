"""Leases that clients hold on their open orders: whoever lets one run out wants the orders canceled.

A lease is in Valkey, so it outlives the worker that renewed it; only the server's clock counts.
"""

from dataclasses import dataclass
from typing import Any

from services.ledger import keys
from services.ledger.connection import Argument
from services.ledger.errors import LedgerUnavailable, NotConnected, RequestRefused, Unanswered
from services.ledger.store import Store, function


@dataclass(frozen=True, slots=True)
class Lapsed:
    """A lease that has run out. `ended` is the server's millisecond at which it did, as text."""

    account: str
    ended: str


class ClientLeases:
    """The leases of all accounts. Every call raises `LedgerUnavailable`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def renew(self, account: str, seconds: float) -> None:
        """The account's lease ends no earlier than in `seconds`."""
        key = keys.client_leases(self._store.keys_of(account).partition)
        await self._call("attend", key, account, int(seconds * 1000))

    async def lapsed(self, partition: int) -> tuple[Lapsed, ...]:
        """Leases of a partition that have run out, the oldest first."""
        answer = await self._call("lapsed", keys.client_leases(partition))
        texts = [item.decode() for item in answer]
        return tuple(map(Lapsed, texts[::2], texts[1::2]))

    async def forget(self, partition: int, lapsed: Lapsed) -> None:
        """Removes a lease that has run out, unless it was renewed since it was looked at."""
        await self._call("lapse", keys.client_leases(partition), lapsed.account, lapsed.ended)

    async def _call(self, name: str, key: str, *arguments: Argument) -> Any:
        try:
            return await self._store.reads.request("FCALL", function(name), 1, key, *arguments)
        except (NotConnected, Unanswered, RequestRefused) as error:
            raise LedgerUnavailable(str(error)) from error
