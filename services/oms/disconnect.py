"""Cancel on disconnect: the open orders of an account whose client has gone away are canceled.

A drop copy that asks for it holds a lease on the account's orders, and renews it while its client takes what
is sent. A stream that ends gives nothing back: the lease runs out, unless another stream of the account
renews it in time. So it makes no difference whether the client, its network or the worker died.

The owner of the account's partition cancels when a lease has run out, pass after pass, until a pass finds
nothing open; only then the lease is forgotten. It trusts what it sees only after it has looked for a whole
lease without a failure: while Valkey, or every worker, was away, nobody could renew. Looks do not wait for
cancels: after a mass disconnection those take longer than a look may be missing.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Final, Protocol

from services.ledger.client_leases import Lapsed
from services.ledger.errors import LedgerError
from services.ledger.order import Order, OrderState
from services.oms.cancel import Canceler
from services.runtime.clock import Clock
from services.runtime.errors import ServiceError, Unavailable
from services.runtime.tasks import end
from services.runtime.telemetry import counter, gauge, get_logger

LEASE_SEC: Final = 10.0
"""How long an account may be without a stream; the contract tells it."""
RENEW_SEC: Final = 2.0
LOOK_SEC: Final = 0.5
AT_ONCE: Final = 8
"""Accounts whose orders one worker cancels at the same time."""
DISCONNECTED: Final = "client_disconnected"
"""Reason of an order that ended because its client had gone away."""

_held: Final = gauge("oms_client_leases", "Streams that hold a lease on their account's orders.")
_canceled: Final = counter("oms_disconnect_cancels", "Orders canceled because their client was gone.")
_log = get_logger("oms.disconnect")


class Leases(Protocol):
    """The leases as the ledger keeps them; `ClientLeases` is it."""

    async def renew(self, account: str, seconds: float) -> None: ...

    async def lapsed(self, partition: int) -> tuple[Lapsed, ...]: ...

    async def forget(self, partition: int, lapsed: Lapsed) -> None: ...


class Ledger(Protocol):
    """What the cancels of the disconnected need of the account ledger."""

    async def open_orders(self, account: str) -> tuple[Order, ...]: ...


class Attendance:
    """One stream's presence: how many messages were handed to its client, and how many it has taken."""

    __slots__ = ("handed", "taken")

    def __init__(self) -> None:
        self.handed = 0
        self.taken = 0

    @property
    def waiting(self) -> int:
        """Number of the message that the client has not taken; 0 when it has taken all."""
        return self.handed if self.handed > self.taken else 0


@asynccontextmanager
async def attended(leases: Leases, account: str, attendance: Attendance) -> AsyncIterator[None]:
    """Holds the account's lease while the block runs. Raises `Unavailable` when there is none at first."""
    try:
        await leases.renew(account, LEASE_SEC)
    except LedgerError:
        raise Unavailable("the ledger cannot hold a lease now", reason="LEDGER_UNAVAILABLE") from None
    renewing = asyncio.get_running_loop().create_task(
        _renew(leases, account, attendance), name=f"lease {account}"
    )
    _held.inc()
    try:
        yield
    finally:
        _held.dec()
        await end(renewing)


async def _renew(leases: Leases, account: str, attendance: Attendance) -> None:
    waiting = 0
    while True:
        await asyncio.sleep(RENEW_SEC)
        before, waiting = waiting, attendance.waiting
        if waiting and waiting == before:
            # A connection that takes nothing may have nobody at its other end. One that is catching up has a
            # message under way at every look, but never the same one.
            continue
        try:
            await leases.renew(account, LEASE_SEC)
        except LedgerError as error:
            _log.warning("lease not renewed", account=account, error=f"{type(error).__name__}: {error}")


class DisconnectWatch:
    """Looks after the partitions that this worker owns."""

    def __init__(
        self,
        leases: Leases,
        ledger: Ledger,
        canceler: Canceler,
        owned: Callable[[], Collection[int]],
        clock: Clock,
    ) -> None:
        """`owned` tells the partitions owned now."""
        self._leases = leases
        self._ledger = ledger
        self._canceler = canceler
        self._owned = owned
        self._clock = clock
        self._watched: dict[int, _Watched] = {}
        self._lapsed: dict[str, Lapsed] = {}
        """By account, as of the last look."""
        self._in_hand: set[str] = set()
        """Accounts whose orders are being canceled, or wait for it."""
        self._room = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> None:
        """Looks until cancelled."""
        async with asyncio.TaskGroup() as cancels:
            while True:
                await self.look(cancels)
                await asyncio.sleep(LOOK_SEC)

    async def look(self, cancels: asyncio.TaskGroup) -> None:
        """One look at the leases of all partitions; what follows from it is done by `cancels`."""
        owned = tuple(self._owned())
        for partition in self._watched.keys() - set(owned):
            del self._watched[partition]
        found = await asyncio.gather(*map(self._look, owned))
        self._lapsed = {one.account: one for lapsed in found for one in lapsed}
        for partition, lapsed in zip(owned, found, strict=True):
            for one in lapsed:
                if one.account not in self._in_hand:
                    self._in_hand.add(one.account)
                    cancels.create_task(self._cancel(partition, one), name=f"disconnected {one.account}")

    async def _look(self, partition: int) -> tuple[Lapsed, ...]:
        """Leases of a partition that have run out; none while they cannot be read or trusted."""
        try:
            lapsed = await self._leases.lapsed(partition)
        except LedgerError as error:
            self._watched.pop(partition, None)
            _log.warning(
                "leases not looked at", partition=partition, error=f"{type(error).__name__}: {error}"
            )
            return ()
        return lapsed if self._trusted(partition) else ()

    async def _cancel(self, partition: int, lapsed: Lapsed) -> None:
        try:
            async with self._room:
                # While it waited for its turn the client may have come back, or the partition been lost.
                if self._lapsed.get(lapsed.account) == lapsed:
                    await self._end(partition, lapsed)
        except (LedgerError, ServiceError) as error:
            # The next look comes to it again.
            _log.warning("orders not canceled yet", account=lapsed.account, error=str(error))
        finally:
            self._in_hand.discard(lapsed.account)

    async def _end(self, partition: int, lapsed: Lapsed) -> None:
        found = await self._ledger.open_orders(lapsed.account)
        if not found:
            await self._leases.forget(partition, lapsed)
            return
        # The sweeper repeats what was requested before.
        wanted = [order for order in found if order.state is not OrderState.PENDING_CANCEL]
        if wanted:
            canceled = await self._canceler.cancel_each(wanted, DISCONNECTED)
            _canceled.inc(len(canceled))
            _log.warning("client gone, orders canceled", account=lapsed.account, orders=len(canceled))

    def _trusted(self, partition: int) -> bool:
        """Whether everybody who wanted to renew a lease had the time to do so."""
        now = self._clock.monotonic()
        watched = self._watched.get(partition)
        if watched is None or now - watched.last > LEASE_SEC / 2:
            watched = self._watched[partition] = _Watched(now)
        watched.last = now
        return now - watched.since >= LEASE_SEC


class _Watched:
    """Monotonic times of the first and the last look in an unbroken row."""

    __slots__ = ("last", "since")

    def __init__(self, now: float) -> None:
        self.since = now
        self.last = now
