"""Answers of the venue on request, over NATS; `services.venue_queries` tells what can be asked."""

import heapq
from typing import Final, TypeVar

import msgspec
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from services.ledger.numbers import plain
from services.live_gateway.gateway import Gateway
from services.live_gateway.journal import Journal
from services.live_gateway.orders import SeenOrder, WorkingOrder
from services.messages import UNREADABLE, timestamp
from services.runtime.clock import Clock
from services.runtime.nats_client import NatsClient
from services.runtime.telemetry import get_logger
from services.venue_queries import (
    ORDERS_SUBJECT,
    POSITIONS_SUBJECT,
    ErrorAnswer,
    OrdersAnswer,
    OrdersRequest,
    PositionsAnswer,
    PositionsRequest,
    VenueOrder,
    VenuePosition,
)

_log = get_logger("live_gateway.queries")
_R = TypeVar("_R", PositionsRequest, OrdersRequest)
_encode: Final = msgspec.json.Encoder(decimal_format="number").encode


class Queries:
    """Subscribed on one connection."""

    def __init__(self, client: NatsClient, gateway: Gateway, journal: Journal, clock: Clock) -> None:
        self._client = client
        self._gateway = gateway
        self._journal = journal
        self._clock = clock

    async def start(self) -> None:
        """Subscribes."""
        await self._client.subscribe(POSITIONS_SUBJECT, cb=self._on_positions)
        await self._client.subscribe(ORDERS_SUBJECT, cb=self._on_orders)

    def positions(self, request: PositionsRequest) -> PositionsAnswer:
        """One page of positions, by account and symbol."""
        account, _, symbol = request.page_token.partition(":")
        page, more = self._gateway.published.page(
            request.account, (account, symbol) if request.page_token else None, request.page_size
        )
        facts = self._gateway.facts
        sequence, created = self._gateway.executions_position
        return PositionsAnswer(
            facts.venue,
            facts.orders_seq,
            sequence,
            created,
            timestamp(self._clock.now_ns()),
            [
                VenuePosition(*key, plain(one.quantity), plain(one.value), plain(one.fees), one.trades)
                for key, one in page
            ],
            ":".join(page[-1][0]) if more else "",
        )

    async def orders(self, request: OrdersRequest) -> OrdersAnswer:
        """One order by its id, or one page of the working orders by id."""
        working = self._gateway.engine.working
        token = ""
        if request.order_id:
            found = working.get(request.order_id)
            if found is not None:
                orders = [_working(found)]
            else:
                ended = await self._ended(request.order_id)
                orders = [] if ended is None else [_ended(request.order_id, ended)]
        else:
            chosen = heapq.nsmallest(
                request.page_size + 1,
                (
                    order_id
                    for order_id, order in working.items()
                    if (not request.account or order.account == request.account)
                    and order_id > request.page_token
                ),
            )
            orders = [_working(working[order_id]) for order_id in chosen[: request.page_size]]
            token = chosen[request.page_size - 1] if len(chosen) > request.page_size else ""
        facts = self._gateway.facts
        return OrdersAnswer(facts.venue, facts.orders_seq, timestamp(self._clock.now_ns()), orders, token)

    async def _ended(self, order_id: str) -> SeenOrder | None:
        known = self._gateway.recall(order_id)
        if known is None:
            known = (await self._journal.find([order_id])).get(order_id)
        return known

    async def _on_positions(self, message: Msg) -> None:
        request = _read(PositionsRequest, message.data)
        await self._respond(message, request if isinstance(request, ErrorAnswer) else self.positions(request))

    async def _on_orders(self, message: Msg) -> None:
        request = _read(OrdersRequest, message.data)
        await self._respond(
            message, request if isinstance(request, ErrorAnswer) else await self.orders(request)
        )

    async def _respond(self, message: Msg, answer: PositionsAnswer | OrdersAnswer | ErrorAnswer) -> None:
        if not message.reply:
            return
        try:
            await self._client.publish(message.reply, _encode(answer))
        except NatsError as error:
            _log.warning("request not answered", subject=message.subject, error=type(error).__name__)


def _working(order: WorkingOrder) -> VenueOrder:
    terms = order.terms
    return VenueOrder(
        order_id=order.order_id,
        account=order.account,
        state=order.state,
        cumulative=order.cumulative,
        revision=order.revision,
        cancels=order.cancels,
        symbol=order.symbol,
        side=order.side,
        type=order.order_type,
        time_in_force=order.time_in_force,
        quantity=terms.quantity,
        price=terms.price,
        stop_price=terms.stop_price,
        protection_price=terms.protection_price,
        leaves=order.leaves,
        expire_at=timestamp(order.expire_ns) if order.expire_ns else None,
    )


def _ended(order_id: str, ended: SeenOrder) -> VenueOrder:
    account = order_id.rpartition("-")[0]
    return VenueOrder(order_id, account, ended.state, ended.cumulative, ended.revision, ended.cancels)


def _read(kind: type[_R], data: bytes) -> _R | ErrorAnswer:
    try:
        return msgspec.json.decode(data or b"{}", type=kind)
    except UNREADABLE as error:
        return ErrorAnswer(str(error))
