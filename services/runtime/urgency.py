"""Which calls go first when there are more than the event loop can do at once."""

import asyncio
from typing import Final

QUIET_SEC: Final = 1.0
"""After the last urgent call, until other calls need not make way any more."""


class Urgency:
    """Tells whether urgent calls come, to those that make way for them."""

    def __init__(self) -> None:
        self._last = 0.0
        self._quiet = asyncio.Event()
        self._quiet.set()

    def begun(self) -> None:
        """An urgent call begins. To be called on the loop."""
        loop = asyncio.get_running_loop()
        self._last = loop.time()
        if self._quiet.is_set():
            self._quiet.clear()
            loop.call_later(QUIET_SEC, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        left = self._last + QUIET_SEC - loop.time()
        if left > 0:
            loop.call_later(left, self._look, loop)
        else:
            self._quiet.set()

    def is_quiet(self) -> bool:
        """Whether no urgent call has begun lately."""
        return self._quiet.is_set()

    async def until_quiet(self) -> None:
        """Returns when no urgent call has begun for `QUIET_SEC`, or after `end`."""
        await self._quiet.wait()

    def end(self) -> None:
        """Lets all go on that wait."""
        self._quiet.set()
