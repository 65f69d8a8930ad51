"""Runs a service: `main(definition)` is all that `python -m services.<module>` does.

The process that the operator starts is the supervisor. It

1. reads the settings; a wrong one ends it with exit code 2 and one line that names the key;
2. binds every port alone, so that a foreign holder is refused and named, and then keeps shared ones reserved;
3. serves `GET /metrics`, merged over the workers;
4. starts `service.workers` processes (`python -m services.<module> --worker <index>`); they die with it;
5. starts a dead worker again, after 0.1 s, then doubling up to 5 s; 30 s of health reset that;
6. kills a worker whose event loop has been silent for 2 s;
7. on SIGTERM or SIGINT passes SIGTERM to the workers, waits for them to finish, and exits 0.
"""

import argparse
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, NoReturn

from services.runtime import ports
from services.runtime.metrics import (
    CONTENT_TYPE,
    MULTIPROCESS_VARIABLE,
    WORKER_VARIABLE,
    drop_gauges,
    merged_metrics,
)
from services.runtime.service import EXIT_SETTINGS, ServiceDefinition
from services.runtime.settings import ServiceConfig, SettingsError, load_settings
from services.runtime.telemetry import configure_logging, flush_logs, get_logger

SILENCE_SEC: Final = 2.0
"""A worker's event loop that has not beaten for so long is killed."""
START_SEC: Final = 60.0
"""Time from a worker's start to its first beat."""
BACKOFF_FIRST_SEC: Final = 0.1
BACKOFF_LAST_SEC: Final = 5.0
HEALTHY_AFTER_SEC: Final = 30.0
HEARTBEAT_VARIABLE: Final = "TRADE2026_HEARTBEAT_FD"
SUPERVISOR_VARIABLE: Final = "TRADE2026_SUPERVISOR_PID"
_TICK_SEC: Final = 0.1

_log = get_logger("runtime.supervisor")


