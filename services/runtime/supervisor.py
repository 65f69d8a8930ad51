"""Runs a service: `main(definition)` is all that `python -m services.<module>` does.

The process that is started is the supervisor. It

1. reads the settings; wrong ones end it with exit code 2 and one line that names the keys;
2. binds every port alone, so that a foreign holder is refused and named, and keeps shared ports reserved;
3. serves `GET /metrics`, merged over the workers;
4. starts `service.workers` processes (the same command with `--worker <index>`); they die with it;
5. starts a dead worker again after 0.1 s, doubling up to 5 s; 30 s of life reset that;
6. kills a worker whose event loop has been silent for 2 s (time in which the machine did not let it run is
not
   counted), and starts it again;
7. on SIGTERM or SIGINT passes SIGTERM on, waits until the workers finished what they accepted, and exits 0.
"""

import argparse
import contextlib
import os
import resource
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from services.runtime import ports
from services.runtime.liveness import READY_BEAT
from services.runtime.metrics import MULTIPROCESS_VARIABLE, WORKER_VARIABLE, drop_gauges
from services.runtime.metrics_server import MetricsServer
from services.runtime.service import EXIT_FAILED, EXIT_SETTINGS, ServiceDefinition
from services.runtime.settings import ServiceConfig, SettingsError, load_settings
from services.runtime.telemetry import configure_logging, flush_logs, get_logger

SILENCE_SEC: Final = 2.0
"""A worker whose event loop did not beat for so long is killed."""
START_SEC: Final = 60.0
"""The same while it starts: until it says that it is ready, at most for so long."""
BACKOFF_FIRST_SEC: Final = 0.1
BACKOFF_LAST_SEC: Final = 5.0
HEALTHY_AFTER_SEC: Final = 30.0
HEARTBEAT_VARIABLE: Final = "TRADE2026_HEARTBEAT_FD"
SUPERVISOR_VARIABLE: Final = "TRADE2026_SUPERVISOR_PID"
GRPC_CORE: Final = {"GRPC_EXPERIMENTS": "-event_engine_client,-event_engine_listener"}
"""Variables of gRPC's core, of which the environment's own win. It reads sockets in the thread that wakes the
event loop, instead of in threads that wake this one: a quarter of the CPU time of a call."""
_ROUND_SEC: Final = 0.1

_log = get_logger("runtime.supervisor")


