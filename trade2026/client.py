"""A small asynchronous client of oms and risk: exact numbers, deadlines, and retries that double nothing.

    async with OmsClient("127.0.0.1:18099") as oms:
        order = new_order("account", "BTCUSDT", "buy", Decimal("0.1"), price=Decimal(45000))
        answer = await oms.submit(order)

What may be repeated: a submission that carries a `client_order_id` (one is made up when it is missing), a
cancel, every question. UNAVAILABLE, DEADLINE_EXCEEDED and a lost connection say that the outcome is not
known: `submit` asks again under the same id until the outcome is there or its time is up. RESOURCE_EXHAUSTED
says that nothing was done, and asks for a pause. Every other error is final. A rejection is an answer, not an
error.
"""

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar

import grpc
from google.rpc import error_details_pb2
from google.type.decimal_pb2 import Decimal as DecimalMessage
from grpc_status import rpc_status

from trade2026.channel import open_channel
from trade2026.oms.v1 import order_pb2, order_service_pb2_grpc
from trade2026.risk.v1 import risk_pb2, risk_service_pb2_grpc
from trade2026.type.v1 import order_pb2 as type_pb2

CALL_TIMEOUT_SEC: Final = 5.0
"""Deadline of one call."""
OUTCOME_TIMEOUT_SEC: Final = 30.0
"""Time in which `submit` tries to learn the outcome of an order."""
FIRST_WAIT_SEC: Final = 0.05
LONGEST_WAIT_SEC: Final = 2.0
SILENCE: Final = 3
"""Heartbeat intervals without a word after which a drop copy is followed anew."""

CHANNEL_OPTIONS: Final = (
    # A peer that vanished without a word is noticed within 20 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", 32 << 20),
    # Each channel has a connection of its own: several of them reach several workers.
    ("grpc.use_local_subchannel_pool", 1),
    # What is sent again is decided here, by what the call means.
    ("grpc.enable_retries", 0),
)

_UNKNOWN: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
_AGAIN: Final = _UNKNOWN | {grpc.StatusCode.RESOURCE_EXHAUSTED}
_T = TypeVar("_T")

SideName = Literal["buy", "sell"]
TypeName = Literal["market", "limit", "stop", "stop_limit"]
GroupKindName = Literal["oco", "bracket"]


class OutcomeUnknown(Exception):
    """Time was up before the outcome of an order was known. Ask again with the same `client_order_id`."""

    def __init__(self, client_order_id: str, last: grpc.aio.AioRpcError) -> None:
        super().__init__(f"outcome of {client_order_id} is not known: {last.details()}")
        self.client_order_id = client_order_id


def exact(number: Decimal | int) -> DecimalMessage:
    """A number for the wire. Binary floats are refused: their text is not what was meant."""
    if isinstance(number, bool) or not isinstance(number, Decimal | int):
        raise TypeError(f"an exact number is a Decimal or an int, not {type(number).__name__}")
    return DecimalMessage(value=format(Decimal(number), "f"))


def new_order(
    account: str,
    symbol: str,
    side: SideName,
    quantity: Decimal | int,
    *,
    price: Decimal | int | None = None,
    type: TypeName | None = None,
    stop_price: Decimal | int | None = None,
    client_order_id: str = "",
) -> order_pb2.SubmitOrderRequest:
    """A request to submit an order; without `type` it is a limit when it has a price, else a market order."""
    request = order_pb2.SubmitOrderRequest(
        account=account,
        symbol=symbol,
        side=type_pb2.Side.Value(f"SIDE_{side.upper()}"),
        quantity=exact(quantity),
        client_order_id=client_order_id,
    )
    if type is not None:
        request.type = type_pb2.OrderType.Value(f"ORDER_TYPE_{type.upper()}")
    if price is not None:
        request.price.CopyFrom(exact(price))
    if stop_price is not None:
        request.stop_price.CopyFrom(exact(stop_price))
    return request


