"""The health board: what it answers, from memory, while dependencies come and go."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from services.runtime.health import HealthBoard, Status
from tests.support import eventually


class Dependency:
    """A dependency that a test breaks and mends."""

    def __init__(self, working: bool = True) -> None:
        self.working = working
        self.probes = 0

    async def probe(self) -> None:
        self.probes += 1
        if not self.working:
            raise ConnectionError("refused")


@asynccontextmanager
async def running(board: HealthBoard) -> AsyncIterator[None]:
    task = asyncio.create_task(board.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def is_status(board: HealthBoard, status: Status, *names: str) -> Callable[[], bool]:
    return lambda: board.status() == (status, list(names))


def test_a_board_without_dependencies_is_healthy() -> None:
    assert HealthBoard(10).body() == (200, {"status": "healthy"})


def test_a_critical_dependency_is_missing_until_it_was_seen() -> None:
    board = HealthBoard(10)
    board.register("valkey", True)
    assert board.body() == (503, {"status": "unhealthy", "missing": ["valkey"]})
    board.report("valkey", True)
    assert board.body() == (200, {"status": "healthy"})


def test_a_missing_optional_dependency_degrades() -> None:
    board = HealthBoard(10)
    board.register("valkey", True)
    board.register("questdb", False)
    board.register("marks", False)
    board.report("valkey", True)
    assert board.body() == (200, {"status": "degraded", "degraded": ["marks", "questdb"]})


def test_only_the_missing_critical_ones_are_named_when_unhealthy() -> None:
    board = HealthBoard(10)
    for name, critical in (("valkey", True), ("nats", True), ("questdb", False)):
        board.register(name, critical)
    board.report("nats", True)
    assert board.status() == ("unhealthy", ["valkey"])


def test_a_stopping_service_is_unhealthy_whatever_its_dependencies_say() -> None:
    board = HealthBoard(10)
    board.stopping()
    assert board.body() == (503, {"status": "unhealthy", "missing": ["stopping"]})


async def test_probes_find_a_failure_and_a_return() -> None:
    board, valkey = HealthBoard(0.01), Dependency()
    board.register("valkey", True, valkey.probe)
    async with running(board):
        await eventually(is_status(board, "healthy"))
        valkey.working = False
        await eventually(is_status(board, "unhealthy", "valkey"))
        valkey.working = True
        await eventually(is_status(board, "healthy"))


async def test_a_failing_dependency_is_probed_more_often_than_the_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.runtime.health.RETRY_AFTER_SEC", 0.01)
    board, valkey = HealthBoard(3600), Dependency(working=False)
    board.register("valkey", True, valkey.probe)
    async with running(board):
        await eventually(lambda: valkey.probes > 3)
        valkey.working = True
        await eventually(is_status(board, "healthy"))


async def test_a_probe_that_hangs_has_failed_and_does_not_delay_the_others() -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    board, nats = HealthBoard(0.01, timeout_sec=0.05), Dependency()
    board.register("valkey", True, hang)
    board.register("nats", True, nats.probe)
    async with running(board):
        await eventually(is_status(board, "unhealthy", "valkey"))
        await eventually(lambda: nats.probes > 3)


async def test_a_report_counts_at_once() -> None:
    board, nats = HealthBoard(3600), Dependency()
    board.register("nats", True, nats.probe)
    await board.probe_once()
    assert board.status() == ("healthy", [])
    board.report("nats", False, "disconnected")
    assert board.status() == ("unhealthy", ["nats"])


async def test_listeners_hear_the_status_and_each_change_once() -> None:
    board = HealthBoard(10)
    board.register("valkey", True)
    board.register("questdb", False)
    heard: list[Status] = []
    board.on_change(heard.append)
    board.report("valkey", True)
    board.report("valkey", True)
    board.report("questdb", True)
    board.stopping()
    assert heard == ["unhealthy", "degraded", "healthy", "unhealthy"]


def test_listeners_hear_of_a_dependency_that_is_added_later() -> None:
    board = HealthBoard(10)
    heard: list[Status] = []
    board.on_change(heard.append)
    board.register("valkey", True)
    assert heard == ["healthy", "unhealthy"]


async def test_a_board_ends_although_a_probe_forgets_its_cancellation() -> None:
    asked = asyncio.Event()

    async def forgetful() -> None:
        asked.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    board = HealthBoard(0.05)
    board.register("server", critical=True, probe=forgetful)
    running = asyncio.create_task(board.run())
    await asyncio.wait_for(asked.wait(), 5)
    running.cancel()
    done, _ = await asyncio.wait([running], timeout=5)
    running.cancel()
    assert done
