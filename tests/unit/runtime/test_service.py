"""What a worker's context does when its background tasks die."""

import asyncio

import pytest

from services.runtime.service import WorkerContext
from services.runtime.settings import MonitoringSettings, ServiceConfig, ServiceSettings


@pytest.fixture
async def context() -> WorkerContext[ServiceConfig]:
    settings = ServiceConfig(
        service=ServiceSettings(name="demo", port=0), monitoring=MonitoringSettings(metrics_port=0)
    )
    return WorkerContext(settings, 0, 1, asyncio.Event())


async def test_an_owned_task_that_fails_stops_the_worker(context: WorkerContext[ServiceConfig]) -> None:
    async def fail() -> None:
        raise ValueError("boom")

    context.own(fail(), "relay")
    await asyncio.wait_for(context.stop.wait(), 1)
    assert isinstance(context.failed, ValueError)


async def test_an_owned_task_that_ends_too_early_stops_the_worker(
    context: WorkerContext[ServiceConfig],
) -> None:
    async def end() -> None:
        return None

    context.own(end(), "relay")
    await asyncio.wait_for(context.stop.wait(), 1)
    assert str(context.failed) == "background task relay ended"


async def test_an_owned_task_may_end_after_the_stop(context: WorkerContext[ServiceConfig]) -> None:
    async def until_stop() -> None:
        await context.stop.wait()

    task = context.own(until_stop(), "relay")
    context.stop.set()
    await task
    await asyncio.sleep(0)
    assert context.failed is None


async def test_an_error_after_the_stop_still_fails_the_worker(context: WorkerContext[ServiceConfig]) -> None:
    async def fail_late() -> None:
        await context.stop.wait()
        raise ValueError("boom")

    task = context.own(fail_late(), "relay")
    context.stop.set()
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert isinstance(context.failed, ValueError)


async def test_cancelling_an_owned_task_is_no_failure(context: WorkerContext[ServiceConfig]) -> None:
    task = context.own(asyncio.Event().wait(), "relay")
    await context.cancel_owned()
    assert task.cancelled()
    assert context.failed is None
    assert not context.stop.is_set()


async def test_the_first_failure_is_kept(context: WorkerContext[ServiceConfig]) -> None:
    first, second = ValueError("first"), ValueError("second")
    context.fail(first)
    context.fail(second)
    assert context.failed is first


async def test_an_owned_task_that_forgets_its_first_cancellation_ends(
    context: WorkerContext[ServiceConfig],
) -> None:
    async def forgetful() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()

    task = context.own(forgetful(), "relay")
    await asyncio.sleep(0)
    context.stop.set()
    await asyncio.wait_for(context.cancel_owned(), 5)
    assert task.cancelled()
    assert context.failed is None
