"""The data folder of a stack: its lock, which one supervisor holds, and its state, which all may read."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO

from services.runtime.local_stack.assembly import StackOptions, log_path
from services.runtime.local_stack.durability import Durability


class Phase(StrEnum):
    """How far a stack is."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class StackState:
    """What the supervisor tells about itself."""

    supervisor: int
    phase: Phase
    port_offset: int
    workers: int
    durability: Durability
    pids: Mapping[str, int | None] = field(default_factory=dict)
    """Process id of each part, None while it is down."""

    def options(self, data: Path) -> StackOptions:
        """The options that it was started with."""
        return StackOptions(data, self.port_offset, self.workers, self.durability)


class AlreadyRunning(Exception):
    """Another supervisor holds the folder; the message names it."""


class StackFolder:
    """Files of one stack under its data folder."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self._lock = data / "lock"
        self._state = data / "stack.json"

    def log_path(self, name: str) -> Path:
        """Where a part logs, or the supervisor (`stack`) when it runs in the background."""
        return log_path(self.data, name)

    def log_names(self) -> list[str]:
        """What has logged so far."""
        return sorted(
            path.stem for path in self.log_path("stack").parent.glob("*.log") if "." not in path.stem
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; the kernel frees it when this process ends, however it ends.

        Raises AlreadyRunning.
        """
        self.data.mkdir(parents=True, exist_ok=True)
        with self._lock.open("a") as lock:
            if not _exclusively(lock):
                state = self._read()
                holder = f"pid {state.supervisor}" if state is not None else "another process"
                raise AlreadyRunning(f"a stack is already running in {self.data} ({holder})")
            self._state.unlink(missing_ok=True)
            try:
                yield
            finally:
                self._state.unlink(missing_ok=True)

    def is_held(self) -> bool:
        """Whether a supervisor runs in the folder."""
        try:
            with self._lock.open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def write(self, state: StackState) -> None:
        """Replace the state in one step, so that a reader never sees half of it."""
        fresh = self._state.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(state)))
        os.replace(fresh, self._state)

    def read(self) -> StackState | None:
        """State of the stack that runs in the folder; None when none does or before it wrote any."""
        return self._read() if self.is_held() else None

    def _read(self) -> StackState | None:
        try:
            fields = json.loads(self._state.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return StackState(
            supervisor=fields["supervisor"],
            phase=Phase(fields["phase"]),
            port_offset=fields["port_offset"],
            workers=fields["workers"],
            durability=Durability(fields["durability"]),
            pids=fields["pids"],
        )


def _exclusively(lock: IO[str]) -> bool:
    """Take the lock, over the instants for which `is_held` of another process looks at it."""
    for _ in range(20):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
        else:
            return True
    return False


def default_data(port_offset: int) -> Path:
    """Data folder when the operator names none: in the working copy, or in the user's state folder."""
    repository = Path(__file__).resolve().parents[3]
    if (repository / "pyproject.toml").exists():
        base = repository / ".trade2026"
    else:
        base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "trade2026"
    return base / (f"offset-{port_offset}" if port_offset else "default")
