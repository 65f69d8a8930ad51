"""Runs a stack until a signal ends it: `trade2026 up`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType

import psutil

from services.runtime.local_stack import questdb_jar
from services.runtime.local_stack.assembly import StackOptions, assemble
from services.runtime.local_stack.part import Part, PartFailed, PartUnavailable
from services.runtime.local_stack.stack import PortsTaken, Stack, StackStopped
from services.runtime.local_stack.state import AlreadyRunning, Phase, StackFolder, StackState

_TICK_SEC = 0.2
_PR_SET_CHILD_SUBREAPER = 36


class _Signals:
    """Counts the requests to end: the first stops in order, the second by force."""

    def __init__(self) -> None:
        self.requests = 0

    def catch(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._count)

    def _count(self, _number: int, _frame: FrameType | None) -> None:
        self.requests += 1

    def stopping(self) -> bool:
        return self.requests > 0

    def forced(self) -> bool:
        return self.requests > 1


def run(options: StackOptions, say: Callable[[str], None]) -> int:
    """Start everything, supervise it, stop it; returns the exit status of the command.

    1. hold the data folder; 2. find every port free; 3. fetch what is missing; 4. start the stages;
    5. supervise until SIGINT, SIGTERM or SIGHUP; 6. stop in reverse; 7. end what is left below this process.
    """
    folder = StackFolder(options.data)
    try:
        with folder.locked():
            return _run_in(folder, options, say)
    except AlreadyRunning as error:
        say(f"{error}; `trade2026 down` stops it")
        return 1


class _Notice:
    """What the supervisor tells about itself in its folder, and how that may fail: a disk without room takes
    no state, and must not take the supervisor with it. What was not written is written when there is room.
    """

    def __init__(self, folder: StackFolder, options: StackOptions, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._options = options
        self._say = say
        self._failing = False
        self.phase = Phase.STARTING
        self.parts: Sequence[Part] = ()

    def write(self) -> None:
        """Tells the phase and the process ids as they are."""
        options = self._options
        state = StackState(
            supervisor=os.getpid(),
            phase=self.phase,
            port_offset=options.port_offset,
            workers=options.workers,
            durability=options.durability,
            pids={part.name: part.pid for part in self.parts},
        )
        try:
            self._folder.write(state)
        except OSError as error:
            if not self._failing:
                self._say(f"the state cannot be written ({error}); everything goes on")
            self._failing = True
        else:
            self._failing = False

    def write_late(self) -> None:
        """Writes what failed before."""
        if self._failing:
            self.write()


def _run_in(folder: StackFolder, options: StackOptions, say: Callable[[str], None]) -> int:
    say(f"data and logs: {options.data}")
    notice = _Notice(folder, options, say)
    signals = _Signals()
    stack = Stack(assemble(options), say, changed=notice.write, stopping=signals.stopping)
    notice.parts = stack.parts
    try:
        stack.check_ports()
        questdb_jar.resolve()  # before signals are caught: Ctrl-C ends a long download at once
    except (PortsTaken, PartUnavailable) as error:
        say(str(error))
        return 1
    _adopt_orphans()
    signals.catch()
    try:
        stack.start()
        notice.phase = Phase.RUNNING
        notice.write()
        say("everything is up")
        while not signals.stopping():
            stack.tick()
            notice.write_late()
            time.sleep(_TICK_SEC)
        return 0
    except StackStopped:
        return 1
    except (PartFailed, PartUnavailable) as error:
        say(str(error))
        return 1
    finally:
        with contextlib.ExitStack() as steps:  # last first, each of them whatever another one raises
            steps.callback(say, "stopped")
            steps.callback(_end_descendants)
            steps.callback(stack.stop, signals.forced)
            steps.callback(say, "stopping")
            notice.phase = Phase.STOPPING
            steps.callback(notice.write)


def _adopt_orphans() -> None:
    """Become the parent of every orphan below this process, so that the end finds them all."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _end_descendants() -> None:
    left = psutil.Process().children(recursive=True)
    for process in left:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(left, timeout=5)
