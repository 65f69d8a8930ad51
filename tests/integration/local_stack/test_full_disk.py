"""A disk without room for its state or its log does not keep a supervisor from supervising and stopping."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from services.runtime.local_stack.state import Phase, StackFolder
from tests.support import is_gone, wait_until


class Supervised:
    """A supervisor of two parts, `first` and `second`, in a folder of its own."""

    def __init__(self, data: Path, output: IO[Any]) -> None:
        self.data = data
        self.folder = StackFolder(data)
        command = [sys.executable, "-m", "tests.integration.local_stack.supervisor", str(data)]
        self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

    def running(self) -> bool:
        assert self.process.poll() is None
        state = self.folder.read()
        return state is not None and state.phase is Phase.RUNNING

    def pid(self, part: str) -> int | None:
        state = self.folder.read()
        return None if state is None else state.pids[part]

    def no_room(self) -> None:
        """From now on no state is written."""
        (self.data / "stack.new").mkdir()

    def room(self) -> None:
        (self.data / "stack.new").rmdir()

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def asked_to_end(self, part: str) -> bool:
        return (self.data / part / "ended").exists()


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    with (tmp_path / "said").open("wb") as output:
        one = Supervised(tmp_path / "data", output)
    yield one
    one.process.kill()
    one.process.wait()


def said(supervised: Supervised) -> str:
    return (supervised.data.parent / "said").read_text()


def test_a_part_that_dies_while_no_state_can_be_written_is_started_again(supervised: Supervised) -> None:
    wait_until(supervised.running, within_sec=20)
    first = supervised.pid("first")
    assert first is not None
    supervised.no_room()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: "first: is back" in said(supervised), within_sec=10)
    assert said(supervised).count("the state cannot be written") == 1
    assert supervised.pid("first") == first
    supervised.room()
    wait_until(lambda: supervised.pid("first") not in (None, first))
    again = supervised.pid("first")
    assert again is not None
    assert not is_gone(again)
    assert supervised.end() == 0


def test_the_parts_are_stopped_in_order_although_no_state_can_be_written(supervised: Supervised) -> None:
    wait_until(supervised.running, within_sec=20)
    pids = [supervised.pid("first"), supervised.pid("second")]
    supervised.no_room()
    assert supervised.end() == 0
    assert supervised.asked_to_end("first")
    assert supervised.asked_to_end("second")
    assert said(supervised).endswith("stopping\nstopped\n")
    assert [pid for pid in pids if pid is not None and not is_gone(pid)] == []


def test_a_log_without_room_ends_nothing(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        supervised = Supervised(tmp_path, full)
    try:
        wait_until(supervised.running, within_sec=20)
        first = supervised.pid("first")
        assert first is not None
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: supervised.pid("first") not in (None, first), within_sec=10)
        supervised.end()
        assert supervised.asked_to_end("first")
        assert supervised.asked_to_end("second")
    finally:
        supervised.process.kill()
        supervised.process.wait()
