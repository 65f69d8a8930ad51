"""The four ways in which the contract suite is run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from services.risk.bootstrap import Worker
from services.runtime.local_stack.part import Part, http_get
from services.runtime.service import WorkerContext
from tests.contract.risk.clients import InProcess, OverGrpc, OverRest, RiskClient
from tests.integration.risk.platform import RiskPlatform, running_platform
from tests.support import eventually


@pytest.fixture(scope="package")
def _risk_platform() -> Iterator[RiskPlatform]:
    with running_platform() as platform:
        yield platform


@pytest.fixture(scope="package")
def native_risk(_risk_platform: RiskPlatform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Part]:
    """A second risk beside the first, on the native gRPC engine."""
    native = {"TRADE2026_RISK__SERVICE__GRPC_ENGINE": "native"}
    service = _risk_platform.another_risk(tmp_path_factory.mktemp("native-risk"), native)
    try:
        service.start()
        service.wait_healthy()
        yield service
    finally:
        service.stop()


@pytest.fixture
async def platform(_risk_platform: RiskPlatform) -> RiskPlatform:
    """Everything runs, with marks; the ledger holds what earlier tests left."""
    await _risk_platform.tick()
    await eventually(lambda: not _risk_platform.missing(), within_sec=20)
    return _risk_platform


async def _in_process(platform: RiskPlatform) -> AsyncIterator[RiskClient]:
    context = WorkerContext(platform.settings(), 0, 1, asyncio.Event())
    worker = Worker(context)
    await worker.start()
    await platform.tick()

    async def whole() -> bool:
        await worker.health.probe_once()
        return worker.health.status()[0] == "healthy"

    await eventually(whole, within_sec=20)
    yield InProcess(worker.servicer)
    context.stop.set()
    async with asyncio.timeout(20):
        await worker.stop()


async def _client(request: pytest.FixtureRequest, platform: RiskPlatform) -> AsyncIterator[RiskClient]:
    way = request.param
    if way == "in_process":
        async for client in _in_process(platform):
            yield client
        return
    opened: RiskClient
    if way == "grpc":
        opened = OverGrpc(platform.addresses["risk"]["grpc"])
    elif way == "native":
        addresses = request.getfixturevalue("native_risk").addresses
        # It may have begun after the marks that the other one has seen.
        await platform.tick()
        await eventually(lambda: b'"healthy"' in http_get(addresses["rest"], "/health")[1], within_sec=20)
        opened = OverGrpc(addresses["grpc"])
    else:
        opened = OverRest(f"http://{platform.addresses['risk']['rest']}")
    yield opened
    await opened.close()


@pytest.fixture(params=["in_process", "grpc", "native", "rest"])
async def risk(request: pytest.FixtureRequest, platform: RiskPlatform) -> AsyncIterator[RiskClient]:
    """risk, asked in one of the four ways."""
    async for client in _client(request, platform):
        yield client


@pytest.fixture(params=["in_process", "grpc", "native"])
async def reserving(request: pytest.FixtureRequest, platform: RiskPlatform) -> AsyncIterator[RiskClient]:
    """risk, asked in one of the three ways in which orders are reserved."""
    async for client in _client(request, platform):
        yield client


@pytest.fixture
async def in_process(platform: RiskPlatform) -> AsyncIterator[RiskClient]:
    """risk in this process."""
    async for client in _in_process(platform):
        yield client


@pytest.fixture
async def rest(platform: RiskPlatform) -> AsyncIterator[OverRest]:
    """risk over REST alone, for what only REST can say."""
    client = OverRest(f"http://{platform.addresses['risk']['rest']}")
    yield client
    await client.close()
