"""Followers of drop copies, by gRPC and by server-sent events: each resumes after the last event it has."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Final

import grpc
import httpx

from tests.robustness.history import Copied, DropCopy
from tests.robustness.wire import Grpc, copied, copied_json
from trade2026.oms.v1 import order_pb2

SILENCE_SEC: Final = 4.0
"""After so long without event or heartbeat (one a second) a follower connects anew."""
_AGAIN_SEC: Final = 0.1


def _request(account: str, after: int) -> order_pb2.StreamExecutionsRequest:
    request = order_pb2.StreamExecutionsRequest(account=account, after_sequence=after)
    request.heartbeat_interval.FromSeconds(1)
    return request


async def follow_grpc(oms: Grpc, account: str, copy: DropCopy) -> None:
    """Follows until cancelled."""
    while True:
        call = oms.stub.StreamExecutions(_request(account, copy.last))
        try:
            while True:
                async with asyncio.timeout(SILENCE_SEC):
                    message = await call.read()
                if message is grpc.aio.EOF:
                    break
                if message.HasField("event"):
                    copy.receive(copied(message))
                else:
                    copy.heartbeat(message.sequence)
        except (TimeoutError, grpc.aio.AioRpcError) as error:
            _refused(copy, str(getattr(error, "code", lambda: "")()), str(error))
        finally:
            call.cancel()
        copy.resumed += 1
        await asyncio.sleep(_AGAIN_SEC)


async def follow_rest(client: httpx.AsyncClient, account: str, copy: DropCopy) -> None:
    """Follows until cancelled."""
    while True:
        parameters = {"account": account, "heartbeat_interval": "1s"}
        headers = {"last-event-id": str(copy.last)} if copy.last else {}
        try:
            async with client.stream("GET", "/executions", params=parameters, headers=headers) as answer:
                if answer.status_code != 200:
                    _refused(copy, str(answer.status_code), (await answer.aread()).decode())
                name = ""
                async for line in answer.aiter_lines():
                    if line.startswith("event: "):
                        name = line.removeprefix("event: ")
                    elif line.startswith("data: ") and answer.status_code == 200:
                        said = json.loads(line.removeprefix("data: "), parse_float=Decimal)
                        if name == "event":
                            copy.receive(copied_json(said))
                        elif name == "heartbeat":
                            copy.heartbeat(int(said["sequence"]))
        except httpx.TransportError:
            pass
        copy.resumed += 1
        await asyncio.sleep(_AGAIN_SEC)


def _refused(copy: DropCopy, code: str, what: str) -> None:
    """FAILED_PRECONDITION says that a number which was received does not exist, or exists no longer."""
    if "FAILED_PRECONDITION" in code or code == "400":
        copy.complaints.append(f"{copy.follower}: resuming after {copy.last} was refused: {what}")


async def whole_copy(oms: Grpc, account: str) -> list[Copied]:
    """Every event of an account up to now, over a stream of its own. Raises AioRpcError and TimeoutError."""
    events: list[Copied] = []
    call = oms.stub.StreamExecutions(_request(account, 0), timeout=60)
    try:
        while True:
            async with asyncio.timeout(15):
                message = await call.read()
            if message is grpc.aio.EOF or not message.HasField("event"):
                return events
            events.append(copied(message))
    finally:
        call.cancel()
