"""The naive design under the documented load, on servers of the same kind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx

from perf import requests as r
from perf.cases import http
from perf.load import ROOT
from perf.measure import Case
from perf.platform import WORK
from services.runtime.local_stack import NatsServer, ValkeyServer, free_ports

IN_FLIGHT: Final = 16
_START_SEC: Final = 60.0


@contextmanager
def naive_case() -> Iterator[Case]:
    """The case to measure; its servers run inside the `with` block."""
    WORK.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="naive-", dir=WORK) as folder:
        valkey_port, nats_port, monitor, risk, oms = free_ports(5)
        valkey = ValkeyServer(Path(folder) / "valkey", valkey_port)
        broker = NatsServer(Path(folder) / "nats", nats_port, monitor)
        with valkey, broker:
            environment = {
                **os.environ,
                "NAIVE_VALKEY_URL": f"redis://127.0.0.1:{valkey_port}",
                "NAIVE_NATS_URL": broker.url,
                "NAIVE_RISK_URL": f"http://127.0.0.1:{risk}",
            }
            services = {"naive risk": ("risk", risk), "naive oms": ("oms", oms)}
            running = {
                name: subprocess.Popen(
                    [
                        *(sys.executable, "-m", "uvicorn", f"perf.baseline.{module}:app"),
                        *("--port", str(port), "--log-level", "warning", "--no-access-log"),
                    ],
                    cwd=ROOT,
                    env=environment,
                )
                for name, (module, port) in services.items()
            }
            try:
                url = f"http://127.0.0.1:{oms}/orders"
                _wait(url)
                pids = {name: process.pid for name, process in running.items()}
                pids.update({server.name: server.pid for server in (valkey, broker) if server.pid})
                yield Case(
                    name=f"the naive design: orders by REST, {IN_FLIGHT} in flight",
                    group="naive",
                    setting="2 processes, process",
                    drive=http(url, [r.order_body(number) for number in range(r.CYCLE)], in_flight=IN_FLIGHT),
                    pids=pids,
                )
            finally:
                for process in running.values():
                    process.terminate()
                for process in running.values():
                    process.wait()


def _wait(url: str) -> None:
    """Until an order is taken."""
    deadline = time.monotonic() + _START_SEC
    while True:
        try:
            if httpx.post(url, json=r.order_body(0), timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        if time.monotonic() > deadline:
            raise RuntimeError("the naive design does not start")
        time.sleep(0.1)
