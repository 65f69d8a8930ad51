"""Signs of life, and what the supervisor makes of their absence."""

import asyncio
import os
from collections.abc import Iterator

import pytest

from services.runtime import liveness, supervisor
from services.runtime.liveness import BEAT, BEAT_SEC, READY_BEAT, Heart, progress
from services.runtime.supervisor import SILENCE_SEC, START_SEC, _Worker
from tests.support import eventually


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    os.set_blocking(read, False)
    yield read, write
    os.close(read)
    liveness._process.heart = None
    liveness._process.next_beat = float("inf")


def beats(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except BlockingIOError:
        return b""


async def test_a_loop_that_runs_beats(pipe: tuple[int, int]) -> None:
    heart = Heart(asyncio.get_running_loop(), pipe[1])
    heart.start()
    assert beats(pipe[0]) == BEAT
    assert await eventually(lambda: beats(pipe[0])) == BEAT
    heart.ready()
    assert READY_BEAT in beats(pipe[0])
    os.close(pipe[1])
    heart._pipe = -1


async def test_requests_beat_while_the_timers_cannot_and_not_more_often(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(liveness, "monotonic", lambda: now)
    heart = Heart(asyncio.get_running_loop(), pipe[1])
    heart.start()
    beats(pipe[0])
    for _ in range(100):
        now += BEAT_SEC / 4
        progress()
    assert len(beats(pipe[0])) == 25
    os.close(pipe[1])
    heart._pipe = -1


async def test_a_supervisor_that_is_gone_is_no_error(pipe: tuple[int, int]) -> None:
    read, write = os.pipe()
    heart = Heart(asyncio.get_running_loop(), write)
    os.close(read)
    heart.beat()
    heart.beat()
    os.close(write)


def test_progress_without_a_supervisor_does_nothing() -> None:
    progress()


def worker_that_waited(monkeypatch: pytest.MonkeyPatch, seconds: float) -> _Worker:
    class Process:
        pid = 1

    worker = _Worker(0, process=Process())  # type: ignore[arg-type]
    monkeypatch.setattr(supervisor, "_waited_for_a_processor", lambda pid: 100.0)
    worker.heard(50.0)
    monkeypatch.setattr(supervisor, "_waited_for_a_processor", lambda pid: 100.0 + seconds)
    return worker


def test_silence_is_the_time_since_the_last_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker_that_waited(monkeypatch, 0.0).silence(53.0) == 3.0


def test_time_in_which_the_machine_was_too_busy_is_not_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker_that_waited(monkeypatch, 2.5).silence(53.0) == 0.5


def test_a_starting_worker_may_be_silent_for_longer_but_not_for_ever() -> None:
    worker = _Worker(0, started=100.0)
    assert worker.allowed_silence(101.0) == START_SEC
    assert worker.allowed_silence(100.0 + START_SEC + 1) == SILENCE_SEC
    worker.ready = True
    assert worker.allowed_silence(101.0) == SILENCE_SEC


def test_the_system_tells_how_long_a_process_waited() -> None:
    assert supervisor._waited_for_a_processor(os.getpid()) >= 0
    assert supervisor._waited_for_a_processor(2**22 + 1) == 0