def main(definition: ServiceDefinition[Any], arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the service until SIGTERM or SIGINT. Never returns: exits 0, 1 (failed) or 2 (settings)."""
    parser = argparse.ArgumentParser(prog=f"python -m services.{definition.module}")
    parser.add_argument("--worker", type=int, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--check", action="store_true", help="read the settings, report, and exit")
    options = parser.parse_args(arguments)
    try:
        settings: ServiceConfig = load_settings(definition.module, definition.settings)
    except SettingsError as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_SETTINGS)
    if options.check:
        print(f"settings of {settings.service.name} are valid")
        sys.exit(0)
    if options.worker is not None:
        from services.runtime.worker import run_worker

        sys.exit(run_worker(definition, settings, options.worker))
    sys.exit(Supervisor(definition, settings).run())


@dataclass(slots=True)
class _Worker:
    index: int
    process: "subprocess.Popen[bytes] | None" = None
    pipe: int = -1
    started: float = 0.0
    last_beat: float = 0.0
    beating: bool = False
    backoff: float = 0.0
    start_at: float = 0.0
    restarts: int = 0


class Supervisor:
    """The supervising process of one service. Single-threaded but for the metrics server."""

    def __init__(self, definition: ServiceDefinition[Any], settings: ServiceConfig) -> None:
        self._definition = definition
        self._settings = settings
        self._claims = ports.claims_of(settings)
        self._workers = [_Worker(index) for index in range(settings.service.workers)]
        self._selector = selectors.DefaultSelector()
        self._stop_at: float | None = None
        self._exit_code = 0
        self._metrics_folder = Path()

    def run(self) -> int:
        """Supervises until the stop; the exit code of the process."""
        service = self._settings.service
        configure_logging(service.name, service.log_level, "supervisor")
        try:
            ports.check_free(self._claims)
        except ports.PortTaken as error:
            _log.error("port taken", error=str(error))
            flush_logs()
            print(error, file=sys.stderr)
            return EXIT_SETTINGS
        shared = [claim for claim in self._claims if claim.key != "monitoring.metrics_port"]
        kept = ports.hold(shared) if service.workers > 1 else []
        self._metrics_folder = Path(tempfile.mkdtemp(prefix=f"{service.name}-metrics-"))
        try:
            metrics = self._serve_metrics()
            self._supervise()
            if metrics is not None:
                metrics.shutdown()
                metrics.server_close()
        finally:
            for worker in self._workers:
                self._kill(worker)
            for keeper in kept:
                keeper.close()
            shutil.rmtree(self._metrics_folder, ignore_errors=True)
            flush_logs()
        return self._exit_code

    def _supervise(self) -> None:
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._begin_stop("signal"))
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector.register(wake_read, selectors.EVENT_READ, None)
        _log.info("supervisor started", workers=len(self._workers), pid=os.getpid())
        last_round = time.monotonic()
        while not self._finished():
            now = time.monotonic()
            if now - last_round > SILENCE_SEC / 2:
                # This process itself did not run (a suspended machine): the workers could not be heard.
                for worker in self._workers:
                    worker.last_beat = now
            last_round = now
            for worker in self._workers:
                self._tend(worker, now)
            for key, _ in self._selector.select(_TICK_SEC):
                if key.data is None:
                    _drain(wake_read)
                else:
                    self._hear(key.data)

    def _tend(self, worker: _Worker, now: float) -> None:
        if worker.process is None:
            if self._stop_at is None and now >= worker.start_at:
                self._start(worker, now)
            return
        code = worker.process.poll()
        if code is not None:
            self._buried(worker, code, now)
            return
        limit = SILENCE_SEC if worker.beating else START_SEC
        if now - worker.last_beat > limit:
            _log.error("worker silent", worker_index=worker.index, pid=worker.process.pid, after_sec=limit)
            worker.process.kill()
            worker.last_beat = now
        elif self._stop_at is not None and now > self._stop_at:
            _log.error("worker did not stop in time", worker_index=worker.index, pid=worker.process.pid)
            worker.process.kill()
            worker.last_beat = now
            self._exit_code = 1
        if worker.backoff and now - worker.started > HEALTHY_AFTER_SEC:
            worker.backoff = 0.0

    def _start(self, worker: _Worker, now: float) -> None:
        if worker.restarts and len(self._workers) == 1:
            try:
                ports.check_free([claim for claim in self._claims if claim.key != "monitoring.metrics_port"])
            except ports.PortTaken as error:
                _log.error("port taken", error=str(error))
        read, write = os.pipe()
        os.set_blocking(read, False)
        environment = {
            **os.environ,
            MULTIPROCESS_VARIABLE: str(self._metrics_folder),
            WORKER_VARIABLE: str(worker.index),
            HEARTBEAT_VARIABLE: str(write),
            SUPERVISOR_VARIABLE: str(os.getpid()),
        }
        command = [sys.executable, "-m", f"services.{self._definition.module}", "--worker", str(worker.index)]
        worker.process = subprocess.Popen(
            command, env=environment, pass_fds=(write,), stdin=subprocess.DEVNULL
        )
        os.close(write)
        worker.pipe, worker.started, worker.last_beat, worker.beating = read, now, now, False
        self._selector.register(read, selectors.EVENT_READ, worker)
        _log.info(
            "worker started", worker_index=worker.index, pid=worker.process.pid, restarts=worker.restarts
        )

    def _hear(self, worker: _Worker) -> None:
        if _drain(worker.pipe):
            worker.last_beat = time.monotonic()
            worker.beating = True
        else:
            # End of file: the process is gone, or about to be.
            self._selector.unregister(worker.pipe)
            os.close(worker.pipe)
            worker.pipe = -1

    def _buried(self, worker: _Worker, code: int, now: float) -> None:
        if worker.pipe >= 0:
            self._selector.unregister(worker.pipe)
            os.close(worker.pipe)
            worker.pipe = -1
        pid, worker.process = worker.process.pid if worker.process else 0, None
        drop_gauges(self._metrics_folder, worker.index)
        if self._stop_at is not None:
            _log.info("worker stopped", worker_index=worker.index, pid=pid, code=code)
            return
        if code == EXIT_SETTINGS:
            _log.error("worker refused its settings", worker_index=worker.index, pid=pid)
            self._exit_code = EXIT_SETTINGS
            self._begin_stop("settings")
            return
        worker.restarts += 1
        worker.backoff = min(worker.backoff * 2 or BACKOFF_FIRST_SEC, BACKOFF_LAST_SEC)
        worker.start_at = now + worker.backoff
        _log.error(
            "worker died", worker_index=worker.index, pid=pid, code=code, next_start_sec=worker.backoff
        )

    def _begin_stop(self, reason: str) -> None:
        if self._stop_at is not None:
            return
        self._stop_at = time.monotonic() + self._settings.service.stop_grace_sec
        _log.info("supervisor stopping", reason=reason)
        for worker in self._workers:
            if worker.process is not None:
                worker.process.terminate()

    def _finished(self) -> bool:
        return self._stop_at is not None and all(worker.process is None for worker in self._workers)

    def _kill(self, worker: _Worker) -> None:
        if worker.process is not None:
            worker.process.kill()
            worker.process.wait()

    def _serve_metrics(self) -> ThreadingHTTPServer | None:
        port = self._settings.monitoring.metrics_port
        if not port:
            return None
        folder = self._metrics_folder

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = merged_metrics(folder) if self.path.partition("?")[0] == "/metrics" else b""
                self.send_response(200 if body or self.path.startswith("/metrics") else 404)
                self.send_header("Content-Type", CONTENT_TYPE)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Scrapes are not logged."""

        server = ThreadingHTTPServer((self._settings.service.host, port), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
        return server


def _drain(descriptor: int) -> bool:
    """Reads everything that is there; False at the end of the file."""
    try:
        while True:
            if not os.read(descriptor, 4096):
                return False
    except BlockingIOError:
        return True
