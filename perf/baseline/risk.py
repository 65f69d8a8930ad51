"""Naive risk: floats, and a Valkey round trip for every field of every check."""

import os

import redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

valkey = redis.Redis.from_url(os.environ["NAIVE_VALKEY_URL"], decode_responses=True)

MAX_ORDER_SIZE_USD = 1e12
MAX_POSITION_SIZE_USD = 1e15


def stored(account: str, field: str) -> float:
    return float(valkey.get(f"risk:{account}:{field}") or 0)


async def check(request: Request) -> JSONResponse:
    order = await request.json()
    account, symbol = order["account"], order["symbol"]
    quantity, price = float(order["quantity"]), float(order.get("price") or 45000.0)
    if quantity * price > MAX_ORDER_SIZE_USD:
        return JSONResponse({"approved": False, "reason": "order_size_limit"})
    position = stored(account, f"position:{symbol}")
    if abs(position + quantity) * price > MAX_POSITION_SIZE_USD:
        return JSONResponse({"approved": False, "reason": "position_limit"})
    if stored(account, "buying_power") < 0:
        return JSONResponse({"approved": False, "reason": "buying_power"})
    exposure = sum(abs(stored(account, f"position:{name}")) for name in ("BTCUSDT", "ETHUSDT", "SOLUSDT"))
    if exposure * price > MAX_POSITION_SIZE_USD:
        return JSONResponse({"approved": False, "reason": "concentration_limit"})
    return JSONResponse({"approved": True})


app = Starlette(routes=[Route("/check", check, methods=["POST"])])
