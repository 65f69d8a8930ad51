"""A whole platform under test: `trade2026 up` as operators use it, with what tests ask of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

import nats
import psycopg
from nats.aio.client import Client
from psycopg.rows import dict_row

from services.runtime.local_stack import StackProcess
from services.runtime.local_stack.part import http_get

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
"""Limits that let every order of the acceptance runs pass."""

_FOR_TESTS: Final = {
    # Fills are to be stored soon, not within the ten seconds that suit a busy day.
    "TRADE2026_OMS__QUESTDB__FLUSH_INTERVAL_SEC": "1",
    # These are tests of function: a slow machine must not turn orders into time-outs.
    "TRADE2026_OMS__RISK_SERVICE__TIMEOUT_SEC": "1",
}


class Platform(StackProcess):
    """A running platform with data of its own."""

    def __init__(self, folder: Path, variables: Mapping[str, str] | None = None, workers: int = 1) -> None:
        super().__init__(folder, workers=workers, variables={**_FOR_TESTS, **(variables or {})})

    def url(self, name: str) -> str:
        """REST root of a service."""
        return f"http://{self.address(name, 'rest')}"

    def unhealthy(self) -> dict[str, object]:
        """What each service says that is not simply healthy."""
        said: dict[str, object] = {}
        for name in ("market-data", "live-gateway", "risk", "oms"):
            try:
                status, body = http_get(self.address(name, "rest"), "/health")
                answer = json.loads(body)
            except (OSError, HTTPException, ValueError) as error:
                said[name] = repr(error)
                continue
            if (status, answer["status"]) != (200, "healthy"):
                said[name] = answer
        return said

    def logs(self, name: str) -> list[dict[str, Any]]:
        """The JSON lines that a service has logged."""
        lines = self.part_log(name).read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def query(self, statement: str, *parameters: object) -> list[dict[str, Any]]:
        """Rows of a QuestDB query."""
        host, port = self.address("questdb", "pg").split(":")
        with psycopg.connect(
            f"host={host} port={port} user=admin password=quest dbname=qdb",
            autocommit=True,
            row_factory=dict_row,
        ) as connection:
            return connection.execute(statement.encode(), parameters or None).fetchall()

    async def connect_nats(self) -> Client:
        """A client of the platform's NATS."""
        return await nats.connect(f"nats://{self.address('nats', 'nats')}", max_reconnect_attempts=-1)
