"""Supervision, on programs that misbehave on purpose."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from services.runtime.local_stack import Health, Part, PartFailed, Stack, free_ports, port_holder
from services.runtime.local_stack.part import HEALTHY, loopback, not_ready
from services.runtime.local_stack.stack import PortsTaken, StackStopped
from tests.support import is_gone, wait_until


class Script(Part):
    """A shell script, ready when it has made the file `ready`."""

    start_timeout_sec = 5.0
    stop_timeout_sec = 0.5

    def __init__(self, name: str, folder: Path, script: str, port: int | None = None) -> None:
        super().__init__(name, folder / name, {} if port is None else {"tcp": loopback(port)})
        self.script = script

    def prepare(self) -> None:
        super().prepare()
        (self.folder / "ready").unlink(missing_ok=True)

    def command(self) -> Sequence[str]:
        return ["sh", "-c", self.script]

    def probe(self) -> Health:
        return HEALTHY if (self.folder / "ready").exists() else not_ready("no file")


SERVES = "touch ready; exec sleep 60"


class Heard:
    """Lines that a stack said, and whether its operator wants the end."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.stopping = False

    def stack(self, *stages: Sequence[Part]) -> Stack:
        self.running = Stack(stages, self.lines.append, stopping=lambda: self.stopping)
        return self.running

    def heard_after_ticks(self, text: str) -> bool:
        self.running.tick()
        return self.count(text) > 0

    def count(self, text: str) -> int:
        return sum(text in line for line in self.lines)


@pytest.fixture
def heard() -> Iterator[Heard]:
    heard = Heard()
    yield heard
    heard.running.stop()


def test_next_stage_starts_when_the_one_before_is_healthy(heard: Heard, tmp_path: Path) -> None:
    first = Script("first", tmp_path, f"sleep 0.5; date +%s.%N > at; {SERVES}")
    second = Script("second", tmp_path, f"date +%s.%N > at; {SERVES}")
    heard.stack([first], [second]).start()
    assert float((first.folder / "at").read_text()) < float((second.folder / "at").read_text())


def test_part_that_dies_before_it_is_healthy_fails_the_start_with_its_last_lines(
    heard: Heard, tmp_path: Path
) -> None:
    part = Script("oracle", tmp_path, "echo 'no such moon'; exit 3")
    with pytest.raises(PartFailed, match=r"(?s)oracle ended with status 3.*no such moon"):
        heard.stack([part]).start()


def test_part_that_never_becomes_healthy_fails_the_start_at_its_deadline(
    heard: Heard, tmp_path: Path
) -> None:
    part = Script("sloth", tmp_path, "exec sleep 60")
    part.start_timeout_sec = 0.3
    with pytest.raises(PartFailed, match=r"sloth did not become healthy in 0 s \(no file\)"):
        heard.stack([part]).start()


def test_start_ends_at_once_when_the_operator_wants_the_end(heard: Heard, tmp_path: Path) -> None:
    heard.stopping = True
    with pytest.raises(StackStopped):
        heard.stack([Script("sloth", tmp_path, "exec sleep 60")]).start()


def test_killed_part_is_started_again_and_both_are_said(heard: Heard, tmp_path: Path) -> None:
    part = Script("part", tmp_path, SERVES)
    stack = heard.stack([part])
    stack.start()
    first_pid = part.pid
    part.kill()
    wait_until(lambda: heard.heard_after_ticks("part: is back"))
    assert part.pid not in (None, first_pid)
    assert heard.count("part: was killed by SIGKILL; starting it again in 0.25 s") == 1


def test_part_that_keeps_dying_is_started_with_growing_delays(heard: Heard, tmp_path: Path) -> None:
    part = Script("part", tmp_path, "test -e ../once && exit 1; touch ../once; " + SERVES)
    stack = heard.stack([part])
    stack.start()
    part.kill()
    wait_until(lambda: heard.heard_after_ticks("in 1 s"), within_sec=10)
    assert heard.count("in 0.25 s") == heard.count("in 0.5 s") == 1


def test_part_that_ignores_the_signal_is_killed_and_said(heard: Heard, tmp_path: Path) -> None:
    part = Script("stubborn", tmp_path, "trap '' TERM; touch ready; while true; do sleep 1; done")
    stack = heard.stack([part])
    stack.start()
    pid = part.pid
    stack.stop()
    assert pid is not None
    assert is_gone(pid)
    assert heard.count("stubborn: killed because it did not end by itself") == 1


def test_child_that_a_part_leaves_behind_ends_with_it(heard: Heard, tmp_path: Path) -> None:
    part = Script("parent", tmp_path, f"sleep 60 & echo $! > child; {SERVES}")
    stack = heard.stack([part])
    stack.start()
    child = int((part.folder / "child").read_text())
    stack.stop()
    wait_until(lambda: is_gone(child))


def test_taken_port_is_refused_with_its_holder(heard: Heard, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    program = f"import socket, time; s = socket.create_server(('127.0.0.1', {port})); time.sleep(60)"
    holder = Script("holder", tmp_path, f"touch ready; exec python3 -c {shlex.quote(program)}")
    stack = heard.stack([holder])
    stack.start()
    wait_until(lambda: str(holder.pid) in port_holder(port))
    assert holder.pid is not None
    name = psutil.Process(holder.pid).name()
    with pytest.raises(
        PortsTaken, match=rf"late needs port {port}, which is taken by pid {holder.pid} \({name}\)"
    ):
        Stack([[Script("late", tmp_path, SERVES, port)]], print).check_ports()


def test_stop_of_many_parts_takes_the_time_of_the_slowest(heard: Heard, tmp_path: Path) -> None:
    parts = [
        Script(f"part{n}", tmp_path, "trap 'sleep 0.3; exit 0' TERM; touch ready; sleep 60 & wait")
        for n in range(4)
    ]
    stack = heard.stack(parts)
    stack.start()
    began = time.monotonic()
    stack.stop()
    assert time.monotonic() - began < 1.0
