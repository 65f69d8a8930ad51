"""Orders that the tests send, and waiting for what becomes of them."""

from __future__ import annotations

from typing import Any

import grpc
import httpx

from services.runtime.ids import new_order_id
from tests.contract.oms.clients import OmsClient, Refusal
from tests.integration.oms.platform import OmsPlatform
from tests.support import eventually
from trade2026.risk.v1 import risk_pb2, risk_service_pb2_grpc
from trade2026.type.v1 import order_pb2 as type_pb2


def limit_buy(of_account: str, **fields: Any) -> dict[str, Any]:
    """A limit that the mark reaches at once: the venue fills it at the mark."""
    order: dict[str, Any] = {
        "account": of_account,
        "symbol": "BTCUSDT",
        "side": "buy",
        "quantity": 0.1,
        "price": 48000.0,
    }
    return {name: value for name, value in {**order, **fields}.items() if value is not None}


def resting(of_account: str, **fields: Any) -> dict[str, Any]:
    """A sell that the mark does not reach, within the collar."""
    return limit_buy(of_account, **{"side": "sell", "price": 52000, **fields})


def market_buy(of_account: str, **fields: Any) -> dict[str, Any]:
    return limit_buy(of_account, **{"type": "market", "price": None, **fields})


async def until_state(
    oms: OmsClient, order_id: str, *states: str, within_sec: float = 10.0
) -> dict[str, Any]:
    """The order once it is in one of `states`."""

    async def reached() -> dict[str, Any]:
        try:
            order: dict[str, Any] = (await oms.call("GetOrder", {"order_id": order_id}))["order"]
        except (Refusal, httpx.TransportError) as error:
            raise AssertionError(str(error)) from error
        assert order["state"] in states, order
        return order

    return await eventually(reached, within_sec=within_sec)


async def orders_of(oms: OmsClient, account: str) -> list[dict[str, Any]]:
    """The account's orders, newest first."""
    found: list[dict[str, Any]] = (await oms.call("ListOrders", {"account": account, "page_size": 1000}))[
        "orders"
    ]
    return found


async def reserved_of(platform: OmsPlatform, account: str) -> tuple[int, dict[str, Any]]:
    """What the account holds reserved, as risk sees it: open orders, and the symbols with a reservation."""
    root = f"http://{platform.addresses['risk']['rest']}"
    async with httpx.AsyncClient(base_url=root, timeout=10) as client:
        answer = (await client.get(f"/accounts/{account}/risk")).json()
    held = {
        one["symbol"]: one
        for one in answer.get("symbols", [])
        if float(one.get("open_buy", 0)) or float(one.get("open_sell", 0))
    }
    return int(answer.get("open_orders", 0)), held


async def reserve_alone(platform: OmsPlatform, account: str, order_id: str = "") -> str:
    """What a worker leaves that dies between its reservation and its publication; the order id."""
    order_id = order_id or new_order_id(account)
    request = risk_pb2.ReserveRequest(
        account=account,
        symbol="BTCUSDT",
        side=type_pb2.SIDE_BUY,
        type=type_pb2.ORDER_TYPE_LIMIT,
        order_id=order_id,
        max_open_orders=1000,
    )
    request.quantity.value = "0.1"
    request.price.value = "45000"
    async with grpc.aio.insecure_channel(platform.addresses["risk"]["grpc"]) as channel:
        answer = await risk_service_pb2_grpc.RiskServiceStub(channel).Reserve(request)
    assert answer.approved
    return order_id
