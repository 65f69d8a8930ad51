"""One child process of the local stack: its command, its addresses, its health, its end."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from services.runtime.local_stack import launch
from services.runtime.local_stack.ports import LOOPBACK

INSTALL_TOOLS = "pip install 'trade2026[tools]'"
"""The command that installs what the local stack needs."""

_POLL_SEC = 0.05
_PROBE_TIMEOUT_SEC = 1.0
_LONGEST_SHOWN_LINE = 600
_LARGEST_LOG_BYTES = 64 * 1024 * 1024


class PartUnavailable(Exception):
    """A part cannot run on this machine; the message names it and the command that installs it."""


class PartFailed(Exception):
    """A part died or did not become healthy in time; the message names it and has its last log lines."""


@dataclass(frozen=True, slots=True)
class Health:
    """Answer of a part about itself."""

    ready: bool
    """It serves, perhaps without something that it can do without."""

    healthy: bool
    """It serves and misses nothing."""

    detail: str = ""
    """What is missing, for a person."""


HEALTHY = Health(ready=True, healthy=True)


def not_ready(detail: str) -> Health:
    """The part does not serve."""
    return Health(ready=False, healthy=False, detail=detail)


class Part(ABC):
    """A program that runs as a child of this process, in a session of its own, logging to a file.

    It is killed by the kernel when the *thread* that started it ends, so `start` must be called from the main
    thread. After `stop`, `kill` or a crash it can be started again: same ports, same data.
    """

    name: str
    addresses: Mapping[str, str]
    """What it listens on: a word for the protocol → `host:port`."""

    stop_timeout_sec: float = 15.0
    """How long it may take to end after SIGTERM, before it is killed."""

    start_timeout_sec: float = 30.0
    """How long it may take to become healthy."""

    niceness: int = 0
    """How far it stands back when the processors are busy, 0 … 19. An order's reservation has a deadline, so
    what answers it goes before what sends it, and that before what follows from it."""

    def __init__(
        self, name: str, folder: Path, addresses: Mapping[str, str], log_path: Path | None = None
    ) -> None:
        self.name = name
        self.folder = folder
        self.addresses = dict(addresses)
        self.log_path = log_path or folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @abstractmethod
    def command(self) -> Sequence[str]:
        """Program and arguments.

        Raises PartUnavailable when the program is not installed.
        """

    @abstractmethod
    def probe(self) -> Health:
        """Ask the running program how it is; answers within about a second, raises nothing."""

    def environment(self) -> Mapping[str, str]:
        """Variables added to those of this process."""
        return {}

    def prepare(self) -> None:
        """Make what the program finds at its start; called before each start."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log_path.parent.mkdir(parents=True, exist_ok=True)

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def running(self) -> bool:
        """Whether the process exists."""
        return self.pid is not None

    @property
    def ports(self) -> list[int]:
        """The ports that it listens on."""
        return [int(address.rpartition(":")[2]) for address in self.addresses.values()]

    def start(self) -> None:
        """Start the process and return at once; does nothing while it runs.

        Raises PartUnavailable when the program is not installed.
        """
        if self.running:
            return
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(
                f"{self.name} must be started from the main thread: it dies with the thread that starts it"
            )
        self._end_session()
        self.prepare()
        command = self.command()
        if self.log_path.exists() and self.log_path.stat().st_size > _LARGEST_LOG_BYTES:
            self.log_path.replace(self.log_path.with_suffix(".old.log"))
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), str(self.niceness)),
                    *command,
                ],
                cwd=self.folder,
                env={**os.environ, **self.environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the supervisor alone, which stops all in order
            )

    def wait_healthy(self, timeout_sec: float | None = None) -> None:
        """Block until it serves.

        Raises PartFailed when it dies or the time (its own by default) is over.
        """
        deadline = self._deadline(timeout_sec)
        while not self._served(deadline):
            time.sleep(_POLL_SEC)

    async def until_healthy(self, timeout_sec: float | None = None) -> None:
        """`wait_healthy` for a coroutine: the event loop goes on meanwhile."""
        deadline = self._deadline(timeout_sec)
        while not await asyncio.to_thread(self._served, deadline):
            await asyncio.sleep(_POLL_SEC)

    def stop(self, timeout_sec: float | None = None) -> None:
        """End it in order (SIGTERM), by force when that takes too long; none of its session is left."""
        self.request_stop()
        self.finish_stop(timeout_sec)

    def request_stop(self) -> None:
        """Ask it to end, without waiting."""
        self._signal(signal.SIGCONT)  # a paused process would never see the SIGTERM
        self._signal(signal.SIGTERM)

    def finish_stop(self, timeout_sec: float | None = None) -> None:
        """Wait for the end that `request_stop` asked for, then end by force what is left."""
        if self._process is not None:
            try:
                self._process.wait(self.stop_timeout_sec if timeout_sec is None else timeout_sec)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._end_session()

    def kill(self) -> None:
        """SIGKILL its first process, as a crash would, and wait until it is gone."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open, nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End a `pause`."""
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        """Stop, start, wait until it serves."""
        self.stop()
        self.start()
        self.wait_healthy()

    def log_tail(self, lines: int = 10) -> str:
        """The last lines that it logged since its latest start, each cut to what a person reads."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(min(self._log_start, size), size - 64 * 1024))
            tail = log.read().decode(errors="replace").splitlines()[-lines:]
        return "\n".join(line[:_LONGEST_SHOWN_LINE] for line in tail)

    def exit_reason(self) -> str:
        """How the process ended, for a person; empty while it runs or when it never ran."""
        code = self._process.poll() if self._process is not None else None
        if code is None:
            return ""
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"

    def failure(self, what: str) -> PartFailed:
        """The error that says what happened to this part, with its last log lines."""
        tail = self.log_tail()
        return PartFailed(
            f"{self.name} {what}" + (f"; last lines of {self.log_path}:\n{tail}" if tail else "")
        )

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_healthy()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _deadline(self, timeout_sec: float | None) -> float:
        return time.monotonic() + (self.start_timeout_sec if timeout_sec is None else timeout_sec)

    def _served(self, deadline: float) -> bool:
        if not self.running:
            raise self.failure(self.exit_reason() or "is not running")
        health = self.probe()
        if not health.ready and time.monotonic() > deadline:
            raise self.failure(f"did not become healthy in time ({health.detail})")
        return health.ready

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)  # does nothing when the process has been waited for

    def _end_session(self) -> None:
        """Kill what the first process left behind: it was the leader of its own process group."""
        if self._process is not None and self._process.poll() is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody is left, or only a zombie
                os.killpg(self._process.pid, signal.SIGKILL)


def answers_tcp(address: str) -> bool:
    """Whether somebody accepts connections there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_PROBE_TIMEOUT_SEC).close()
    except OSError:
        return False
    return True


def http_get(address: str, path: str) -> tuple[int, bytes]:
    """Status and body of a small GET.

    Raises OSError or http.client.HTTPException when no whole answer came.
    """
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=_PROBE_TIMEOUT_SEC)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read(64 * 1024)
    finally:
        connection.close()


def loopback(port: int) -> str:
    """`host:port` of a port on this machine's loopback."""
    return f"{LOOPBACK}:{port}"
