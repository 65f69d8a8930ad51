"""From a client's request to an order that can be reserved: identity, expiry, digest."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from services.instruments import Instrument
from services.ledger.order import Order, OrderState, OrderType, Terms, TimeInForce
from services.ledger.values import replace
from services.order_group import GroupKind, check_size, fields_of, group_digests, joined
from services.order_request import OrderRequest, read_client_order_id, read_order, request_digest
from services.runtime.errors import InvalidArgument
from services.runtime.ids import new_order_id
from trade2026.oms.v1 import order_pb2
from trade2026.risk.v1 import risk_pb2
from trade2026.type.v1 import order_pb2 as type_pb2

TIMES_IN_FORCE: Final[Mapping["type_pb2.TimeInForce.ValueType", TimeInForce]] = {
    type_pb2.TIME_IN_FORCE_UNSPECIFIED: TimeInForce.TIMEOUT,
    type_pb2.TIME_IN_FORCE_DAY: TimeInForce.DAY,
    type_pb2.TIME_IN_FORCE_GTC: TimeInForce.GTC,
    type_pb2.TIME_IN_FORCE_GTD: TimeInForce.GTD,
    type_pb2.TIME_IN_FORCE_IOC: TimeInForce.IOC,
    type_pb2.TIME_IN_FORCE_FOK: TimeInForce.FOK,
}

GROUP_KINDS: Final[Mapping["order_pb2.GroupKind.ValueType", GroupKind]] = {
    order_pb2.GROUP_KIND_OCO: GroupKind.OCO,
    order_pb2.GROUP_KIND_BRACKET: GroupKind.BRACKET,
}
_GROUP_KIND_TO_WIRE: Final = {
    GroupKind.OCO: risk_pb2.RESERVE_GROUP_KIND_OCO,
    GroupKind.BRACKET: risk_pb2.RESERVE_GROUP_KIND_BRACKET,
}

NO_DIGEST: Final = "-"
"""Digest of an order without a client order id: nothing is ever compared with it."""

TYPE_TO_WIRE: Final = {
    OrderType.MARKET: type_pb2.ORDER_TYPE_MARKET,
    OrderType.LIMIT: type_pb2.ORDER_TYPE_LIMIT,
    OrderType.STOP: type_pb2.ORDER_TYPE_STOP,
    OrderType.STOP_LIMIT: type_pb2.ORDER_TYPE_STOP_LIMIT,
}
_SECOND: Final = 1_000_000_000
# Nanoseconds since the epoch fit in 64 bits until 2262; a caller who means "never" has GTC.
_LATEST_EXPIRY_SEC: Final = 9_000_000_000


@dataclass(frozen=True, slots=True)
class OrderEntry:
    """Reads requests under fixed rules."""

    instruments: Mapping[str, Instrument]
    supported_types: Collection[str]
    """Names of the order types that are taken."""
    order_timeout_sec: float
    """Life of an order without explicit time in force."""
    max_open_orders: int
    """Travels with each reservation."""

    def read_group(self, request: order_pb2.SubmitOrderGroupRequest, now_ns: int) -> tuple[Order, ...]:
        """New orders with their places in their group. Raises `InvalidArgument` naming the field."""
        kind = GROUP_KINDS.get(request.kind)
        if kind is None:
            raise InvalidArgument("kind", "must be oco or bracket")
        check_size(kind, len(request.orders), "orders")
        orders = []
        for place, one in enumerate(request.orders):
            with fields_of(_prefix(place)):
                orders.append(self.read(one, now_ns, always_digest=True))
        digests = group_digests(kind, [order.digest for order in orders])
        return joined(
            kind,
            [replace(order, digest=digest) for order, digest in zip(orders, digests, strict=True)],
            _prefix,
        )

    def group_reservation(
        self, orders: Sequence[Order], request: order_pb2.SubmitOrderGroupRequest
    ) -> risk_pb2.ReserveRequest:
        """What risk is asked for `orders`, which were read from `request`."""
        first, *further = map(self.reservation, orders, request.orders)
        first.group.kind = _GROUP_KIND_TO_WIRE[GROUP_KINDS[request.kind]]
        first.group.orders.extend(further)
        return first

    def read(
        self, request: order_pb2.SubmitOrderRequest, now_ns: int, *, always_digest: bool = False
    ) -> Order:
        """A new order, pending_new, with an id of its own. Raises `InvalidArgument` naming the field.

        `always_digest`: even an order without a client order id has the digest of its request.
        """
        asked = read_order(request, self.instruments)
        if asked.order_type not in self.supported_types:
            raise InvalidArgument("type", f"{asked.order_type} orders are not taken here")
        client_order_id = read_client_order_id(request.client_order_id)
        time_in_force, expire_ns, given_ns = self._read_life(request, asked, now_ns)
        return Order(
            order_id=new_order_id(asked.account),
            account=asked.account,
            client_order_id=client_order_id,
            digest=request_digest(asked, time_in_force.value, given_ns)
            if client_order_id or always_digest
            else NO_DIGEST,
            symbol=asked.symbol,
            side=asked.side,
            order_type=asked.order_type,
            time_in_force=time_in_force,
            terms=Terms(asked.quantity, asked.price, asked.stop_price, None),
            state=OrderState.PENDING_NEW,
            created_ns=now_ns,
            updated_ns=now_ns,
            expire_ns=expire_ns,
        )

    def reservation(self, order: Order, request: order_pb2.SubmitOrderRequest) -> risk_pb2.ReserveRequest:
        """What risk is asked for `order`, which was read from `request`."""
        reserve = risk_pb2.ReserveRequest(
            account=order.account,
            symbol=order.symbol,
            side=request.side,
            type=TYPE_TO_WIRE[order.order_type],
            order_id=order.order_id,
            client_order_id=order.client_order_id,
            digest=order.digest,
            time_in_force=request.time_in_force,
            max_open_orders=self.max_open_orders,
            quantity=request.quantity,
        )
        if order.terms.price is not None:
            reserve.price.value = request.price.value
        if order.terms.stop_price is not None:
            reserve.stop_price.value = request.stop_price.value
        if order.expire_ns:
            reserve.expire_time.FromNanoseconds(order.expire_ns)
        return reserve

    def _read_life(
        self, request: order_pb2.SubmitOrderRequest, asked: OrderRequest, now_ns: int
    ) -> tuple[TimeInForce, int, int | None]:
        """Time in force, when the order ends (0: never by itself), and the time that the caller gave."""
        time_in_force = TIMES_IN_FORCE.get(request.time_in_force)
        if time_in_force is None:
            raise InvalidArgument("time_in_force", "must be day, gtc, gtd, ioc or fok")
        given = request.HasField("expire_time")
        if time_in_force is not TimeInForce.GTD:
            if given:
                raise InvalidArgument("expire_time", "must be given for gtd orders alone")
            return time_in_force, self._default_expiry(time_in_force, now_ns), None
        if not given:
            raise InvalidArgument("expire_time", "is required for gtd orders")
        seconds, nanos = request.expire_time.seconds, request.expire_time.nanos
        if not (0 <= nanos < _SECOND) or not (0 <= seconds <= _LATEST_EXPIRY_SEC):
            raise InvalidArgument("expire_time", "must be a time before the year 2255")
        expire_ns = seconds * _SECOND + nanos
        if expire_ns <= now_ns:
            raise InvalidArgument("expire_time", "must be in the future")
        return time_in_force, expire_ns, expire_ns

    def _default_expiry(self, time_in_force: TimeInForce, now_ns: int) -> int:
        if time_in_force is TimeInForce.TIMEOUT:
            return now_ns + round(self.order_timeout_sec * _SECOND)
        if time_in_force is TimeInForce.DAY:
            return end_of_day(now_ns)
        return 0


def _prefix(place: int) -> str:
    return f"orders[{place}]."


def end_of_day(now_ns: int) -> int:
    """The next 00:00 UTC after `now_ns`, in nanoseconds since the epoch."""
    today = datetime.fromtimestamp(now_ns // _SECOND, UTC).date()
    tomorrow = datetime.combine(today + timedelta(days=1), datetime.min.time(), UTC)
    return int(tomorrow.timestamp()) * _SECOND
