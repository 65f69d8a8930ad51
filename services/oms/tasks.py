"""Ending a background task for certain."""

import asyncio
from typing import Any, Final

_AGAIN_SEC: Final = 0.2


async def end(task: "asyncio.Task[Any]") -> None:
    """Cancels `task` until it has ended; what it raised is not told.

    Once is not enough: `asyncio.wait_for` of Python 3.11, which the NATS client uses for every request,
    forgets a cancellation that comes together with the answer.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_AGAIN_SEC)
    if not task.cancelled():
        task.exception()
