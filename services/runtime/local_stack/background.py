"""A stack that outlives the command which started it: detach, stop, look at."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from services.runtime.local_stack.assembly import StackOptions, assemble
from services.runtime.local_stack.state import Phase, StackFolder

_POLL_SEC = 0.1
_STOP_TIMEOUT_SEC = 90.0


@dataclass(frozen=True, slots=True)
class PartStatus:
    """One line of `trade2026 status`."""

    name: str
    pid: int | None
    addresses: Mapping[str, str]
    healthy: bool
    detail: str
    """Why it is not healthy, for a person."""


def up_command(options: StackOptions) -> Sequence[str]:
    """The command that runs a stack in the foreground with these options."""
    return [
        *(sys.executable, "-P", "-m", "trade2026.cli", "up"),
        *("--data", str(options.data)),
        *("--port-offset", str(options.port_offset)),
        *("--workers", str(options.workers)),
        *("--profile", options.durability.value),
    ]


def start_detached(options: StackOptions, say: Callable[[str], None]) -> int:
    """Start a stack in the background and return when it is up; its lines are said meanwhile.

    Returns the exit status of the command: not 0 when the stack did not come up (it has ended and said why).
    """
    folder = StackFolder(options.data)
    log_path = folder.log_path("stack")
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("ab") as log, log_path.open("rb") as written:
        written.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            up_command(options),
            cwd=options.data,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while True:
                status = process.poll()
                state = folder.read()
                for line in written.read().decode(errors="replace").splitlines():
                    say(line)
                if status is not None:
                    return status or 1
                if state is not None and state.supervisor == process.pid and state.phase is Phase.RUNNING:
                    say(f"running in the background (pid {process.pid}); `trade2026 down` stops it")
                    process.returncode = (
                        0  # it is left behind on purpose: no warning about a child that still runs
                    )
                    return 0
                time.sleep(_POLL_SEC)
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise


def stop(data: Path, say: Callable[[str], None]) -> int:
    """Stop the stack that runs in a folder and wait until no process of it is left; 0 also when none runs."""
    folder = StackFolder(data)
    if not folder.is_held():
        say(f"no stack is running in {data}")
        return 0
    state = folder.read()
    if state is None:
        say(f"the stack in {data} is only just starting or ending; try again")
        return 1
    try:
        supervisor = psutil.Process(state.supervisor)
        family = [supervisor, *supervisor.children(recursive=True)]
        supervisor.send_signal(signal.SIGTERM)
    except psutil.NoSuchProcess:
        family = []
    say(f"stopping the stack in {data} (pid {state.supervisor})")
    _, left = psutil.wait_procs(family, timeout=_STOP_TIMEOUT_SEC)
    for process in left:
        say(f"pid {process.pid} did not end by itself, killed")
        process.kill()
    _, immortal = psutil.wait_procs(left, timeout=5)
    say("stopped" if not immortal else f"still there: {', '.join(str(process.pid) for process in immortal)}")
    return 1 if immortal else 0


def status(data: Path, port_offset: int) -> list[PartStatus]:
    """Every part as it is now, asked itself."""
    state = StackFolder(data).read()
    if state is None:
        parts = [part for stage in assemble(StackOptions(data, port_offset)) for part in stage]
        return [PartStatus(part.name, None, part.addresses, False, "not running") for part in parts]
    answers = []
    for stage in assemble(state.options(data)):
        for part in stage:
            pid = state.pids.get(part.name)
            if pid is None:
                answers.append(PartStatus(part.name, None, part.addresses, False, "not running"))
                continue
            health = part.probe()
            detail = "" if health.healthy else health.detail
            answers.append(PartStatus(part.name, pid, part.addresses, health.healthy, detail))
    return answers
