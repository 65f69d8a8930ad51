"""Reads `ReserveRequest`: the order with everything that belongs to its reservation."""

import re
from collections.abc import Mapping
from typing import Final

from google.protobuf.message import Message

from services.instruments import Instrument
from services.ledger.order import Order, OrderState, Terms, TimeInForce
from services.order_group import GroupKind, check_size, fields_of, joined
from services.order_request import read_client_order_id, read_order, request_digest
from services.risk.engine import Amendment, Reservation
from services.runtime.errors import InvalidArgument
from trade2026.risk.v1 import risk_pb2
from trade2026.type.v1 import order_pb2

_ULID: Final = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")
_DIGEST: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_LAST_NS: Final = 2**63 - 1
_TIMES_IN_FORCE: Final[Mapping["order_pb2.TimeInForce.ValueType", TimeInForce]] = {
    order_pb2.TIME_IN_FORCE_UNSPECIFIED: TimeInForce.TIMEOUT,
    order_pb2.TIME_IN_FORCE_DAY: TimeInForce.DAY,
    order_pb2.TIME_IN_FORCE_GTC: TimeInForce.GTC,
    order_pb2.TIME_IN_FORCE_GTD: TimeInForce.GTD,
    order_pb2.TIME_IN_FORCE_IOC: TimeInForce.IOC,
    order_pb2.TIME_IN_FORCE_FOK: TimeInForce.FOK,
}


_GROUP_KINDS: Final[Mapping["risk_pb2.ReserveGroupKind.ValueType", GroupKind]] = {
    risk_pb2.RESERVE_GROUP_KIND_OCO: GroupKind.OCO,
    risk_pb2.RESERVE_GROUP_KIND_BRACKET: GroupKind.BRACKET,
}


def read_reservation(
    request: risk_pb2.ReserveRequest, instruments: Mapping[str, Instrument], now_ns: int
) -> Reservation:
    """The reservation that `request` asks for. Raises `InvalidArgument` naming the first wrong field."""
    order = _read_order(request, instruments, now_ns)
    if _has(request, "group"):
        first, *further = _group(order, request, instruments, now_ns)
        return Reservation(first, request.max_open_orders, further=tuple(further))
    return Reservation(order, request.max_open_orders, _amendment(request, order.account))


def _group(
    first: Order, request: risk_pb2.ReserveRequest, instruments: Mapping[str, Instrument], now_ns: int
) -> tuple[Order, ...]:
    kind = _GROUP_KINDS.get(request.group.kind)
    if kind is None:
        raise InvalidArgument("group.kind", "must be oco or bracket")
    if _has(request, "replaces"):
        raise InvalidArgument("replaces", "must not be given for a group")
    check_size(kind, 1 + len(request.group.orders), "group.orders")
    orders = [first]
    for place, one in enumerate(request.group.orders):
        with fields_of(f"group.orders[{place}]."):
            for field in ("group", "replaces"):
                if _has(one, field):
                    raise InvalidArgument(field, "must not be given inside a group")
            orders.append(_read_order(one, instruments, now_ns))
    return joined(kind, orders, lambda place: f"group.orders[{place - 1}]." if place else "")


def _read_order(
    request: risk_pb2.ReserveRequest, instruments: Mapping[str, Instrument], now_ns: int
) -> Order:
    asked = read_order(request, instruments)
    order_id = _order_id("order_id", request.order_id, asked.account)
    client_order_id = read_client_order_id(request.client_order_id)
    time_in_force = _TIMES_IN_FORCE.get(request.time_in_force)
    if time_in_force is None:
        raise InvalidArgument("time_in_force", "must be day, gtc, gtd, ioc or fok")
    expire_ns = _expiry(request)
    if time_in_force is TimeInForce.GTD and not expire_ns:
        raise InvalidArgument("expire_time", "is required for gtd orders")
    digest = request.digest or request_digest(asked, time_in_force, expire_ns)
    if not _DIGEST.fullmatch(digest):
        raise InvalidArgument("digest", "must be 1 to 128 letters, digits, underscores or hyphens")
    return Order(
        order_id=order_id,
        account=asked.account,
        client_order_id=client_order_id,
        digest=digest,
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


def _order_id(field: str, order_id: str, account: str) -> str:
    if not order_id:
        raise InvalidArgument(field, "is required")
    prefix, hyphen, ulid = order_id.rpartition("-")
    if prefix != account or not hyphen or not _ULID.fullmatch(ulid):
        raise InvalidArgument(field, "must be the account, a hyphen and a ULID")
    return order_id


def _amendment(request: risk_pb2.ReserveRequest, account: str) -> Amendment | None:
    if not _has(request, "replaces"):
        return None
    if not request.replaces.revision:
        raise InvalidArgument("replaces.revision", "must be greater than 0")
    return Amendment(
        _order_id("replaces.order_id", request.replaces.order_id, account), request.replaces.revision
    )


def _expiry(request: risk_pb2.ReserveRequest) -> int:
    if not _has(request, "expire_time"):
        return 0
    moment = request.expire_time
    total = moment.seconds * 1_000_000_000 + moment.nanos
    if not 0 <= moment.nanos < 1_000_000_000 or not 0 < total <= _LAST_NS:
        raise InvalidArgument("expire_time", "must be a time after 1970")
    return total


def _has(message: Message, field: str) -> bool:
    return bool(message.HasField(field))
