"""The contract's methods: decode, call, encode. Errors are mapped where they leave, by the one table."""

import asyncio
from collections.abc import AsyncIterator, Collection, Coroutine
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final

from services.ledger.order import Order
from services.oms.amend import Amender
from services.oms.cancel import BY_CLIENT, Canceler, order_ended
from services.oms.disconnect import Attendance, Leases, attended
from services.oms.executions import DropCopies
from services.oms.outcomes import Outcome
from services.oms.queries import Queries
from services.oms.submit import Submitter
from services.oms.submit_group import GroupSubmitter
from services.oms.wire import STATE_NAMES, execution_event, order_message, submit_response
from services.order_request import read_account, read_symbol
from services.runtime.clock import Clock
from services.runtime.errors import InvalidArgument, NotFound, ServiceError, Unavailable
from services.runtime.rpc_status import status_of
from services.runtime.telemetry import get_logger
from trade2026.oms.v1 import order_pb2, order_service_pb2_grpc

LARGEST_BATCH: Final = 100
DEFAULT_HEARTBEAT_SEC: Final = 5.0
SHORTEST_HEARTBEAT_SEC: Final = 1.0
LONGEST_HEARTBEAT_SEC: Final = 60.0

_log = get_logger("oms.servicer")


@dataclass(frozen=True, slots=True)
class Desk:
    """What the methods call."""

    submitter: Submitter
    groups: GroupSubmitter
    canceler: Canceler
    amender: Amender
    queries: Queries
    drop_copies: DropCopies
    leases: Leases
    symbols: Collection[str]
    """Known instruments."""


