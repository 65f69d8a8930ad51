"""Encrypted all the way: client to oms, oms to risk."""

from __future__ import annotations

import asyncio
import sys
from decimal import Decimal
from pathlib import Path

from perf.certificates import identity
from services.runtime.local_stack.part import http_get
from tests.integration.oms.platform import started
from tests.support import eventually
from trade2026.client import OmsClient, RiskClient, exact, new_order
from trade2026.risk.v1 import risk_pb2
from trade2026.type.v1 import order_pb2


async def test_an_order_goes_its_way_over_encrypted_channels(tmp_path: Path) -> None:
    files = identity(tmp_path)
    proof = {"GRPC_CERTIFICATE": files.certificate, "GRPC_KEY": files.key}
    variables = {
        f"TRADE2026_{service}__SERVICE__{name}": str(file)
        for service in ("RISK", "OMS")
        for name, file in proof.items()
    }
    variables["TRADE2026_OMS__RISK_SERVICE__GRPC_AUTHORITIES"] = str(files.authorities)
    platform = await asyncio.to_thread(started, tmp_path, variables)
    try:
        where = platform.addresses
        async with (
            OmsClient(where["oms"]["grpc"], authorities=files.authorities) as oms,
            RiskClient(where["risk"]["grpc"], authorities=files.authorities) as risk,
        ):
            answer = await oms.submit(new_order("encrypted", "BTCUSDT", "buy", Decimal("0.1")))
            assert answer.order_id, answer

            async def filled() -> None:
                held = await oms.positions("encrypted")
                assert Decimal(held["BTCUSDT"].quantity.value) == Decimal("0.1")

            await eventually(filled, within_sec=20)
            check = risk_pb2.CheckRequest(
                account="encrypted",
                symbol="BTCUSDT",
                side=order_pb2.SIDE_SELL,
                quantity=exact(Decimal("0.1")),
            )
            assert (await risk.check(check)).approved
        reconciling = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("trade2026"),
            *("reconcile", "--target", where["oms"]["grpc"], "--authorities", str(files.authorities)),
        )
        assert await reconciling.wait() == 0
        assert http_get(where["oms"]["rest"], "/health")[0] == 200
    finally:
        await asyncio.to_thread(platform.stop)
