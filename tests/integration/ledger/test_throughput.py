"""Changes a second of two processes, printed. Asserted is only that both come through, and exactly."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from services.runtime.local_stack import ValkeyServer
from tests.integration.ledger.conftest import OpenLedger
from tests.unit.ledger.making import make_order, reserve

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("accounts", [1, 10])
async def test_two_processes_share_accounts(
    open_ledger: OpenLedger, empty_valkey: ValkeyServer, accounts: int, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = await open_ledger()
    names = [f"hot{number}" for number in range(accounts)]
    for name in names:
        await ledger.execute(reserve(make_order(name)))
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.integration.ledger.load", empty_valkey.url, ",".join(names), "64", "2"),
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        for _ in range(2)
    ]
    answers = [json.loads((await process.communicate())[0].splitlines()[-1]) for process in processes]
    with capsys.disabled():
        rate = sum(answer["changes"] / answer["seconds"] for answer in answers)
        cpu = sum(answer["cpu"] for answer in answers) / sum(answer["changes"] for answer in answers)
        slowest = max(answer["p50_ms"] for answer in answers), max(answer["p99_ms"] for answer in answers)
        print(
            f"\n{accounts} account(s), 2 processes, 64 in flight each: {rate:,.0f} changes/s, "
            f"{cpu * 1e6:.0f} µs CPU each, P50 {slowest[0]:.1f} ms, P99 {slowest[1]:.1f} ms"
        )
    assert all(answer["changes"] > 0 for answer in answers)
    for name in names:
        account = await ledger.account(name, fresh=True)
        assert account is not None
        assert account.open_orders == len(await ledger.open_orders(name))
