"""A platform whose parts are hurt, and clients of its oms."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import nats
import pytest
from nats.aio.client import Client

from tests.contract.oms.clients import OverGrpc, OverRest
from tests.integration.oms.platform import OmsPlatform, shared_platform


@pytest.fixture(scope="package")
def _platform() -> Iterator[OmsPlatform]:
    with shared_platform() as platform:
        yield platform


@pytest.fixture
def platform(_platform: OmsPlatform) -> Iterator[OmsPlatform]:
    """Everything runs, and holds what earlier tests left; afterwards everything runs again."""
    _platform.mend()
    yield _platform
    _platform.mend()


@pytest.fixture
async def oms(platform: OmsPlatform) -> AsyncIterator[OverRest]:
    client = OverRest(f"http://{platform.addresses['oms']['rest']}")
    yield client
    await client.close()


@pytest.fixture
async def oms_grpc(platform: OmsPlatform) -> AsyncIterator[OverGrpc]:
    client = OverGrpc(platform.addresses["oms"]["grpc"])
    yield client
    await client.close()


@pytest.fixture
async def bus(platform: OmsPlatform) -> AsyncIterator[Client]:
    """A client of the platform's NATS."""
    client = await nats.connect(platform.nats.url, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    yield client
    await client.close()
