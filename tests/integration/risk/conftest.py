"""risk with a market that a test can silence, and with every log line and threshold within reach."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.contract.risk.clients import OverGrpc
from tests.integration.risk.platform import RiskPlatform, running_platform
from tests.support import eventually

VARIABLES = {
    "TRADE2026_RISK__MARKS__MAX_AGE_SEC": "2",
    "TRADE2026_RISK__MARKS__HELD_MAX_AGE_SEC": "4",
    "TRADE2026_RISK__SERVICE__LOG_LEVEL": "DEBUG",
    "TRADE2026_RISK__PERFORMANCE__LATENCY_SLA_MS": "0.001",
    "TRADE2026_RISK__MONITORING__LATENCY_ALERT_THRESHOLD_MS": "0.002",
    "TRADE2026_RISK__RISK_CHECKS__ALLOW_SHORT": "true",
}


@pytest.fixture(scope="package")
def _hurt_platform() -> Iterator[RiskPlatform]:
    with running_platform(VARIABLES) as platform:
        yield platform


@pytest.fixture
def silent(_hurt_platform: RiskPlatform) -> RiskPlatform:
    """Everything runs; there are no marks."""
    _hurt_platform.mend()
    return _hurt_platform


@pytest.fixture
async def platform(silent: RiskPlatform) -> AsyncIterator[RiskPlatform]:
    """Everything runs, with marks all the time."""
    async with silent.ticking():
        await eventually(lambda: not silent.missing(), within_sec=20)
        yield silent


@pytest.fixture
async def risk(_hurt_platform: RiskPlatform) -> AsyncIterator[OverGrpc]:
    client = OverGrpc(_hurt_platform.addresses["risk"]["grpc"])
    yield client
    await client.close()
