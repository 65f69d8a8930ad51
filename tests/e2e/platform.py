"""A whole platform under test: started and stopped by the command that operators use."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import nats
import psycopg
from psycopg.rows import dict_row

from services.runtime.local_stack import free_ports

COMMAND: Final = (sys.executable, "-m", "trade2026.cli")
DOCUMENTED_PORTS: Final = (8103, 9103, 18103, 8099, 9099, 18099, 8095, 9095, 8096, 9096)
SERVER_PORTS: Final = (6379, 4222, 8222, 9000, 8812, 9003)
RAISED_LIMITS: Final = {
    "TRADE2026_RISK__RISK_CHECKS__ALLOW_SHORT": "true",
    "TRADE2026_RISK__RISK_CHECKS__INITIAL_BUYING_POWER_USD": "1000000000000",
    "TRADE2026_RISK__RISK_CHECKS__MAX_ORDER_SIZE_USD": "1000000000",
    "TRADE2026_RISK__RISK_CHECKS__MAX_ORDER_SIZE_SHARES": "1000000000",
    "TRADE2026_RISK__RISK_CHECKS__MAX_POSITION_SIZE_USD": "1000000000000",
    "TRADE2026_RISK__RISK_CHECKS__MAX_CONCENTRATION_PCT": "1000",
    "TRADE2026_RISK__RISK_CHECKS__MAX_PORTFOLIO_VAR_USD": "1000000000000",
    "TRADE2026_OMS__ORDER_MANAGEMENT__MAX_OPEN_ORDERS_PER_ACCOUNT": "1000000",
}


def free_offset() -> int:
    """A port offset at which every port of the platform is free."""
    for _ in range(100):
        offset = free_ports(1)[0] % 20_000 + 20_000
        if all(_is_free(port + offset) for port in (*DOCUMENTED_PORTS, *SERVER_PORTS)):
            return offset
    raise AssertionError("found no port offset with all ports free")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@dataclass(frozen=True, slots=True)
class Platform:
    """A running platform. Addresses are `host:port`."""

    data: Path
    offset: int
    environment: Mapping[str, str]
    addresses: dict[str, dict[str, str]] = field(default_factory=dict)
    """Protocol → address by part; they stay the same when a part is restarted."""

    @classmethod
    def start(cls, data: Path, environment: Mapping[str, str] | None = None, workers: int = 1) -> Platform:
        """Starts everything and returns when it is healthy."""
        platform = cls(data, free_offset(), {**os.environ, **(environment or {})})
        started = platform.command(
            "up", "--detach", "--workers", str(workers), "--port-offset", str(platform.offset), check=False
        )
        assert started.returncode == 0, f"the platform did not start:\n{started.stdout}\n{started.stderr}"
        platform.addresses.update((name, part["addresses"]) for name, part in platform.status().items())
        return platform

    def command(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs `trade2026` on this platform's data."""
        return subprocess.run(
            [*COMMAND, arguments[0], "--data", str(self.data), *arguments[1:]],
            env=dict(self.environment),
            capture_output=True,
            text=True,
            timeout=240,
            check=check,
        )

    def stop(self) -> None:
        """Ends every process of the platform."""
        self.command("down")

    def status(self) -> dict[str, dict[str, Any]]:
        """The parts by name, as `trade2026 status --json` tells them."""
        return {
            part["name"]: part for part in json.loads(self.command("status", "--json", check=False).stdout)
        }

    def address(self, name: str, protocol: str) -> str:
        """Where a part listens."""
        return self.addresses[name][protocol]

    def url(self, name: str) -> str:
        """REST root of a service."""
        return f"http://{self.address(name, 'rest')}"

    def logs(self, name: str) -> list[dict[str, Any]]:
        """The JSON lines that a service has logged."""
        lines = self.command("logs", name).stdout.splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def query(self, statement: str, *parameters: object) -> list[dict[str, Any]]:
        """Rows of a QuestDB query."""
        host, port = self.address("questdb", "pg").split(":")
        with psycopg.connect(
            host=host,
            port=int(port),
            user="admin",
            password="quest",
            dbname="qdb",
            autocommit=True,
            row_factory=dict_row,
        ) as connection:
            return connection.execute(statement.encode(), parameters or None).fetchall()

    async def connect_nats(self) -> nats.NATS:
        """A client of the platform's NATS."""
        return await nats.connect(f"nats://{self.address('nats', 'nats')}", max_reconnect_attempts=-1)
