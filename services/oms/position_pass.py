"""Positions of every account owned, published and projected in passes.

For `update_positions_realtime: false`; otherwise the relay shows each change as it happens.
"""

import asyncio
from collections.abc import Callable, Collection
from typing import Final, Protocol

from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from nats.js.errors import NoKeysError
from nats.js.kv import KeyValue

from services.ledger.account import Account
from services.ledger.codec import PositionChange
from services.ledger.errors import LedgerError
from services.ledger.partition import partition_of
from services.ledger.positions import Positions
from services.runtime.clock import Clock
from services.runtime.telemetry import get_logger

_YIELD_EVERY: Final = 50

_log = get_logger("oms.position_pass")


class Ledger(Protocol):
    """What a pass needs of the account ledger."""

    async def account(self, account: str, *, fresh: bool = False) -> Account | None: ...


class PositionPass:
    """Repeats the pass over the partitions that this worker owns."""

    def __init__(
        self,
        registry: KeyValue,
        ledger: Ledger,
        positions: Positions,
        owned: Callable[[], Collection[int]],
        partitions: int,
        interval_sec: float,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._ledger = ledger
        self._positions = positions
        self._owned = owned
        self._partitions = partitions
        self._interval_sec = interval_sec
        self._clock = clock

    async def run(self) -> None:
        """Passes until cancelled, the first one after an interval."""
        while True:
            await asyncio.sleep(self._interval_sec)
            try:
                await self.show_all()
            except (LedgerError, NatsError, JetStreamError, OSError, TimeoutError) as error:
                _log.warning("position pass failed", error=f"{type(error).__name__}: {error}")

    async def show_all(self) -> int:
        """One pass; returns how many positions were shown. Raises an error of the connections."""
        try:
            names = await self._registry.keys()
        except NoKeysError:
            return 0
        shown = 0
        owned = self._owned()
        for count, name in enumerate(names, 1):
            if count % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
            if partition_of(name, self._partitions) in owned:
                shown += await self._show(name)
        return shown

    async def _show(self, name: str) -> int:
        account = await self._ledger.account(name, fresh=True)
        if account is None:
            return 0
        now_ns = self._clock.now_ns()
        changes = {
            symbol: (
                PositionChange(symbol, position.quantity, position.last_price, account.event_seq),
                now_ns,
            )
            for symbol, position in account.positions.items()
            if position.last_price
        }
        if changes:
            await self._positions.show(name, changes)
        return len(changes)
