"""A bound on the time in which a request's body comes, with one timer for all requests of an endpoint.

`asyncio.timeout` makes and cancels a timer each time, which is a good part of what a short call costs, and
nearly every body is there with its head.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from gateway_http.failures import BodyTooSlow


class BodyClock:
    """Ends the reading of bodies that take too long."""

    __slots__ = ("_late", "_reading", "_timer", "_within_sec")

    def __init__(self, within_sec: float) -> None:
        self._within_sec = within_sec
        self._reading: dict[asyncio.Task[Any], float] = {}
        """Until when each of them may go on, in loop time; the earliest is the first."""
        self._late: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def bound(self, reading: Coroutine[Any, Any, bytes]) -> bytes:
        """What `reading` returns. Raises `BodyTooSlow` when it takes longer than the bound."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        until = self._reading[task] = loop.time() + self._within_sec
        if self._timer is None:
            self._timer = loop.call_at(until, self._end_late, loop)
        try:
            return await reading
        except asyncio.CancelledError:
            # Unless somebody else wants this task to end, too.
            if task in self._late and task.uncancel() == 0:
                raise BodyTooSlow(self._within_sec) from None
            raise
        finally:
            self._reading.pop(task, None)
            self._late.discard(task)

    def _end_late(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        while self._reading:
            task, until = next(iter(self._reading.items()))
            if until > now:
                self._timer = loop.call_at(until, self._end_late, loop)
                break
            del self._reading[task]
            self._late.add(task)
            task.cancel()