class _Client:
    def __init__(self, target: str, authorities: str | Path) -> None:
        self._channel = open_channel(target, CHANNEL_OPTIONS, authorities)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection; open calls are cancelled."""
        await self._channel.close()


class OmsClient(_Client):
    """Calls `trade2026.oms.v1.OrderService`. Failed calls raise `grpc.aio.AioRpcError`."""

    def __init__(
        self,
        target: str = "127.0.0.1:18099",
        *,
        timeout_sec: float = CALL_TIMEOUT_SEC,
        authorities: str | Path = "",
    ) -> None:
        """`target` is `host:port`; `timeout_sec` bounds each call, not all the repetitions of one.

        The connection is encrypted when `authorities` names a PEM file of those who may vouch for the server;
        raises `OSError` when it cannot be read.
        """
        super().__init__(target, authorities)
        self._timeout_sec = timeout_sec
        self.stub: Any = order_service_pb2_grpc.OrderServiceStub(self._channel)
        """Every method of the service, without deadline and retries."""

    async def submit(
        self, order: order_pb2.SubmitOrderRequest, *, within_sec: float = OUTCOME_TIMEOUT_SEC
    ) -> order_pb2.SubmitOrderResponse:
        """Submits `order` and returns its outcome, asked for again and again while it is not known.

        Gives `order` a `client_order_id` when it has none. Raises `OutcomeUnknown` after `within_sec`.
        """
        if not order.client_order_id:
            order.client_order_id = uuid.uuid4().hex

        async def attempt() -> order_pb2.SubmitOrderResponse:
            answer: order_pb2.SubmitOrderResponse = await self.stub.SubmitOrder(
                order, timeout=self._timeout_sec
            )
            return answer

        try:
            return await repeated(attempt, within_sec)
        except grpc.aio.AioRpcError as error:
            if error.code() in _UNKNOWN:
                raise OutcomeUnknown(order.client_order_id, error) from error
            raise

    async def submit_group(
        self,
        kind: GroupKindName,
        orders: Iterable[order_pb2.SubmitOrderRequest],
        *,
        within_sec: float = OUTCOME_TIMEOUT_SEC,
    ) -> list[order_pb2.SubmitOrderResponse]:
        """Submits orders that belong together; one outcome an order, all submitted or all rejected.

        `oco`: two orders of which one cancels the other. `bracket`: an entry, then one or two exits. As for
        `submit` otherwise.
        """
        members = list(orders)
        for order in members:
            order.client_order_id = order.client_order_id or uuid.uuid4().hex
        request = order_pb2.SubmitOrderGroupRequest(
            kind=order_pb2.GroupKind.Value(f"GROUP_KIND_{kind.upper()}"), orders=members
        )

        async def attempt() -> list[order_pb2.SubmitOrderResponse]:
            answer: order_pb2.SubmitOrderGroupResponse = await self.stub.SubmitOrderGroup(
                request, timeout=self._timeout_sec
            )
            return list(answer.orders)

        try:
            return await repeated(attempt, within_sec)
        except grpc.aio.AioRpcError as error:
            if error.code() in _UNKNOWN:
                raise OutcomeUnknown(members[0].client_order_id, error) from error
            raise

    async def submit_all(
        self, orders: Iterable[order_pb2.SubmitOrderRequest]
    ) -> order_pb2.BatchSubmitOrdersResponse:
        """Submits up to 100 orders in one call, once; each has its own outcome or error in the answer."""
        request = order_pb2.BatchSubmitOrdersRequest(requests=orders)
        answer: order_pb2.BatchSubmitOrdersResponse = await self.stub.BatchSubmitOrders(
            request, timeout=self._timeout_sec
        )
        return answer

    async def cancel(self, order_id: str, *, within_sec: float = OUTCOME_TIMEOUT_SEC) -> order_pb2.Order:
        """Asks the venue to cancel; the order, pending_cancel. FAILED_PRECONDITION: it had ended."""

        async def attempt() -> order_pb2.Order:
            request = order_pb2.CancelOrderRequest(order_id=order_id)
            answer: order_pb2.CancelOrderResponse = await self.stub.CancelOrder(
                request, timeout=self._timeout_sec
            )
            return answer.order

        return await repeated(attempt, within_sec)

    async def cancel_all(
        self, account: str, symbol: str = "", *, within_sec: float = OUTCOME_TIMEOUT_SEC
    ) -> list[str]:
        """Asks the venue to cancel everything open (in `symbol`, unless empty); the ids of those orders."""

        async def attempt() -> list[str]:
            request = order_pb2.CancelAllOrdersRequest(account=account, symbol=symbol)
            answer: order_pb2.CancelAllOrdersResponse = await self.stub.CancelAllOrders(
                request, timeout=self._timeout_sec
            )
            return list(answer.order_ids)

        return await repeated(attempt, within_sec)

    async def replace(
        self,
        order_id: str,
        *,
        quantity: Decimal | int | None = None,
        price: Decimal | int | None = None,
        stop_price: Decimal | int | None = None,
        within_sec: float = OUTCOME_TIMEOUT_SEC,
    ) -> order_pb2.Order:
        """Asks the venue for new terms; the order, pending_replace. What is None keeps its value.

        FAILED_PRECONDITION: the old terms stand, and the reason tells why.
        """
        terms = {"quantity": quantity, "price": price, "stop_price": stop_price}
        request = order_pb2.ReplaceOrderRequest(order_id=order_id)
        for name, number in terms.items():
            if number is not None:
                getattr(request, name).CopyFrom(exact(number))

        async def attempt() -> order_pb2.Order:
            answer: order_pb2.ReplaceOrderResponse = await self.stub.ReplaceOrder(
                request, timeout=self._timeout_sec
            )
            return answer.order

        return await repeated(attempt, within_sec)

    async def order(self, order_id: str) -> order_pb2.Order:
        """One order as it stands. NOT_FOUND: there is none."""

        async def attempt() -> order_pb2.Order:
            request = order_pb2.GetOrderRequest(order_id=order_id)
            answer: order_pb2.GetOrderResponse = await self.stub.GetOrder(request, timeout=self._timeout_sec)
            return answer.order

        return await repeated(attempt, self._timeout_sec)

    async def positions(self, account: str) -> dict[str, order_pb2.Position]:
        """Positions by symbol; none for an unknown account."""

        async def attempt() -> dict[str, order_pb2.Position]:
            request = order_pb2.GetPositionsRequest(account=account)
            answer: order_pb2.GetPositionsResponse = await self.stub.GetPositions(
                request, timeout=self._timeout_sec
            )
            return dict(answer.positions)

        return await repeated(attempt, self._timeout_sec)

    async def executions(
        self,
        account: str,
        after_sequence: int = 0,
        *,
        heartbeat_sec: float = 5.0,
        cancel_on_disconnect: bool = False,
    ) -> AsyncIterator[order_pb2.StreamExecutionsResponse]:
        """Every event of the account after `after_sequence`, once and in order, over lost connections.

        With `cancel_on_disconnect` the account's open orders are canceled when this client is gone for longer
        than the lease in the contract. A heartbeat of 1 s lets it notice a silent server soon enough.

        Ends with an error that says that the sequence cannot be resumed from.
        """
        last = after_sequence
        wait_sec = FIRST_WAIT_SEC
        while True:
            request = order_pb2.StreamExecutionsRequest(account=account, after_sequence=last)
            request.heartbeat_interval.FromMilliseconds(round(heartbeat_sec * 1000))
            request.cancel_on_disconnect = cancel_on_disconnect
            call = self.stub.StreamExecutions(request)
            try:
                while True:
                    async with asyncio.timeout(SILENCE * heartbeat_sec):
                        message = await call.read()
                    if message is grpc.aio.EOF:
                        break
                    wait_sec = FIRST_WAIT_SEC
                    if message.HasField("event"):
                        last = message.sequence
                        yield message
            except TimeoutError:
                pass
            except grpc.aio.AioRpcError as error:
                if error.code() not in _AGAIN:
                    raise
            finally:
                call.cancel()
            await asyncio.sleep(wait_sec)
            wait_sec = min(2 * wait_sec, LONGEST_WAIT_SEC)


class RiskClient(_Client):
    """Calls `trade2026.risk.v1.RiskService`. Failed calls raise `grpc.aio.AioRpcError`."""

    def __init__(
        self,
        target: str = "127.0.0.1:18103",
        *,
        timeout_sec: float = CALL_TIMEOUT_SEC,
        authorities: str | Path = "",
    ) -> None:
        """See `OmsClient`."""
        super().__init__(target, authorities)
        self._timeout_sec = timeout_sec
        self.stub: Any = risk_service_pb2_grpc.RiskServiceStub(self._channel)
        """Every method of the service, without deadline and retries."""

    async def check(self, request: risk_pb2.CheckRequest) -> risk_pb2.CheckResponse:
        """Evaluates an order; changes nothing, so it is simply repeated when no answer comes."""

        async def attempt() -> risk_pb2.CheckResponse:
            answer: risk_pb2.CheckResponse = await self.stub.Check(request, timeout=self._timeout_sec)
            return answer

        return await repeated(attempt, self._timeout_sec)


async def repeated(attempt: Callable[[], Awaitable[_T]], within_sec: float) -> _T:
    """The result of `attempt`, made again after UNAVAILABLE, DEADLINE_EXCEEDED and RESOURCE_EXHAUSTED.

    Waits as long as the service asks for (`google.rpc.RetryInfo`), else longer from time to time, by chance a
    little more or less. Raises the last error when `within_sec` are over, and every other error at once.
    """
    deadline = time.monotonic() + within_sec
    wait_sec = FIRST_WAIT_SEC
    while True:
        try:
            return await attempt()
        except grpc.aio.AioRpcError as error:
            pause = max(wait_sec, asked_pause(error)) * random.uniform(0.8, 1.2)
            if error.code() not in _AGAIN or time.monotonic() + pause >= deadline:
                raise
        await asyncio.sleep(pause)
        wait_sec = min(2 * wait_sec, LONGEST_WAIT_SEC)


def asked_pause(error: grpc.aio.AioRpcError) -> float:
    """Seconds that the service asks its caller to wait; 0 when it does not say."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    for detail in status.details if status is not None else ():
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            return float(retry.retry_delay.ToNanoseconds() / 1e9)
    return 0.0
