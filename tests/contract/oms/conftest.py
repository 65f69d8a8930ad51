"""The three ways in which the contract suite is run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from services.oms import bootstrap
from services.runtime.service import WorkerContext
from tests.contract.oms.clients import InProcess, OmsClient, OverGrpc, OverRest
from tests.integration.oms.platform import OmsPlatform, shared_platform


@pytest.fixture(scope="session")
def _platform() -> Iterator[OmsPlatform]:
    with shared_platform() as platform:
        yield platform


@pytest.fixture
def platform(_platform: OmsPlatform) -> OmsPlatform:
    """Everything runs, and holds what earlier tests left."""
    _platform.mend()
    return _platform


@pytest.fixture(params=["in_process", "grpc", "rest"])
async def oms(request: pytest.FixtureRequest, platform: OmsPlatform) -> AsyncIterator[OmsClient]:
    """oms, asked in one of the three ways."""
    if request.param == "grpc":
        client: OmsClient = OverGrpc(platform.addresses["oms"]["grpc"])
    elif request.param == "rest":
        client = OverRest(f"http://{platform.addresses['oms']['rest']}")
    else:
        async with worker_in_process(platform) as worker:
            yield InProcess(worker.service)
        return
    yield client
    await client.close()


@pytest.fixture
async def rest(platform: OmsPlatform) -> AsyncIterator[OverRest]:
    """oms over REST alone, for what only REST can say."""
    client = OverRest(f"http://{platform.addresses['oms']['rest']}")
    yield client
    await client.close()


class worker_in_process:
    """A second worker of oms inside the test, without ports."""

    def __init__(self, platform: OmsPlatform) -> None:
        self._context = WorkerContext(platform.oms_settings(), 0, 1, asyncio.Event())
        self._worker = bootstrap.Worker(self._context)

    async def __aenter__(self) -> bootstrap.Worker:
        self._worker.service.attach(await self._worker.wire())
        return self._worker

    async def __aexit__(self, *_: object) -> None:
        self._context.stop.set()
        await self._worker.stop()
        await self._context.cancel_owned()