class OrderService(order_service_pb2_grpc.OrderServiceServicer):
    """`trade2026.oms.v1.OrderService`, for gRPC and REST alike."""

    def __init__(self, clock: Clock) -> None:
        """Answers UNAVAILABLE until `attach`."""
        self._clock = clock
        self._attached: Desk | None = None

    def attach(self, desk: Desk) -> None:
        """Begins to serve."""
        self._attached = desk

    def refusal(self) -> ServiceError | None:
        """Why an order would be refused now, whatever it is; None: it would be read."""
        try:
            self._desk.submitter.require_ready()
        except ServiceError as refused:
            return refused
        return None

    @property
    def _desk(self) -> Desk:
        if self._attached is None:
            raise Unavailable("oms is starting; nothing was done", reason="NOT_READY")
        return self._attached

    async def SubmitOrder(
        self, request: order_pb2.SubmitOrderRequest, context: Any
    ) -> order_pb2.SubmitOrderResponse:
        return submit_response(await asyncio.shield(self._desk.submitter.begin(request)))

    async def BatchSubmitOrders(
        self, request: order_pb2.BatchSubmitOrdersRequest, context: Any
    ) -> order_pb2.BatchSubmitOrdersResponse:
        if not 1 <= len(request.requests) <= LARGEST_BATCH:
            raise InvalidArgument("requests", f"must be 1 to {LARGEST_BATCH} orders")
        begun: list[asyncio.Task[Outcome] | ServiceError] = []
        for asked in request.requests:
            try:
                begun.append(self._desk.submitter.begin(asked))
            except ServiceError as refused:
                begun.append(refused)
        tasks = [one for one in begun if isinstance(one, asyncio.Task)]
        if tasks:
            # `wait` does not cancel what it waits for: a client that goes away stops nothing.
            await asyncio.wait(tasks)
        response = order_pb2.BatchSubmitOrdersResponse()
        for one in begun:
            result = response.results.add()
            error = one.exception() if isinstance(one, asyncio.Task) else one
            if error is None:
                assert isinstance(one, asyncio.Task)
                result.response.CopyFrom(submit_response(one.result()))
                continue
            if not isinstance(error, ServiceError):
                _log.error("submission failed", error=type(error).__name__, exc_info=error)
            result.error.CopyFrom(status_of(error))
        return response

    async def SubmitOrderGroup(
        self, request: order_pb2.SubmitOrderGroupRequest, context: Any
    ) -> order_pb2.SubmitOrderGroupResponse:
        outcomes = await asyncio.shield(self._desk.groups.begin(request))
        return order_pb2.SubmitOrderGroupResponse(orders=map(submit_response, outcomes))

    async def CancelOrder(
        self, request: order_pb2.CancelOrderRequest, context: Any
    ) -> order_pb2.CancelOrderResponse:
        order = await self._change(request.order_id, self._desk.canceler.cancel(request.order_id), "cancel")
        return order_pb2.CancelOrderResponse(order=order_message(order))

    async def CancelAllOrders(
        self, request: order_pb2.CancelAllOrdersRequest, context: Any
    ) -> order_pb2.CancelAllOrdersResponse:
        desk = self._desk
        account, symbol = read_account(request.account), read_symbol(request.symbol, desk.symbols)
        order_ids = await asyncio.shield(
            desk.submitter.own(desk.canceler.cancel_all(account, BY_CLIENT, symbol), "cancel all")
        )
        return order_pb2.CancelAllOrdersResponse(order_ids=order_ids)

    async def ReplaceOrder(
        self, request: order_pb2.ReplaceOrderRequest, context: Any
    ) -> order_pb2.ReplaceOrderResponse:
        order = await self._change(request.order_id, self._desk.amender.amend(request), "replace")
        return order_pb2.ReplaceOrderResponse(order=order_message(order))

    async def _change(self, order_id: str, work: Coroutine[Any, Any, Order], name: str) -> Order:
        """Carries a change of an order to its end, whatever becomes of the caller."""
        try:
            return await asyncio.shield(self._desk.submitter.own(work, name))
        except NotFound:
            # An order that ended some time ago has left the ledger.
            ended = await self._desk.queries.order(order_id)
        raise order_ended(order_id, STATE_NAMES.get(ended.state, "ended"))

    async def GetOrder(self, request: order_pb2.GetOrderRequest, context: Any) -> order_pb2.GetOrderResponse:
        return order_pb2.GetOrderResponse(order=await self._desk.queries.order(request.order_id))

    async def ListOrders(
        self, request: order_pb2.ListOrdersRequest, context: Any
    ) -> order_pb2.ListOrdersResponse:
        return await self._desk.queries.orders(request)

    async def GetPositions(
        self, request: order_pb2.GetPositionsRequest, context: Any
    ) -> order_pb2.GetPositionsResponse:
        return await self._desk.queries.positions(request)

    async def ListFills(
        self, request: order_pb2.ListFillsRequest, context: Any
    ) -> order_pb2.ListFillsResponse:
        return await self._desk.queries.fills(request)

    async def StreamExecutions(
        self, request: order_pb2.StreamExecutionsRequest, context: Any
    ) -> AsyncIterator[order_pb2.StreamExecutionsResponse]:
        account = read_account(request.account)
        if request.live_only and request.after_sequence:
            raise InvalidArgument("after_sequence", "must be 0 with live_only")
        heartbeat_sec = _read_heartbeat(request)
        desk = self._desk
        attendance = Attendance()
        lease = attended(desk.leases, account, attendance) if request.cancel_on_disconnect else nullcontext()
        async for item in desk.drop_copies.follow(
            account,
            request.after_sequence,
            live_only=request.live_only,
            heartbeat_sec=heartbeat_sec,
            holding=lease,
        ):
            if isinstance(item, int):
                response = order_pb2.StreamExecutionsResponse(sequence=item)
                response.heartbeat.time.FromNanoseconds(self._clock.now_ns())
            else:
                response = order_pb2.StreamExecutionsResponse(
                    sequence=item.number, event=execution_event(account, item.event, item.time_ns)
                )
            attendance.handed += 1
            yield response
            attendance.taken = attendance.handed


def _read_heartbeat(request: order_pb2.StreamExecutionsRequest) -> float:
    if not request.HasField("heartbeat_interval"):
        return DEFAULT_HEARTBEAT_SEC
    interval = request.heartbeat_interval
    seconds = interval.seconds + interval.nanos / 1e9
    if not SHORTEST_HEARTBEAT_SEC <= seconds <= LONGEST_HEARTBEAT_SEC:
        raise InvalidArgument(
            "heartbeat_interval", f"must be {SHORTEST_HEARTBEAT_SEC:g} s to {LONGEST_HEARTBEAT_SEC:g} s"
        )
    return seconds
