"""Encrypted all the way: client to oms, oms to risk."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from perf.certificates import Identity, identity
from services.runtime.local_stack.part import http_get
from tests.integration.oms.platform import OmsPlatform, started
from tests.support import eventually
from trade2026.client import OmsClient, RiskClient, exact, new_order
from trade2026.oms.v1 import order_pb2 as oms_order_pb2
from trade2026.risk.v1 import risk_pb2
from trade2026.type.v1 import order_pb2


@pytest.fixture
def files(tmp_path: Path) -> Identity:
    return identity(tmp_path)


@pytest.fixture
def encrypted(tmp_path: Path, files: Identity) -> Iterator[OmsPlatform]:
    variables = {
        f"TRADE2026_{service}__SERVICE__{name}": str(file)
        for service in ("RISK", "OMS")
        for name, file in (("GRPC_CERTIFICATE", files.certificate), ("GRPC_KEY", files.key))
    }
    variables["TRADE2026_OMS__RISK_SERVICE__GRPC_AUTHORITIES"] = str(files.authorities)
    platform = started(tmp_path, variables)
    yield platform
    platform.stop()


async def test_an_order_goes_its_way_over_encrypted_channels(encrypted: OmsPlatform, files: Identity) -> None:
    where = encrypted.addresses
    async with (
        OmsClient(where["oms"]["grpc"], authorities=files.authorities) as oms,
        RiskClient(where["risk"]["grpc"], authorities=files.authorities) as risk,
    ):
        answer = await oms.submit(new_order("encrypted", "BTCUSDT", "buy", Decimal("0.1"), price=45_000))
        assert answer.status == oms_order_pb2.SUBMIT_STATUS_SUBMITTED, answer
        check = risk_pb2.CheckRequest(
            account="encrypted", symbol="BTCUSDT", side=order_pb2.SIDE_BUY, quantity=exact(Decimal("0.1"))
        )
        assert (await risk.check(check)).approved

        async def working() -> bool:
            order = await oms.order(answer.order_id)
            return order.state in (order_pb2.ORDER_STATE_NEW, order_pb2.ORDER_STATE_FILLED)

        await eventually(working, within_sec=20)
    reconciling = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("trade2026"),
        *("reconcile", "--target", where["oms"]["grpc"], "--authorities", str(files.authorities)),
    )
    assert await reconciling.wait() == 0
    assert http_get(where["oms"]["rest"], "/health")[0] == 200
