"""Servicers of the real contracts that remember what they were asked and answer what a test told them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from services.runtime.errors import ResourceExhausted
from trade2026.oms.v1 import order_pb2, order_service_pb2_grpc
from trade2026.risk.v1 import risk_pb2, risk_service_pb2_grpc
from trade2026.type.v1.order_pb2 import TRADING_STATE_ACTIVE

Behaviour = Callable[[Any, Any], Awaitable[Any]]
Events = Callable[[Any, Any], AsyncIterator[Any]]


class Bound:
    """An admission bound, as the gRPC server has it."""

    def __init__(self, limit: int) -> None:
        self.limit, self.in_flight = limit, 0

    def refusal(self) -> ResourceExhausted:
        return ResourceExhausted("too many calls")


class Recorded:
    """What tests share with a servicer."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.metadata: list[dict[str, Any]] = []
        self.behaviour: Behaviour | None = None
        """Takes the place of the next answers."""
        self.streams_ended = asyncio.Event()
        """Set when a stream's generator has run its `finally`."""
        self.events: Events | None = None
        """Takes the place of the next streams."""

    def forget(self) -> None:
        Recorded.__init__(self)

    async def answer(self, request: Any, context: Any, otherwise: Any) -> Any:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        return otherwise if self.behaviour is None else await self.behaviour(request, context)


class RiskServicer(risk_service_pb2_grpc.RiskServiceServicer, Recorded):
    def __init__(self) -> None:
        Recorded.__init__(self)

    async def Check(self, request: Any, context: Any) -> Any:
        return await self.answer(request, context, risk_pb2.CheckResponse(approved=True))

    async def BatchCheck(self, request: Any, context: Any) -> Any:
        response = risk_pb2.BatchCheckResponse()
        for _ in request.requests:
            response.results.add().response.approved = True
        return await self.answer(request, context, response)

    async def GetLimits(self, request: Any, context: Any) -> Any:
        return await self.answer(request, context, risk_pb2.GetLimitsResponse(account=request.account))

    async def UpdateLimits(self, request: Any, context: Any) -> Any:
        return await self.answer(request, context, risk_pb2.UpdateLimitsResponse(account=request.account))

    async def GetTradingState(self, request: Any, context: Any) -> Any:
        return await self.answer(
            request, context, risk_pb2.GetTradingStateResponse(state=TRADING_STATE_ACTIVE, epoch=3)
        )


class OrderServicer(order_service_pb2_grpc.OrderServiceServicer, Recorded):
    def __init__(self) -> None:
        Recorded.__init__(self)

    async def SubmitOrder(self, request: Any, context: Any) -> Any:
        response = order_pb2.SubmitOrderResponse(status=order_pb2.SUBMIT_STATUS_SUBMITTED, order_id="a-1")
        return await self.answer(request, context, response)

    async def BatchSubmitOrders(self, request: Any, context: Any) -> Any:
        return await self.answer(request, context, order_pb2.BatchSubmitOrdersResponse())

    async def CancelOrder(self, request: Any, context: Any) -> Any:
        return await self.answer(request, context, order_pb2.CancelOrderResponse())

    async def ReplaceOrder(self, request: Any, context: Any) -> Any:
        return await self.answer(request, context, order_pb2.ReplaceOrderResponse())

    async def GetOrder(self, request: Any, context: Any) -> Any:
        response = order_pb2.GetOrderResponse()
        response.order.order_id = request.order_id
        return await self.answer(request, context, response)

    async def ListOrders(self, request: Any, context: Any) -> Any:
        return await self.answer(request, context, order_pb2.ListOrdersResponse())

    async def GetPositions(self, request: Any, context: Any) -> Any:
        response = order_pb2.GetPositionsResponse()
        if request.account == "test_account":
            response.positions["BTCUSDT"].quantity.value = "0.10"
            response.positions["BTCUSDT"].fees.value = "0"
        return await self.answer(request, context, response)

    async def StreamExecutions(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        try:
            if not request.account:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "account is required")
            events = self.events or numbered
            async for event in events(request, context):
                yield event
        finally:
            self.streams_ended.set()


def risk_servicer() -> RiskServicer:
    """The servicers leave out methods on purpose, which their bases call abstract."""
    kind: Any = RiskServicer
    servicer: RiskServicer = kind()
    return servicer


def order_servicer() -> OrderServicer:
    """See `risk_servicer`."""
    kind: Any = OrderServicer
    servicer: OrderServicer = kind()
    return servicer


async def numbered(request: Any, _: Any) -> AsyncIterator[Any]:
    """Three events after the one that was asked for, then a heartbeat, then the end."""
    for sequence in range(request.after_sequence + 1, request.after_sequence + 4):
        yield event(sequence)
    beat = order_pb2.StreamExecutionsResponse(sequence=request.after_sequence + 3)
    beat.heartbeat.time.FromJsonString("2024-01-10T00:00:00Z")
    yield beat


def event(sequence: int) -> Any:
    response = order_pb2.StreamExecutionsResponse(sequence=sequence)
    response.event.kind = "opened"
    response.event.account = "a"
    return response
