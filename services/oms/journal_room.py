"""Whether the journals can hold what a new order brings: the order itself, its events, its reports.

A stream refuses messages when it is full. Then events stay in the outbox and reports with the venue, and an
order that is taken nevertheless is executed by nobody, or nobody learns of it. So new orders stop earlier:
what works already can still be canceled, executed and booked in the room that is left.
"""

from collections.abc import Callable
from typing import Final

from services.runtime.errors import ResourceExhausted
from services.runtime.nats_client import NatsClient
from services.runtime.stream_watch import StreamWatch
from services.runtime.streams import DEADLETTER, EXECUTIONS, LEDGER, ORDERS

JOURNALS: Final = (ORDERS, EXECUTIONS, LEDGER)
FULL_AT: Final = 0.95
"""Share of its bytes at which a journal takes no more new orders. The rest of EXECUTIONS, 410 MiB by default,
is what half a million orders report."""
RETRY_SEC: Final = 1.0


class JournalRoom:
    """Room of the journals as it was measured last; one a worker."""

    def __init__(self, client: NatsClient, relay_full: Callable[[], bool]) -> None:
        """`relay_full`: more events wait for LEDGER than are read ahead; it does not take them."""
        self._watch = StreamWatch(client, (*JOURNALS, DEADLETTER))
        self._relay_full = relay_full

    async def measure(self) -> None:
        """Looks at the streams; a health probe. Raises `StreamFull` before a journal counts as full, and the
        client's errors."""
        await self._watch.check()

    def lacking(self) -> str:
        """Which journal is full, as a sentence; empty: none."""
        full = [name for name in JOURNALS if self._watch.shares.get(name, 0.0) >= FULL_AT]
        if full:
            return f"{', '.join(full)} at {FULL_AT:.0%} of its bytes or more: no new orders are taken"
        if self._relay_full():
            return f"{LEDGER} does not take the events of the ledger: no new orders are taken"
        return ""

    def require(self) -> None:
        """Raises `ResourceExhausted` when a new order may find no room on its way."""
        if self.lacking():
            raise ResourceExhausted(
                "the journals have no room for new orders; cancels are taken; nothing was done",
                reason="JOURNAL_FULL",
                retry_after_sec=RETRY_SEC,
            )
