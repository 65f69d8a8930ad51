"""The four ways in which the contract suite is run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from services.runtime.local_stack.part import Part
from tests.contract.oms.clients import InProcess, OmsClient, OverGrpc, OverRest
from tests.integration.oms.platform import OmsPlatform, shared_platform
from tests.integration.oms.worker import WorkerInProcess


@pytest.fixture(scope="package")
def _platform() -> Iterator[OmsPlatform]:
    with shared_platform() as platform:
        yield platform


@pytest.fixture(scope="module")
def native_oms(_platform: OmsPlatform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Part]:
    """A second oms beside the first, on the native gRPC engine; gone before tests that count the workers."""
    native = {"TRADE2026_OMS__SERVICE__GRPC_ENGINE": "native"}
    service = _platform.another_oms(tmp_path_factory.mktemp("native-oms"), native)
    try:
        service.start()
        service.wait_healthy()
        yield service
    finally:
        service.stop()


@pytest.fixture
def platform(_platform: OmsPlatform) -> OmsPlatform:
    """Everything runs, and holds what earlier tests left."""
    _platform.mend()
    return _platform


@pytest.fixture(params=["in_process", "grpc", "native", "rest"])
async def oms(request: pytest.FixtureRequest, platform: OmsPlatform) -> AsyncIterator[OmsClient]:
    """oms, asked in one of the four ways."""
    if request.param == "grpc":
        client: OmsClient = OverGrpc(platform.addresses["oms"]["grpc"])
    elif request.param == "native":
        client = OverGrpc(request.getfixturevalue("native_oms").addresses["grpc"])
    elif request.param == "rest":
        client = OverRest(f"http://{platform.addresses['oms']['rest']}")
    else:
        async with WorkerInProcess(platform) as worker:
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
