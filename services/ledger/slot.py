"""One account in one worker: its copy, and the commands that wait for it."""

import asyncio
from collections import deque
from collections.abc import MutableSequence, Sequence

from services.ledger.commands import Command, Outcome
from services.ledger.draft import Copy
from services.ledger.errors import CommitUnknown, LedgerError, LedgerUnavailable


class Item:
    """A command on its way. `doubtful`: a commit that contained it was not answered; `life`: the only life of
    the data in which it may be committed, empty for any."""

    __slots__ = ("command", "deadline", "doubtful", "future", "life")

    def __init__(
        self, command: Command, future: "asyncio.Future[Outcome]", deadline: float, life: str = ""
    ) -> None:
        self.command = command
        self.future = future
        self.deadline = deadline
        self.doubtful = False
        self.life = life

    def resolve(self, result: Outcome | Exception) -> None:
        """Gives the caller, if it still waits, the outcome or the error."""
        if self.future.done():
            return
        if isinstance(result, Outcome):
            self.future.set_result(result)
        else:
            self.future.set_exception(result)


def fail(items: Sequence[Item], error: LedgerError) -> None:
    """Fails what was certainly not applied with `error`, and the rest with `CommitUnknown`."""
    for item in items:
        item.resolve(CommitUnknown(str(error)) if item.doubtful else error)


def fail_late(items: MutableSequence[Item], now: float) -> None:
    """Fails those of `items` whose time is up at `now`, in loop time, and takes them out."""
    late = [item for item in items if item.deadline <= now]
    if late:
        fail(late, LedgerUnavailable("no commit was answered in time"))
        left = [item for item in items if item.deadline > now]
        items.clear()
        items.extend(left)


class Slot:
    """An account's place in a worker. `now` is loop time."""

    __slots__ = (
        "account",
        "answered_at",
        "confirmed",
        "contended",
        "copy",
        "fresh",
        "loaded_at",
        "loading",
        "pace",
        "runner",
        "timed",
        "turn",
        "unopened",
        "unsettled",
        "waiting",
        "wanted",
    )

    def __init__(self, account: str) -> None:
        self.account = account
        self.copy: Copy | None = None
        self.fresh = False
        """Nobody else has changed the account since the copy was made, as far as the server has told."""
        self.loaded_at = 0.0
        self.loading: asyncio.Task[Copy] | None = None
        """A reader's look at the account, shared by all who ask meanwhile."""
        self.unopened = False
        """The registry agreed that the account, missing in the copy at hand, was never opened."""
        self.confirmed = ""
        """The incarnation that the registry has confirmed."""
        self.contended = False
        """Another worker wants the account as much as this one."""
        self.answered_at = 0.0
        """When the last batch was answered, in loop time."""
        self.pace = 0.0
        """How long the last batch took from its start to its commit's answer. Seconds."""
        self.turn: asyncio.Future[None] | None = None
        """Ends when another worker has changed the account."""
        self.runner: asyncio.Task[None] | None = None
        self.timed = False
        """The time of what waits is being kept."""
        self.unsettled: str | None = None
        """The token that an unanswered commit expects. While it is the stored one, the next commit replaces
        it even if it has nothing else to write, so that the old one cannot land any more."""
        self.waiting: deque[Item] = deque()
        self.wanted = False
        """The account was used since it was last read ahead."""

    @property
    def idle(self) -> bool:
        """Nothing would be lost with the slot."""
        return self.runner is None and self.loading is None and self.unsettled is None

    def install(self, copy: Copy, now: float) -> None:
        """Takes over what an answer brought; to be called in the order of the stream."""
        self.copy = copy
        self.fresh = True
        self.loaded_at = now
        self.unopened = False
        if copy.token != self.unsettled:
            # Tokens never come back: the unanswered commit has landed, or never will.
            self.unsettled = None

    def invalidate(self) -> None:
        """Another worker has changed the account."""
        self.fresh = False
        if self.turn is not None and not self.turn.done():
            self.turn.set_result(None)

    def drop(self) -> None:
        """Forgets the copy: the connection that would tell of changes is gone, or the copy is doubted."""
        self.copy = None
        self.invalidate()
