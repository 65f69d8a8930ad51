"""Measures the venue: publishes a burst of limit orders and waits until every fill is stored.

    python -m tests.integration.live_gateway.burst [orders] [--strict] [--profile FILE]

Starts its own NATS and its own venue in a temporary folder, on free ports.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from services.runtime.connections import open_nats
from services.runtime.ids import new_order_id
from services.runtime.local_stack import NatsServer, free_ports
from services.runtime.local_stack.durability import Durability
from services.runtime.publisher import Publisher
from services.runtime.streams import DEADLETTER, EXECUTIONS, ORDERS, ensure_streams


@contextmanager
def venue(folder: Path, nats_url: str, **overrides: str) -> Iterator[psutil.Process]:
    """A running venue (supervisor and worker); its log is `folder/venue.log`."""
    port, metrics_port = free_ports(2)
    environment = {
        **os.environ,
        "TRADE2026_LIVE_GATEWAY__NATS__URL": nats_url,
        "TRADE2026_LIVE_GATEWAY__STORE__PATH": str(folder / "journal.sqlite3"),
        "TRADE2026_LIVE_GATEWAY__SERVICE__PORT": str(port),
        "TRADE2026_LIVE_GATEWAY__MONITORING__METRICS_PORT": str(metrics_port),
        **{f"TRADE2026_LIVE_GATEWAY__{key}": value for key, value in overrides.items()},
    }
    with (folder / "venue.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.live_gateway"], env=environment, stdout=log, stderr=log
        )
        try:
            yield psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(30)


async def measure(folder: Path, orders: int, strict: bool) -> None:
    """One burst; prints what it took."""
    durability = Durability.STRICT if strict else Durability.PROCESS
    port, monitor = free_ports(2)
    with NatsServer(folder / "nats", port, monitor, durability) as server:
        client = await open_nats(server.url, "burst")
        js = client.jetstream()
        await ensure_streams(js, (ORDERS, EXECUTIONS, DEADLETTER))
        with venue(folder, server.url, STORE__DURABILITY=durability.value) as supervisor:
            while b"worker ready" not in (folder / "venue.log").read_bytes():
                await client.publish("ticks.BTCUSDT", b'{"symbol":"BTCUSDT","price":45000.5,"timestamp":1.5}')
                await asyncio.sleep(0.05)
            await client.publish("ticks.BTCUSDT", b'{"symbol":"BTCUSDT","price":45000.5,"timestamp":1.5}')
            (worker,) = supervisor.children()
            publisher = Publisher(client)
            await publisher.start()
            payloads = []
            for number in range(orders):
                account = f"account_{number % 10}"
                order = {
                    "order_id": new_order_id(account),
                    "client_order_id": f"c{number}",
                    "account": account,
                    "symbol": "BTCUSDT",
                    "side": "buy" if number % 2 else "sell",
                    "type": "limit",
                    "quantity": 0.01,
                    "price": 45000 + number % 100,
                    "time_in_force": "timeout",
                    "expire_at": time.time_ns() // 10**9 + 300,
                    "timestamp": time.time(),
                }
                payloads.append((account, order["order_id"], json.dumps(order).encode()))
            before = worker.cpu_times()
            started = time.monotonic()
            for first in range(0, orders, 1000):
                await asyncio.gather(
                    *(
                        publisher.publish(f"orders.{account}.new", payload, f"new:{order_id}", 30)
                        for account, order_id, payload in payloads[first : first + 1000]
                    )
                )
            published = time.monotonic()
            while (await js.stream_info(EXECUTIONS)).state.messages < orders:
                await asyncio.sleep(0.02)
            done = time.monotonic()
            after = worker.cpu_times()
            cpu = after.user + after.system - before.user - before.system
            memory = worker.memory_full_info().pss
            print(
                f"{orders} orders: published in {published - started:.2f} s, all fills stored after "
                f"{done - started:.2f} s = {orders / (done - started):.0f} orders/s; venue's CPU "
                f"{cpu / orders * 1e6:.0f} µs an order, PSS {memory / 1e6:.0f} MB"
            )
        await client.close()


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("orders", type=int, nargs="?", default=20_000)
    parser.add_argument("--strict", action="store_true", help="sync before a decision is told")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            asyncio.run(measure(Path(folder), options.orders, options.strict))
        except BaseException:
            print((Path(folder) / "venue.log").read_text()[-3000:], file=sys.stderr)
            raise


if __name__ == "__main__":
    main()
