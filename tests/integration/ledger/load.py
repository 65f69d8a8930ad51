"""One process that changes accounts as fast as it can: `python -m tests.integration.ledger.load URL …`.

Prints one line of JSON: changes, seconds, CPU seconds, and the latency of a change in milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence

import uvloop

from services.ledger.continuity import NoJournal
from services.ledger.ledger import Ledger, LedgerOptions
from services.ledger.registry import MemoryAccountRegistry, Registration
from services.runtime.clock import SystemClock
from tests.unit.ledger.making import abandon, make_order, reserve


class _EverythingIsOpen(MemoryAccountRegistry):
    """Of accounts that another process has opened."""

    async def look_up(self, account: str) -> Registration | None:
        return None


async def load(url: str, accounts: Sequence[str], in_flight: int, seconds: float) -> dict[str, float]:
    """Reserves and abandons orders of `accounts` in turn, `in_flight` at a time."""
    ledger = await Ledger.open(LedgerOptions(url=url), _EverythingIsOpen(), NoJournal(), SystemClock())
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        account = accounts[number % len(accounts)]
        while (started := time.perf_counter()) < end:
            order = make_order(account, "0.1", price="45000", client_order_id="")
            await ledger.submit(reserve(order), 30)
            middle = time.perf_counter()
            await ledger.submit(abandon(order), 30)
            latencies.append(middle - started)
            latencies.append(time.perf_counter() - middle)

    await ledger.submit(reserve(make_order(accounts[0])), 30)
    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client(number) for number in range(in_flight)))
    elapsed, used = time.perf_counter() - started, time.process_time() - cpu
    await ledger.close()
    latencies.sort()
    return {
        "changes": len(latencies),
        "seconds": elapsed,
        "cpu": used,
        "p50_ms": latencies[len(latencies) // 2] * 1e3,
        "p99_ms": latencies[len(latencies) * 99 // 100] * 1e3,
    }


if __name__ == "__main__":
    _, url, names, in_flight, seconds = sys.argv
    print(json.dumps(uvloop.run(load(url, names.split(","), int(in_flight), float(seconds)))))
