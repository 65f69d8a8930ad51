"""The registry of opened accounts: what tells a new account from one whose stored state was lost.

It lives apart from Valkey, in a JetStream key-value bucket. An entry is `opening` from before the first
commit of the account and `open <incarnation>` from before its first reservation; an account whose entry says
`open` and that is not stored under that incarnation is never opened anew.
"""

import asyncio
from dataclasses import dataclass
from typing import Final, Protocol

import nats.errors
import nats.js.errors
from nats.js.kv import KeyValue

from services.ledger.errors import LedgerUnavailable

_OPENING: Final = b"opening"
_OPEN: Final = b"open "


@dataclass(frozen=True, slots=True)
class Registration:
    """An entry. `incarnation` is empty while the account is being opened."""

    revision: int
    incarnation: str


class AccountRegistry(Protocol):
    """Every call raises `LedgerUnavailable` when the registry does not answer."""

    async def look_up(self, account: str) -> Registration | None:
        """The account's entry; None: it was never opened."""

    async def begin(self, account: str) -> Registration:
        """Records that the account is being opened, unless an entry exists; returns the entry."""

    async def confirm(self, account: str, entry: Registration, incarnation: str) -> Registration:
        """Turns the entry `entry`, which says opening, into `open <incarnation>`.

        When it has been changed meanwhile, nothing happens. Returns what the entry says afterwards.
        """


class KvAccountRegistry:
    """The registry in a JetStream key-value bucket."""

    def __init__(self, bucket: KeyValue, timeout: float = 2.0) -> None:
        self._bucket = bucket
        self._timeout = timeout

    async def look_up(self, account: str) -> Registration | None:
        """See `AccountRegistry.look_up`."""
        try:
            async with asyncio.timeout(self._timeout):
                entry = await self._bucket.get(account)
        except nats.js.errors.KeyNotFoundError:
            return None
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise _unreadable(error) from error
        return _registration(account, entry.value, entry.revision)

    async def names(self) -> list[str]:
        """Every account that has an entry. Raises `LedgerUnavailable`."""
        try:
            return await self._bucket.keys()
        except nats.js.errors.NoKeysError:
            return []
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise _unreadable(error) from error

    async def begin(self, account: str) -> Registration:
        """See `AccountRegistry.begin`."""
        try:
            async with asyncio.timeout(self._timeout):
                revision = await self._bucket.create(account, _OPENING)
        except nats.js.errors.KeyWrongLastSequenceError:
            found = await self.look_up(account)
            if found is None:
                raise LedgerUnavailable(f"the registry's entry of {account} was removed") from None
            return found
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise _unreadable(error) from error
        return Registration(revision, "")

    async def confirm(self, account: str, entry: Registration, incarnation: str) -> Registration:
        """See `AccountRegistry.confirm`."""
        try:
            async with asyncio.timeout(self._timeout):
                revision = await self._bucket.update(account, _OPEN + incarnation.encode(), entry.revision)
        except nats.js.errors.KeyWrongLastSequenceError:
            found = await self.look_up(account)
            if found is None:
                raise LedgerUnavailable(f"the registry's entry of {account} was removed") from None
            return found
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise _unreadable(error) from error
        return Registration(revision, incarnation)


class MemoryAccountRegistry:
    """A registry for tests of one process: lost when the process ends."""

    def __init__(self) -> None:
        self.entries: dict[str, Registration] = {}
        self.readable = True

    async def look_up(self, account: str) -> Registration | None:
        """See `AccountRegistry.look_up`."""
        self._check()
        return self.entries.get(account)

    async def begin(self, account: str) -> Registration:
        """See `AccountRegistry.begin`."""
        self._check()
        return self.entries.setdefault(account, Registration(1, ""))

    async def confirm(self, account: str, entry: Registration, incarnation: str) -> Registration:
        """See `AccountRegistry.confirm`."""
        self._check()
        if self.entries[account] == entry:
            self.entries[account] = Registration(entry.revision + 1, incarnation)
        return self.entries[account]

    def _check(self) -> None:
        if not self.readable:
            raise LedgerUnavailable("the registry of opened accounts cannot be read")


def _registration(account: str, value: bytes | None, revision: int | None) -> Registration:
    if value == _OPENING:
        return Registration(revision or 0, "")
    if value is not None and value.startswith(_OPEN):
        return Registration(revision or 0, value[len(_OPEN) :].decode())
    raise LedgerUnavailable(f"the registry's entry of {account} is not readable")


def _unreadable(error: BaseException) -> LedgerUnavailable:
    return LedgerUnavailable(f"the registry of opened accounts cannot be read: {error!r}")
