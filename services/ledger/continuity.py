"""Whether the stored ledger continues its journal: what keeps an old copy of either from being used.

Everything in LEDGER was committed before it was published. So a store in which an account is at a lower event
than LEDGER tells has lost commits: it was restored from an old copy, lost its last writes, or was emptied.
Nothing may be changed in it, or event numbers would be given twice, and nothing of it may be shown.

And what was carried to LEDGER stays in it, or was trimmed: a stream keeps counting. So a LEDGER that ends
before the highest watermark has lost messages. What is published then takes their numbers, behind a hole in
the events of some account that no fold gets over, and soon LEDGER looks as long as it should. So no
partition is used, and none relayed.

A server can lose data only between two *lives* of it: when it restarts (its run id changes), when another
server takes its place, or when the ledger is rebuilt. A connection belongs to one life. So a worker looks
once a life (of the store's server, and of the journal's) and partition, before its first use: at the
messages that were added to LEDGER after the stored watermark, which the relay keeps up to a moment ago. What
one worker has found is stored for the others.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, Protocol

from services.ledger import codec, keys
from services.ledger.connection import Argument, Connection
from services.ledger.errors import LedgerUnavailable, NotConnected

LIFE_REQUESTS: Final[tuple[tuple[Argument, ...], ...]] = (("INFO", "server"), ("GET", keys.LIFE))
"""The last requests of a connection's greeting, for `life_of`."""

_REFUSED_SEC: Final = 0.5
"""For so long a partition that was found behind is not looked at again."""
_AT_ONCE: Final = 256


class JournalTail(Protocol):
    """LEDGER, as far as continuity needs it."""

    @property
    def life(self) -> str:
        """Another one whenever the stream may have lost messages: its server was started anew."""

    async def check(self, carried: int) -> None:
        """Raises `LedgerUnavailable` when the stream ends before message `carried`, or cannot be read."""

    def after(self, partition: int, sequence: int) -> AsyncIterator[Sequence[tuple[str, int]]]:
        """Of every message of `partition` after `sequence`: its account and the number of its last event.

        Ends with what is the newest message when it begins. Raises `LedgerUnavailable` when the stream cannot
        be read, or when messages after `sequence` are no longer kept.
        """


class NoJournal:
    """For a ledger without a journal: nothing was ever told."""

    life: Final = ""

    async def check(self, carried: int) -> None:
        """See `JournalTail.check`."""

    async def after(self, partition: int, sequence: int) -> AsyncIterator[Sequence[tuple[str, int]]]:
        """See `JournalTail.after`."""
        nothing: tuple[Sequence[tuple[str, int]], ...] = ()
        for messages in nothing:
            yield messages


def life_of(answers: Sequence[Any]) -> str:
    """The life of the server's data, from the answers to `LIFE_REQUESTS`."""
    info, rebuilt = answers[-2:]
    text = info.decode() if isinstance(info, bytes) else str(info)
    for line in text.splitlines():
        if line.startswith("run_id:"):
            return f"{line.removeprefix('run_id:')}.{(rebuilt or b'').decode()}"
    raise NotConnected("the server does not tell its run id")


class Continuity:
    """What one connection may use. `connection` is greeted with `LIFE_REQUESTS`."""

    def __init__(self, connection: Connection, partitions: int, journal: JournalTail) -> None:
        self._connection = connection
        self._partitions = partitions
        self._journal = journal
        self._proven_for = ("", "")
        self._proven: set[int] = set()
        self._refused: dict[int, tuple[float, str]] = {}
        self._proving: dict[int, asyncio.Task[None]] = {}

    @property
    def life(self) -> str:
        """The life that the connection belongs to; the last one while there is no connection."""
        return self._connection.life

    @property
    def lives(self) -> tuple[str, str]:
        """What a proof is for: this life of the store, and this one of the journal."""
        return self._connection.life, self._journal.life

    def holds(self, partition: int) -> bool:
        """Whether the partition may be used: on this connection, and in this turn of the event loop."""
        return self._proven_for == self.lives and partition in self._proven

    async def ensure(self, partition: int) -> None:
        """Returns when the partition may be used.

        Raises `LedgerUnavailable` when it is behind LEDGER, or LEDGER behind the store, when it is being
        rebuilt or cannot be compared, and the connection's errors.
        """
        while not self.holds(partition):
            proving = self._proving.get(partition)
            if proving is None:
                proving = asyncio.get_running_loop().create_task(self._prove(partition), name="continuity")
                self._proving[partition] = proving
                proving.add_done_callback(lambda task: self._looked(partition, task))
            await asyncio.shield(proving)

    async def ensure_all(self) -> None:
        """`ensure` for every partition; raises the first error, after all were looked at."""
        wanted = [p for p in range(self._partitions) if not self.holds(p)]
        for outcome in await asyncio.gather(*(self.ensure(p) for p in wanted), return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    def _looked(self, partition: int, task: "asyncio.Task[None]") -> None:
        del self._proving[partition]
        if not task.cancelled():
            # Everybody who asked may have gone away.
            task.exception()

    async def _prove(self, partition: int) -> None:
        connection, lives = self._connection, self.lives
        if lives != self._proven_for:
            self._proven_for = lives
            self._proven.clear()
            self._refused.clear()
        loop = asyncio.get_running_loop()
        refused = self._refused.get(partition)
        if refused is not None and loop.time() - refused[0] < _REFUSED_SEC:
            raise LedgerUnavailable(refused[1])
        try:
            await self._compare(connection, partition, " ".join(lives))
        except LedgerUnavailable as error:
            self._refused[partition] = (loop.time(), str(error))
            raise
        if self._proven_for == lives:
            self._refused.pop(partition, None)
            self._proven.add(partition)

    async def _compare(self, connection: Connection, partition: int, lives: str) -> None:
        """Returns when nobody has to look again in these `lives`; raises `LedgerUnavailable`."""
        rebuilding, proven, relayed = await connection.request(
            "MGET", keys.rebuilding(partition), keys.proven(partition), keys.relayed(partition)
        )
        if rebuilding is not None:
            raise LedgerUnavailable(f"partition {partition} is being rebuilt")
        if proven is not None and proven.decode() == lives:
            return
        await self._journal.check(await self._carried())
        await self._none_behind(partition, int(relayed or 0))
        await connection.request("SET", keys.proven(partition), lives)

    async def _carried(self) -> int:
        """The last message of LEDGER that any partition is known to have been carried in."""
        watermarks = (keys.relayed(partition) for partition in range(self._partitions))
        stored = await asyncio.gather(*(self._connection.request("GET", key) for key in watermarks))
        return max(int(one or 0) for one in stored)

    async def _none_behind(self, partition: int, relayed: int) -> None:
        """Raises `LedgerUnavailable` when LEDGER tells something after `relayed` that is not stored."""
        async for messages in self._journal.after(partition, relayed):
            told: dict[str, int] = {}
            for account, number in messages:
                told[account] = max(number, told.get(account, 0))
            names = list(told)
            for start in range(0, len(names), _AT_ONCE):
                some = names[start : start + _AT_ONCE]
                heads = await asyncio.gather(
                    *(
                        self._connection.request(
                            "HGET", keys.account_keys(name, self._partitions).account, keys.HEAD
                        )
                        for name in some
                    )
                )
                for name, head in zip(some, heads, strict=True):
                    stored = 0 if head is None else codec.decode_event_number(head)
                    if stored < told[name]:
                        raise LedgerUnavailable(
                            f"the ledger is older than its journal: account {name} is at event {stored}, "
                            f"LEDGER at {told[name]} (trade2026 ledger rebuild)"
                        )
