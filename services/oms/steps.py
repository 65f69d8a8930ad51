"""Steps of a start and of a stop."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias, TypeVar

from services.runtime.tasks import end
from services.runtime.telemetry import get_logger

RETRY_SEC: Final = 0.25
END_SEC: Final = 6.0
"""Time that a part has to end when it is asked to."""

Step: TypeAlias = Callable[[], Awaitable[object]]

_T = TypeVar("_T")
_log = get_logger("oms.steps")


def ending(ask: Callable[[], object], *tasks: "asyncio.Task[Any]") -> Step:
    """A step that asks for an end and waits for `tasks` to come to it."""

    async def step() -> None:
        ask()
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=END_SEC)
            for task in pending:
                _log.error("part did not end in time", part=task.get_name())
                await end(task)

    return step


async def until(what: str, attempt: Callable[[], Awaitable[_T]], errors: tuple[type[Exception], ...]) -> _T:
    """The result of `attempt`, which is repeated for ever while it raises one of `errors`."""
    said = ""
    while True:
        try:
            return await attempt()
        except errors as error:
            if str(error) != said:
                said = str(error)
                _log.warning("waiting", part=what, error=f"{type(error).__name__}: {error}")
            await asyncio.sleep(RETRY_SEC)
