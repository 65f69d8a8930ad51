"""Measures the venue.

    python -m tests.integration.live_gateway.burst [orders] [--strict]               a burst
    python -m tests.integration.live_gateway.burst [orders] [--strict] --rate 1000   order to fill

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
from nats.aio.msg import Msg

from services.runtime.ids import new_order_id
from services.runtime.local_stack import NatsServer, free_ports
from services.runtime.local_stack.durability import Durability
from services.runtime.nats_client import NatsClient, open_nats
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


def _orders(count: int) -> list[tuple[str, str, bytes]]:
    """(subject, message id, payload) of limit orders over ten accounts, to buy and to sell in turn."""
    made = []
    for number in range(count):
        account = f"account_{number % 10}"
        order_id = new_order_id(account)
        order = {
            "order_id": order_id,
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
        made.append((f"orders.{account}.new", f"new:{order_id}", json.dumps(order).encode()))
    return made


async def _burst(client: NatsClient, publisher: Publisher, worker: psutil.Process, count: int) -> None:
    orders, js = _orders(count), client.jetstream()
    before = worker.cpu_times()
    started = time.monotonic()
    for first in range(0, count, 1000):
        await asyncio.gather(
            *(
                publisher.publish(subject, payload, msg_id, 30)
                for subject, msg_id, payload in orders[first : first + 1000]
            )
        )
    published = time.monotonic()
    while (await js.stream_info(EXECUTIONS)).state.messages < count:
        await asyncio.sleep(0.02)
    done = time.monotonic()
    after = worker.cpu_times()
    cpu = after.user + after.system - before.user - before.system
    print(
        f"{count} orders: published in {published - started:.2f} s, all fills stored after "
        f"{done - started:.2f} s = {count / (done - started):.0f} orders/s; venue's CPU "
        f"{cpu / count * 1e6:.0f} µs an order, PSS {worker.memory_full_info().pss / 1e6:.0f} MB"
    )


async def _steady(client: NatsClient, publisher: Publisher, count: int, rate: float) -> None:
    sent: dict[str, float] = {}
    took: list[float] = []

    async def on_fill(message: Msg) -> None:
        took.append(time.monotonic() - sent[json.loads(message.data)["order_id"]])

    await client.subscribe("fills.*", cb=on_fill)
    await client.flush()
    tasks = []
    started = time.monotonic()
    for number, (subject, msg_id, payload) in enumerate(_orders(count)):
        await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
        sent[msg_id.partition(":")[2]] = time.monotonic()
        tasks.append(asyncio.ensure_future(publisher.publish(subject, payload, msg_id)))
    await asyncio.gather(*tasks)
    while len(took) < count:
        await asyncio.sleep(0.02)
    took.sort()
    print(
        f"{count} orders at {rate:g}/s, order sent to fill received: P50 {took[count // 2] * 1e3:.2f} ms, "
        f"P99 {took[count * 99 // 100] * 1e3:.2f} ms, longest {took[-1] * 1e3:.2f} ms"
    )


async def measure(folder: Path, count: int, strict: bool, rate: float) -> None:
    """Starts everything, runs one measurement, prints it."""
    durability = Durability.STRICT if strict else Durability.PROCESS
    port, monitor = free_ports(2)
    with NatsServer(folder / "nats", port, monitor, durability) as server:
        client = await open_nats(server.url, "burst")
        await ensure_streams(client.jetstream(), (ORDERS, EXECUTIONS, DEADLETTER))
        with venue(folder, server.url, STORE__DURABILITY=durability.value) as supervisor:
            tick = b'{"symbol":"BTCUSDT","price":45000.5,"timestamp":1.5}'
            while b"worker ready" not in (folder / "venue.log").read_bytes():
                await client.publish("ticks.BTCUSDT", tick)
                await asyncio.sleep(0.05)
            (worker,) = supervisor.children()
            publisher = Publisher(client)
            await publisher.start()
            if rate:
                await _steady(client, publisher, count, rate)
            else:
                await _burst(client, publisher, worker, count)
        await client.close()


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("orders", type=int, nargs="?", default=20_000)
    parser.add_argument("--strict", action="store_true", help="sync before a decision is told")
    parser.add_argument("--rate", type=float, default=0, help="orders a second; 0: as fast as possible")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            asyncio.run(measure(Path(folder), options.orders, options.strict, options.rate))
        except BaseException:
            print((Path(folder) / "venue.log").read_text()[-3000:], file=sys.stderr)
            raise


if __name__ == "__main__":
    main()
