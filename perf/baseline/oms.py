"""Naive oms: asks risk with a blocking client inside the event loop, publishes, then saves field by field."""

import json
import os
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import nats
import redis
from nats.aio.client import Client
from nats.aio.msg import Msg
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

valkey = redis.Redis.from_url(os.environ["NAIVE_VALKEY_URL"], decode_responses=True)
risk_url = os.environ["NAIVE_RISK_URL"]
client: Client


async def submit(request: Request) -> JSONResponse:
    order = await request.json()
    verdict = httpx.post(f"{risk_url}/check", json=order).json()  # noqa: ASYNC210 (the fault is the point)
    if not verdict["approved"]:
        return JSONResponse({"status": "rejected", "reason": verdict["reason"]})
    order["order_id"] = str(uuid.uuid4())
    order["timestamp"] = time.time()
    await client.jetstream().publish(f"naive_orders.{order['account']}.new", json.dumps(order).encode())
    for field, value in order.items():
        valkey.hset(f"oms:order:{order['order_id']}", field, str(value))
    valkey.expire(f"oms:order:{order['order_id']}", 3600)
    return JSONResponse({"status": "submitted", "order_id": order["order_id"]})


async def fill_at_once(message: Msg) -> None:
    """The venue: every order is filled at its price."""
    order = json.loads(message.data)
    await client.jetstream().publish(f"naive_fills.{order['account']}", message.data)
    await message.ack()


async def book(message: Msg) -> None:
    fill = json.loads(message.data)
    key = f"oms:position:{fill['account']}:{fill['symbol']}"
    signed = float(fill["quantity"]) * (1 if fill["side"] == "buy" else -1)
    held = float(valkey.hget(key, "quantity") or 0)
    valkey.hset(key, "quantity", str(held + signed))
    valkey.hset(key, "last_price", str(fill["price"]))
    valkey.expire(key, 3600)
    valkey.set(f"risk:{fill['account']}:position:{fill['symbol']}", str(held + signed))
    await message.ack()


@asynccontextmanager
async def connected(app: Starlette) -> AsyncIterator[None]:
    global client
    client = await nats.connect(os.environ["NAIVE_NATS_URL"])
    jetstream = client.jetstream()
    await jetstream.add_stream(name="NAIVE", subjects=["naive_orders.*.new", "naive_fills.*"])
    await jetstream.subscribe("naive_orders.*.new", cb=fill_at_once, manual_ack=True)
    await jetstream.subscribe("naive_fills.*", cb=book, manual_ack=True)
    yield
    await client.close()


app = Starlette(routes=[Route("/orders", submit, methods=["POST"])], lifespan=connected)
