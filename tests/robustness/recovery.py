"""How long the platform takes to be whole again: the measure is an order's whole way, not a health page."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import httpx

from tests.robustness.history import Attempt, History, Intent, Told
from tests.robustness.platform import Platform
from tests.robustness.wire import Grpc, Rest

BOUND_SEC: Final = 30.0
"""Within so long of the healing of any fault, a new order goes its whole way again, by gRPC and by REST."""
GIVE_UP_SEC: Final = 120.0


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was missing last, and how long it took."""

    seconds: float
    last_missing: str


class Probe:
    """Sends orders of an account of its own until one by each way is executed, journaled and stored."""

    def __init__(
        self,
        platform: Platform,
        grpc: Grpc,
        rest: Rest,
        fills: httpx.AsyncClient,
        history: History,
        account: str,
    ) -> None:
        self._platform = platform
        self._ways: dict[str, Callable[[Intent], Awaitable[object]]] = {
            "grpc": grpc.submit,
            "rest": rest.submit,
        }
        self._grpc = grpc
        self._rest = rest
        self._fills = fills
        self._history = history
        self.account = account
        self._count = 0

    async def recovered(self) -> Recovery:
        """Waits until the platform is whole; gives up after `GIVE_UP_SEC`."""
        began = time.monotonic()
        last_missing = ""
        while (missing := await self._missing()) and time.monotonic() - began < GIVE_UP_SEC:
            last_missing = missing
            await asyncio.sleep(0.05)
        return Recovery(time.monotonic() - began, last_missing)

    async def _missing(self) -> str:
        """What is not there yet; empty when everything is."""
        for way in ("grpc", "rest"):
            order_id, why = await self._order(way)
            if not order_id:
                return f"an order by {way}: {why}"
            if not await self._stored(order_id):
                return f"the fill of an order by {way} in the fill store"
        unready = await self._platform.unready()
        return "; ".join(unready)

    async def _order(self, way: str) -> tuple[str, str]:
        self._count += 1
        side = "buy" if self._count % 2 else "sell"
        name = f"{self.account}-{self._count}"
        intent = Intent(name, self.account, "BTCUSDT", side, "market", Decimal("0.01"))
        began = time.monotonic()
        answer = await (self._grpc.submit(intent) if way == "grpc" else self._rest.submit(intent))
        self._history.attempts[name].append(Attempt(intent, way, began, time.monotonic(), answer))
        if answer.told is Told.SUBMITTED:
            return answer.order_id, ""
        return "", f"{answer.told} {answer.reason} {answer.detail}"

    async def _stored(self, order_id: str, within_sec: float = 3.0) -> bool:
        deadline = time.monotonic() + within_sec
        while time.monotonic() < deadline:
            try:
                parameters = {"account": self.account, "order_id": order_id}
                response = await self._fills.get("/fills", params=parameters)
                if response.status_code == 200 and response.json()["fills"]:
                    return True
            except (httpx.TransportError, ValueError):
                pass
            await asyncio.sleep(0.1)
        return False
