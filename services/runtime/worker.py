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
from services.runtime.liveness import Heart
from services.runtime.metrics import fold
from services.runtime.service import EXIT_FAILED, EXIT_SETTINGS, ServiceDefinition, WorkerContext
from services.runtime.settings import ServiceConfig, SettingsError
from services.runtime.supervisor import HEARTBEAT_VARIABLE, SUPERVISOR_VARIABLE
from services.runtime.telemetry import configure_logging, flush_logs, get_logger

GC_THRESHOLDS: Final = (20_000, 20, 20)
"""Objects, and collections of the younger generations, before each generation is collected."""
_PR_SET_PDEATHSIG: Final = 1

Entry = Callable[[WorkerContext[Any]], Coroutine[Any, Any, None]]

_log = get_logger("runtime.worker")


def run_worker(definition: ServiceDefinition[Any], settings: ServiceConfig, index: int) -> int:
    """Runs worker `index` to its end; the exit code of the process."""
    _die_with_supervisor()
    # A terminal's Ctrl-C reaches every process of the group; the supervisor passes it on as SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    configure_logging(settings.service.name, settings.service.log_level, index)
    install_context()
    try:
        return uvloop.run(_work(_entry(definition.run), settings, index))
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


def _entry(path: str) -> Entry:
    module, _, name = path.partition(":")
    entry: Entry = getattr(importlib.import_module(module), name)
    return entry


async def _work(entry: Entry, settings: ServiceConfig, index: int) -> int:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_unhandled)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    heart = Heart(loop, int(os.environ.get(HEARTBEAT_VARIABLE, "-1")))

    def ready() -> None:
        _settle()
        heart.ready()
        _log.info("worker ready", pid=os.getpid())

    context: WorkerContext[Any] = WorkerContext(
        settings, index, settings.service.workers, stop, on_ready=ready
    )
    heart.start()
    try:
        await entry(context)
    finally:
        await context.cancel_owned()
    if context.failed is None and not stop.is_set():
        _log.error("the service's entry returned without being asked to stop")
        return EXIT_FAILED
    if isinstance(context.failed, SettingsError):
        raise context.failed
    return EXIT_FAILED if context.failed is not None else 0


def _unhandled(_loop: asyncio.AbstractEventLoop, details: dict[str, Any]) -> None:
    _log.error(
        "unhandled error in the event loop",
        detail=str(details.get("message")),
        exc_info=details.get("exception"),
    )


def _settle() -> None:
    """Takes what lives now out of the garbage collections: it lives as long as the process.

    Afterwards they are rare: a service at work makes and drops thousands of objects in a millisecond and
    hardly a cycle.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


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
