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
from services.runtime.service import (
    BEAT,
    EXIT_FAILED,
    EXIT_SETTINGS,
    READY_BEAT,
    ServiceDefinition,
    WorkerContext,
)
from services.runtime.settings import ServiceConfig, SettingsError
from services.runtime.supervisor import HEARTBEAT_VARIABLE, SUPERVISOR_VARIABLE
from services.runtime.telemetry import configure_logging, flush_logs, get_logger, histogram

HEARTBEAT_SEC: Final = 0.25
_PR_SET_PDEATHSIG: Final = 1

Entry = Callable[[WorkerContext[Any]], Coroutine[Any, Any, None]]

_log = get_logger("runtime.worker")
_lag = histogram("event_loop_lag_ms", "How late the event loop ran a timer that was due")


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
    heartbeat = _Heartbeat(loop)
    context: WorkerContext[Any] = WorkerContext(
        settings, index, settings.service.workers, stop, on_ready=heartbeat.ready
    )
    heartbeat.beat()
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


class _Heartbeat:
    """Writes a byte to the supervisor every 250 ms, from the event loop: silence means that the loop
    hangs."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due = loop.time()
        self._pipe = int(os.environ.get(HEARTBEAT_VARIABLE, "-1"))
        if self._pipe >= 0:
            os.set_blocking(self._pipe, False)
            os.set_inheritable(self._pipe, False)

    def beat(self) -> None:
        """Beats now and again every 250 ms; what the histograms gathered meanwhile is written along."""
        now = self._loop.time()
        _lag.observe(max(0.0, now - self._due) * 1000)
        fold()
        self._write(BEAT)
        self._due = now + HEARTBEAT_SEC
        self._loop.call_at(self._due, self.beat)

    def ready(self) -> None:
        """From now on the supervisor takes silence for a hung loop."""
        # What lives now lives as long as the process: full collections need not visit it again.
        gc.collect()
        gc.freeze()
        self._write(READY_BEAT)
        _log.info("worker ready", pid=os.getpid())

    def _write(self, beat: bytes) -> None:
        if self._pipe >= 0:
            try:
                os.write(self._pipe, beat)
            except BlockingIOError:
                pass  # the supervisor is paused, and will find many beats
            except BrokenPipeError:
                self._pipe = -1  # it is gone, and this process goes with it


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