def main(definition: ServiceDefinition[Any], arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the service until SIGTERM or SIGINT. Never returns: exits 0, 1 (failed) or 2 (settings)."""
    parser = argparse.ArgumentParser(prog=f"python -m {_own_module(definition)}")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument(
        "--check", action="store_true", help="read the settings, say whether they are valid, exit"
    )
    options = parser.parse_args(arguments)
    try:
        settings: ServiceConfig = load_settings(definition.module, definition.settings)
    except SettingsError as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_SETTINGS)
    if options.check:
        print(f"the settings of {settings.service.name} are valid")
        sys.exit(0)
    if options.worker is not None:
        from services.runtime.worker import run_worker

        sys.exit(run_worker(definition, settings, options.worker))
    sys.exit(Supervisor(definition, settings).run())


def _own_module(definition: ServiceDefinition[Any]) -> str:
    """What stands after `python -m` to start this program again."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name.removesuffix(".__main__") if spec is not None else f"services.{definition.module}"


@dataclass(slots=True)
class _Worker:
    index: int
    process: "subprocess.Popen[bytes] | None" = None
    pipe: int = -1
    started: float = 0.0
    last_beat: float = 0.0
    starved: float = 0.0
    """Seconds that it had waited for a processor in its life, at its last beat."""
    ready: bool = False
    backoff: float = 0.0
    start_at: float = 0.0
    starts: int = 0

    def allowed_silence(self, now: float) -> float:
        """Seconds without a beat after which it counts as hung."""
        return SILENCE_SEC if self.ready or now - self.started > START_SEC else START_SEC

    def heard(self, now: float) -> None:
        """Notes a sign of life."""
        self.last_beat = now
        self.starved = _waited_for_a_processor(self.process.pid) if self.process is not None else 0.0

    def silence(self, now: float) -> float:
        """Seconds since its last sign of life in which it could have given one."""
        if self.process is None or now - self.last_beat <= SILENCE_SEC:
            return now - self.last_beat
        return now - self.last_beat - max(0.0, _waited_for_a_processor(self.process.pid) - self.starved)


class Supervisor:
    """The supervising process of one service; only its metrics server has threads of its own."""

    def __init__(self, definition: ServiceDefinition[Any], settings: ServiceConfig) -> None:
        self._module = _own_module(definition)
        self._settings = settings
        self._claims = ports.claims_of(settings)
        self._workers = [_Worker(index) for index in range(settings.service.workers)]
        self._selector = selectors.DefaultSelector()
        self._signalled = False
        self._stop_at: float | None = None
        self._exit_code = 0
        self._metrics_folder = Path()
        self._metrics: MetricsServer | None = None

    def run(self) -> int:
        """Supervises until the stop; the exit code of the process."""
        service = self._settings.service
        configure_logging(service.name, service.log_level, "supervisor")
        with contextlib.ExitStack() as cleanup:
            cleanup.callback(flush_logs)
            self._take_signals()
            _allow_many_files()
            try:
                ports.check_free(self._claims)
            except ports.PortTaken as error:
                _log.error("port taken", error=str(error))
                print(error, file=sys.stderr)
                return EXIT_FAILED
            for keeper in ports.hold(self._worker_claims()) if service.workers > 1 else []:
                cleanup.callback(keeper.close)
            self._metrics_folder = Path(tempfile.mkdtemp(prefix=f"{service.name}-metrics-"))
            cleanup.callback(shutil.rmtree, self._metrics_folder, ignore_errors=True)
            self._metrics = MetricsServer(
                self._metrics_folder, service.host, self._settings.monitoring.metrics_port
            )
            cleanup.callback(self._metrics.close)
            cleanup.callback(self._kill_all)
            self._supervise()
        return self._exit_code

    def _take_signals(self) -> None:
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        # The signals only wake the loop below, which looks at what they mean.
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector.register(read, selectors.EVENT_READ, None)

    def _on_signal(self, *_: object) -> None:
        self._signalled = True

    def _supervise(self) -> None:
        _log.info("supervisor started", workers=len(self._workers), pid=os.getpid())
        last_round = time.monotonic()
        while True:
            now = time.monotonic()
            if now - last_round > SILENCE_SEC / 2:
                # This process did not run either (a suspended machine): the workers could not be heard.
                for worker in self._workers:
                    worker.heard(now)
            last_round = now
            if self._signalled:
                self._begin_stop("signal", now)
            for worker in self._workers:
                self._tend(worker, now)
            if self._stop_at is not None and all(worker.process is None for worker in self._workers):
                _log.info("supervisor stopped", exit_code=self._exit_code)
                return
            for key, _ in self._selector.select(_ROUND_SEC):
                if key.data is None:
                    _drain(key.fd)
                else:
                    self._hear(key.data)

    def _tend(self, worker: _Worker, now: float) -> None:
        if worker.process is None:
            if self._stop_at is None and now >= worker.start_at:
                self._start(worker, now)
            return
        code = worker.process.poll()
        if code is not None:
            self._bury(worker, worker.process.pid, code, now)
            return
        silence = worker.silence(now)
        if silence > worker.allowed_silence(now):
            _log.error(
                "worker silent",
                worker_index=worker.index,
                pid=worker.process.pid,
                silent_sec=round(silence, 1),
            )
            worker.process.kill()
            worker.heard(now)
        elif self._stop_at is not None and now > self._stop_at:
            _log.error("worker did not stop in time", worker_index=worker.index, pid=worker.process.pid)
            worker.process.kill()
        if now - worker.started > HEALTHY_AFTER_SEC:
            worker.backoff = 0.0

    def _start(self, worker: _Worker, now: float) -> None:
        if worker.starts and len(self._workers) == 1:
            # A single worker does not share its ports, so nothing kept them while it was dead.
            try:
                ports.check_free(self._worker_claims())
            except ports.PortTaken as error:
                _log.error("port taken", error=str(error))
        read, write = os.pipe()
        os.set_blocking(read, False)
        environment = {
            **GRPC_CORE,
            **os.environ,
            MULTIPROCESS_VARIABLE: str(self._metrics_folder),
            WORKER_VARIABLE: str(worker.index),
            HEARTBEAT_VARIABLE: str(write),
            SUPERVISOR_VARIABLE: str(os.getpid()),
        }
        command = [sys.executable, "-m", self._module, "--worker", str(worker.index)]
        try:
            worker.process = subprocess.Popen(
                command, env=environment, pass_fds=(write,), stdin=subprocess.DEVNULL
            )
        except OSError as error:
            os.close(read)
            self._put_off(worker, now)
            _log.error("worker cannot be started", worker_index=worker.index, error=str(error))
            return
        finally:
            os.close(write)
        worker.pipe, worker.started, worker.ready = read, now, False
        worker.heard(now)
        worker.starts += 1
        self._selector.register(read, selectors.EVENT_READ, worker)
        _log.info("worker started", worker_index=worker.index, pid=worker.process.pid, starts=worker.starts)

    def _hear(self, worker: _Worker) -> None:
        beats, ended = _drain(worker.pipe)
        if beats:
            worker.heard(time.monotonic())
            worker.ready = worker.ready or READY_BEAT in beats
        if ended:
            self._hang_up(worker)

    def _hang_up(self, worker: _Worker) -> None:
        if worker.pipe >= 0:
            self._selector.unregister(worker.pipe)
            os.close(worker.pipe)
            worker.pipe = -1

    def _bury(self, worker: _Worker, pid: int, code: int, now: float) -> None:
        self._hang_up(worker)
        worker.process = None
        drop_gauges(self._metrics_folder, worker.index)
        if self._stop_at is not None:
            _log.info("worker stopped", worker_index=worker.index, pid=pid, code=code)
            # A worker that was still starting is ended by the signal itself, and had accepted nothing.
            if code not in (0, -signal.SIGTERM):
                self._exit_code = self._exit_code or EXIT_FAILED
        elif code == EXIT_SETTINGS:
            _log.error("worker refused the settings", worker_index=worker.index, pid=pid)
            self._exit_code = EXIT_SETTINGS
            self._begin_stop("settings", now)
        else:
            self._put_off(worker, now)
            if self._metrics is not None:
                self._metrics.restarts.inc()
            _log.error(
                "worker died",
                worker_index=worker.index,
                pid=pid,
                code=code,
                starts_again_in_sec=worker.backoff,
            )

    def _put_off(self, worker: _Worker, now: float) -> None:
        worker.backoff = min(worker.backoff * 2 or BACKOFF_FIRST_SEC, BACKOFF_LAST_SEC)
        worker.start_at = now + worker.backoff

    def _begin_stop(self, reason: str, now: float) -> None:
        if self._stop_at is not None:
            return
        self._stop_at = now + self._settings.service.stop_grace_sec
        _log.info("supervisor stopping", reason=reason)
        for worker in self._workers:
            if worker.process is not None:
                worker.process.terminate()

    def _kill_all(self) -> None:
        for worker in self._workers:
            if worker.process is not None:
                worker.process.kill()
                worker.process.wait()

    def _worker_claims(self) -> list[ports.PortClaim]:
        return [claim for claim in self._claims if claim.key != ports.METRICS_KEY]


def _waited_for_a_processor(pid: int) -> float:
    """Seconds that the process's main thread was ready to run and did not; 0 where the system does not
    tell."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def _allow_many_files() -> None:
    """Every connection is a file, and the usual soft limit of 1,024 is below a burst; the workers inherit
    it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _drain(descriptor: int) -> tuple[bytes, bool]:
    """What was written to a pipe, and whether its writer is gone."""
    read = b""
    try:
        while part := os.read(descriptor, 4096):
            read += part
    except BlockingIOError:
        return read, False
    return read, True
