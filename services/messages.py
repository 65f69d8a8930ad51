"""The JSON payloads on NATS, and the one codec for them.

Numbers carry their exact text: a `Decimal` is written as a JSON number and read from the number's text,
never through a float. Optional members are left out when they have no value. Times are seconds since the
epoch, UTC, as numbers with up to six decimal places.
"""

from decimal import Decimal
from typing import Final, TypeVar

import msgspec

from services.ledger.numbers import NumberOutOfRange, bounded
from services.ledger.order import OrderType, Side, TimeInForce

VERSION: Final = 1

_MICROSECOND: Final = Decimal("0.000001")

UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for a text that it cannot read; the last one for values that are nested too deep."""


class BadMessage(ValueError):
    """A payload that cannot be applied; the message says what is wrong with which member."""


class Payload(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all payloads. Unknown members are tolerated: producers may be newer than consumers."""


class NewOrder(Payload, frozen=True, kw_only=True, omit_defaults=True):
    """`orders.{account}.new`"""

    order_id: str
    client_order_id: str
    account: str
    symbol: str
    side: Side
    type: OrderType
    quantity: Decimal
    price: Decimal | None = None
    stop_price: Decimal | None = None
    protection_price: Decimal | None = None
    """Worst price at which a market or stop order may be filled."""
    time_in_force: TimeInForce = TimeInForce.TIMEOUT
    expire_at: Decimal | None = None
    """When the venue ends the order; absent = never."""
    timestamp: Decimal
    sibling: "NewOrder | None" = None
    """A second order of the same account and symbol: the first execution of one of the two cancels the other.
    Both come in one message, so that the venue never knows one of them alone."""


class CancelOrder(Payload, frozen=True, kw_only=True, omit_defaults=True):
    """`orders.{account}.cancel`"""

    order_id: str
    account: str
    revision: int
    """Number of the cancel request, from 1."""
    timestamp: Decimal


class ReplaceOrder(Payload, frozen=True, kw_only=True, omit_defaults=True):
    """`orders.{account}.replace`: the new terms, whole."""

    order_id: str
    account: str
    revision: int
    """Number of the amendment, from 1."""
    quantity: Decimal
    """The order's new total, what has executed included."""
    price: Decimal | None = None
    stop_price: Decimal | None = None
    protection_price: Decimal | None = None
    timestamp: Decimal


class Fill(Payload, frozen=True, kw_only=True, omit_defaults=True):
    """`fills.{account}`: one trade. Only the first five members are promised by every venue."""

    account: str
    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal
    fill_id: str = ""
    """Unique; without it the stream sequence is the fill's id."""
    order_id: str = ""
    """Empty: a fill of an unknown order."""
    fee: Decimal | None = None
    """In the quote currency; negative for a rebate; absent = 0."""
    liquidity: str = ""
    """`maker` or `taker`."""
    timestamp: Decimal | None = None
    """Absent: `stored_reports.read_fill` tells which time it has."""
    revision: int = 0
    status: str = ""
    """The order's state at the venue after the fill: `filled` or `partially_filled`."""
    cumulative: Decimal | None = None
    leaves: Decimal | None = None
    version: int | None = None
    """Absent = `VERSION`."""


class Execution(Payload, frozen=True, kw_only=True, omit_defaults=True):
    """`executions.{account}`: every venue report that is not a trade."""

    exec_id: str
    account: str
    order_id: str
    kind: str
    """`accepted`, `canceled`, `cancel_rejected`, `replaced`, `replace_rejected`, `rejected` or `expired`."""
    symbol: str = ""
    revision: int = 0
    """Number of the amendment or cancel that is answered; 0 otherwise."""
    status: str = ""
    """The order's state at the venue after the report."""
    reason: str = ""
    cumulative: Decimal | None = None
    leaves: Decimal | None = None
    timestamp: Decimal | None = None
    version: int | None = None
    """Absent = `VERSION`."""


class PositionUpdate(Payload, frozen=True, kw_only=True, omit_defaults=True):
    """`positions.{account}`"""

    account: str
    symbol: str
    quantity: Decimal
    price: Decimal
    """Of the last fill."""
    timestamp: Decimal


class Tick(Payload, frozen=True, kw_only=True, omit_defaults=True):
    """`ticks.{symbol}`: the mark."""

    symbol: str
    price: Decimal
    timestamp: Decimal


_encode: Final = msgspec.json.Encoder(decimal_format="number").encode
_P = TypeVar("_P", bound=Payload)
_decoders: Final[dict[type[Payload], msgspec.json.Decoder[Payload]]] = {}


def encode(payload: Payload) -> bytes:
    """The JSON text of `payload`."""
    return _encode(payload)


def decode(kind: type[_P], data: bytes) -> _P:
    """Reads a payload. Raises `BadMessage` for anything but JSON of that shape with numbers in range."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    try:
        payload = decoder.decode(data)
    except UNREADABLE as error:
        raise BadMessage(str(error)) from None
    assert isinstance(payload, kind)
    _check_numbers(payload)
    sibling = getattr(payload, "sibling", None)
    if sibling is not None:
        _check_numbers(sibling)
    version = getattr(payload, "version", None)
    if version not in (None, VERSION):
        raise BadMessage(f"version {version} is not known; expected {VERSION}")
    return payload


def _check_numbers(payload: Payload) -> None:
    for name in _decimal_members(type(payload)):
        number = getattr(payload, name)
        if number is not None:
            try:
                bounded(number)
            except NumberOutOfRange as error:
                raise BadMessage(f"{name} {error}") from None


_decimal_member_names: Final[dict[type[Payload], tuple[str, ...]]] = {}


def _decimal_members(kind: type[Payload]) -> tuple[str, ...]:
    names = _decimal_member_names.get(kind)
    if names is None:
        fields = msgspec.structs.fields(kind)
        names = tuple(field.name for field in fields if field.type in (Decimal, Decimal | None))
        _decimal_member_names[kind] = names
    return names


def timestamp(now_ns: int) -> Decimal:
    """Nanoseconds since the epoch as seconds with six decimal places."""
    return Decimal(now_ns // 1000) * _MICROSECOND


def nanoseconds(seconds: Decimal) -> int:
    """Seconds since the epoch as whole nanoseconds."""
    return int(seconds.scaleb(9))
