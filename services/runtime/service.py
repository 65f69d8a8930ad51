"""What a service is to the supervisor, and what a worker process gives to the service's bootstrap."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from services.runtime.clock import Clock, SystemClock
from services.runtime.settings import ServiceConfig
from services.runtime.tasks import end
from services.runtime.telemetry import get_logger

C = TypeVar("C", bound=ServiceConfig)

EXIT_FAILED: Final = 1
"""Exit code of a worker that met an error; the supervisor starts it again."""
EXIT_SETTINGS: Final = 2
"""Exit code of a process whose settings are wrong; starting it again would not help."""

_log = get_logger("runtime.service")


@dataclass(frozen=True, slots=True)
class ServiceDefinition(Generic[C]):
    """What `python -m services.<module>` runs; see `supervisor.main`."""

    module: str
    """Name of the package under `services`, of its configuration folder and, upper-cased, of its
    variables."""
    settings: type[C]
    """Root model of the configuration."""
    run: str
    """`package.module:coroutine_function`, called in each worker with a `WorkerContext`; imported there
    alone, so that the supervisor stays small. It returns when `context.stop` is set and everything accepted
    is finished."""


@dataclass(slots=True)
class WorkerContext(Generic[C]):
    """One worker process: who it is, when to stop, and the tasks that it owns."""

    settings: C
    index: int
    """0 … workers - 1; stable over restarts."""
    workers: int
    stop: asyncio.Event
    """Set by SIGTERM, or when an owned task died."""
    clock: Clock = field(default_factory=SystemClock)
    on_ready: Callable[[], None] = lambda: None
    failed: BaseException | None = None
    """What made the worker stop, when it was not asked to."""
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    def own(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Starts a background task whose death is fatal: the worker stops, exits 1 and is started again.

        A task that ends by itself before `stop` is set counts as dead too; cancelling it is fine.
        """
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def fail(self, error: BaseException, name: str = "") -> None:
        """Stops this worker because of `error`; the supervisor starts a new one."""
        if self.failed is None:
            self.failed = error
            _log.error("worker failed", task=name, error=f"{type(error).__name__}: {error}", exc_info=error)
        self.stop.set()

    def ready(self) -> None:
        """To be called once, when everything is wired and the ports are open."""
        self.on_ready()

    async def cancel_owned(self) -> None:
        """Cancels what is still running of the owned tasks and waits for its end. The last step of a stop."""
        await end(*self._tasks)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None and not self.stop.is_set():
            error = RuntimeError(f"background task {task.get_name()} ended")
        if error is not None:
            self.fail(error, task.get_name())
