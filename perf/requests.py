"""What the load tools send: the documented bodies, as REST and as gRPC messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

CHECK: Final = "trade2026.risk.v1.RiskService/Check"
BATCH_CHECK: Final = "trade2026.risk.v1.RiskService/BatchCheck"
RESERVE: Final = "trade2026.risk.v1.RiskService/Reserve"
SUBMIT: Final = "trade2026.oms.v1.OrderService/SubmitOrder"
BATCH_SUBMIT: Final = "trade2026.oms.v1.OrderService/BatchSubmitOrders"

CYCLE: Final = 100
"""Orders after which the documented load repeats itself: accounts, sides and prices."""
ACCOUNTS: Final = 10


def check_body(
    account: str = "test_account", quantity: float = 0.1, price: float = 45000.0
) -> dict[str, Any]:
    """`POST /check` as documented."""
    return {"account": account, "symbol": "BTCUSDT", "side": "buy", "quantity": quantity, "price": price}


def order_body(number: int, accounts: int = ACCOUNTS) -> dict[str, Any]:
    """`POST /orders` of the documented load: order `number` of it."""
    return {
        "account": f"test_account_{number % accounts}",
        "symbol": "BTCUSDT",
        "side": "buy" if number % 2 == 0 else "sell",
        "quantity": 0.01,
        "price": float(45000 + number % 100),
        "type": "limit",
    }


def message(body: dict[str, Any]) -> dict[str, Any]:
    """The same as a gRPC message in JSON."""
    made = {**body, "side": f"SIDE_{body['side'].upper()}", "quantity": {"value": str(body["quantity"])}}
    if "price" in body:
        made["price"] = {"value": str(body["price"])}
    if "type" in body:
        made["type"] = f"ORDER_TYPE_{body['type'].upper()}"
    return made


def target(url: str, body: object) -> dict[str, Any]:
    """A POST for the HTTP tool."""
    return {"method": "POST", "url": url, "body": body}


def orders(count: int = CYCLE, accounts: int = ACCOUNTS) -> list[dict[str, Any]]:
    """The documented load as gRPC messages."""
    return [message(order_body(number, accounts)) for number in range(count)]


def batches(size: int, accounts: int = ACCOUNTS) -> list[dict[str, Any]]:
    """The documented load in batches of `size` orders (a divisor of the cycle)."""
    cycle = orders(CYCLE, accounts)
    return [{"requests": cycle[start : start + size]} for start in range(0, CYCLE, size)]


def reservations(run: int, accounts: Iterable[str]) -> list[dict[str, Any]]:
    """Reservations with ids that no other `run` (below 10⁸) uses; the tool numbers them."""
    # Digits are a valid ULID; its first one is at most 7.
    number = "{{printf `%017d` .RequestNumber}}"
    return [
        {
            **message({**check_body(account, 0.01), "side": side}),
            "order_id": f"{account}-{run:09d}{number}",
        }
        for account in accounts
        for side in ("buy", "sell")
    ]
