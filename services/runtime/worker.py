"""A worker process: it dies with its supervisor, beats for it, and runs the service's bootstrap on uvloop."""

import asyncio
import ctypes
import gc
import importlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Final

import uvloop

from services.ledger.numbers import install_context
from services.runtime.metrics import fold
from services.runtime.service import EXIT_FAILED, EXIT_SETTINGS, ServiceDefinition, WorkerContext
from services.runtime.settings import ServiceConfig, SettingsError
from services.runtime.supervisor import HEARTBEAT_VARIABLE, SUPERVISOR_VARIABLE
from services.runtime.telemetry import configure_logging, flush_logs, get_logger

HEARTBEAT_SEC: Final = 0.25
_PR_SET_PDEATHSIG: Final = 1

_log = get_logger("runtime.worker")


def run_worker(definition: ServiceDefinition[Any], settings: ServiceConfig, index: int) -> int:
    """Runs worker `index` to its end; the exit code of the process."""
    _die_with_supervisor()
    configure_logging(settings.service.name, settings.service.log_level, index)
    install_context()
    try:
        return uvloop.run(_work(definition, settings, index))
    except SettingsError as error:
        _log.error("settings refused", error=str(error))
        print(error, file=sys.stderr)
        return EXIT_SETTINGS
    except Exception as error:
        _log.error("worker failed", error=f"{type(error).__name__}: {error}", exc_info=error)
        return EXIT_FAILED
    finally:
        fold()
        flush_logs()


async def _work(definition: ServiceDefinition[Any], settings: ServiceConfig, index: int) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    # A terminal's Ctrl-C reaches the whole group; the supervisor passes it on as SIGTERM.
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    loop.set_exception_handler(_unhandled)
    heartbeat = _Heartbeat(loop)
    context: WorkerContext[Any] = WorkerContext(
        settings, index, settings.service.workers, stop, on_ready=_ready
    )
    # Importing may take longer than a beating worker may be silent; until its first beat it has more time.
    entry = _entry(definition.run)
    heartbeat.beat()
    try:
        await entry(context)
    finally:
        await context.cancel_owned()
    return EXIT_FAILED if context.failed is not None else 0


def _entry(path: str) -> Callable[[WorkerContext[Any]], Coroutine[Any, Any, None]]:
    module, _, name = path.partition(":")
    entry: Callable[[WorkerContext[Any]], Coroutine[Any, Any, None]] = getattr(
        importlib.import_module(module), name
    )
    return entry


def _ready() -> None:
    # What lives now lives as long as the process: full collections need not visit it again.
    gc.collect()
    gc.freeze()
    _log.info("worker ready", pid=os.getpid())


def _unhandled(_loop: asyncio.AbstractEventLoop, details: dict[str, Any]) -> None:
    _log.error(
        "unhandled error in the event loop",
        detail=str(details.get("message")),
        exc_info=details.get("exception"),
    )


class _Heartbeat:
    """Writes a byte to the supervisor every 250 ms, from the event loop: silence means that the loop
    hangs."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pipe = int(os.environ.get(HEARTBEAT_VARIABLE, "-1"))
        if self._pipe >= 0:
            os.set_blocking(self._pipe, False)
            os.set_inheritable(self._pipe, False)

    def beat(self) -> None:
        """Beats now and again every 250 ms."""
        fold()
        if self._pipe < 0:
            return
        try:
            os.write(self._pipe, b".")
        except BlockingIOError:
            pass  # the supervisor is paused; what it reads later is still a beat
        except BrokenPipeError:
            return  # it is gone, and this process goes with it
        self._loop.call_later(HEARTBEAT_SEC, self.beat)


def _die_with_supervisor() -> None:
    supervisor = int(os.environ.get(SUPERVISOR_VARIABLE, "0"))
    if not supervisor:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != supervisor:
        # It died between our start and the call above.
        os._exit(EXIT_FAILED)
