"""Ending background tasks for certain."""

import asyncio
from typing import Any, Final

_AGAIN_SEC: Final = 0.2


async def end(*tasks: "asyncio.Future[Any]") -> None:
    """Cancels `tasks` until they have ended; what they raised is not told.

    Once is not enough: `asyncio.wait_for` of Python 3.11, which the client libraries use for every request,
    forgets a cancellation that comes together with the answer.
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=_AGAIN_SEC)
    for task in tasks:
        if not task.cancelled():
            task.exception()
