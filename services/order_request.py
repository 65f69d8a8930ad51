"""What every request that carries an order has in common: reading and validating its flat fields.

`CheckRequest`, `ReserveRequest` and `SubmitOrderRequest` spell the order's fields alike. Each error is
INVALID_ARGUMENT and names the field as the caller wrote it.
"""

import decimal
import hashlib
import re
from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import Final, NamedTuple, Protocol

from google.type.decimal_pb2 import Decimal as DecimalMessage

from services.instruments import Instrument
from services.ledger.numbers import (
    MAX_DECIMAL_PLACES,
    MAX_INTEGER_DIGITS,
    ZERO,
    NumberOutOfRange,
    bounded,
    plain,
)
from services.ledger.order import OrderType, Side
from services.runtime.errors import InvalidArgument
from trade2026.type.v1 import order_pb2

ACCOUNT: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
CLIENT_ORDER_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
SYMBOL: Final = re.compile(r"[A-Z0-9]{1,32}")

_MAX_VALUE: Final = Decimal(10) ** MAX_INTEGER_DIGITS
# A number as text: no spaces, underscores, NaN or infinity, and short enough to parse without harm.
_NUMBER: Final = re.compile(r"[+-]?(\d{1,64}(\.\d{0,64})?|\.\d{1,64})([eE][+-]?\d{1,3})?", re.ASCII)
# The numbers among them that keep the bounds by their form alone; nearly all do.
_WITHIN_BOUNDS: Final = re.compile(
    rf"\d{{1,{MAX_INTEGER_DIGITS}}}(\.\d{{1,{MAX_DECIMAL_PLACES}}})?", re.ASCII
)

SIDES: Final[Mapping["order_pb2.Side.ValueType", Side]] = {
    order_pb2.SIDE_BUY: Side.BUY,
    order_pb2.SIDE_SELL: Side.SELL,
}
ORDER_TYPES: Final[Mapping["order_pb2.OrderType.ValueType", OrderType]] = {
    order_pb2.ORDER_TYPE_MARKET: OrderType.MARKET,
    order_pb2.ORDER_TYPE_LIMIT: OrderType.LIMIT,
    order_pb2.ORDER_TYPE_STOP: OrderType.STOP,
    order_pb2.ORDER_TYPE_STOP_LIMIT: OrderType.STOP_LIMIT,
}

# order type → (takes a price, takes a stop price); what a type takes, it also needs.
PRICES: Final[Mapping[OrderType, tuple[bool, bool]]] = {
    OrderType.MARKET: (False, False),
    OrderType.LIMIT: (True, False),
    OrderType.STOP: (False, True),
    OrderType.STOP_LIMIT: (True, True),
}


class FlatOrder(Protocol):
    """The fields that the three requests share."""

    account: str
    symbol: str
    side: "order_pb2.Side.ValueType"
    type: "order_pb2.OrderType.ValueType"

    @property
    def quantity(self) -> DecimalMessage: ...
    @property
    def price(self) -> DecimalMessage: ...
    @property
    def stop_price(self) -> DecimalMessage: ...


class OrderRequest(NamedTuple):
    """A valid order as asked for. Quantity > 0 in units of the symbol, prices > 0 in the quote currency."""

    account: str
    symbol: str
    side: Side
    order_type: OrderType
    quantity: Decimal
    price: Decimal | None
    stop_price: Decimal | None


def read_order(request: FlatOrder, instruments: Mapping[str, Instrument]) -> OrderRequest:
    """Reads the order of `request`. Raises `InvalidArgument` naming the first field that is wrong."""
    account = read_account(request.account)
    instrument = instruments.get(request.symbol)
    if instrument is None:
        raise _unknown_symbol(request.symbol, instruments)
    side = SIDES.get(request.side)
    if side is None:
        raise InvalidArgument("side", "must be buy or sell")
    if not request.HasField("quantity"):  # type: ignore[attr-defined]
        raise InvalidArgument("quantity", "is required")
    quantity = read_positive("quantity", request.quantity.value, instrument.quantity_increment)
    has_price = bool(request.HasField("price"))  # type: ignore[attr-defined]
    has_stop = bool(request.HasField("stop_price"))  # type: ignore[attr-defined]
    order_type = _read_type(request.type, has_price)
    takes_price, takes_stop = PRICES[order_type]
    if has_price != takes_price:
        raise InvalidArgument("price", _wrongly_given(order_type, takes_price))
    if has_stop != takes_stop:
        raise InvalidArgument("stop_price", _wrongly_given(order_type, takes_stop))
    price = read_positive("price", request.price.value, instrument.price_increment) if has_price else None
    stop_price = (
        read_positive("stop_price", request.stop_price.value, instrument.price_increment)
        if has_stop
        else None
    )
    check_value(quantity, price, stop_price)
    return OrderRequest(account, request.symbol, side, order_type, quantity, price, stop_price)


def check_value(quantity: Decimal, price: Decimal | None, stop_price: Decimal | None) -> None:
    """Raises `InvalidArgument` when quantity times a price has more than 20 integer digits."""
    if price is not None and quantity * price >= _MAX_VALUE:
        raise _too_valuable("price")
    if stop_price is not None and quantity * stop_price >= _MAX_VALUE:
        raise _too_valuable("stop_price")


def read_account(account: str, field: str = "account") -> str:
    """`account` when it is one; raises `InvalidArgument` naming `field` otherwise."""
    if not ACCOUNT.fullmatch(account):
        if not account:
            raise InvalidArgument(field, "is required")
        raise InvalidArgument(field, "must be 1 to 64 letters, digits, underscores or hyphens")
    return account


def read_symbol(symbol: str, known: Collection[str]) -> str:
    """`symbol` when it is empty or one of the `known`; raises `InvalidArgument` otherwise."""
    if symbol and symbol not in known:
        raise _unknown_symbol(symbol, known)
    return symbol


def read_client_order_id(client_order_id: str) -> str:
    """`client_order_id` when it is empty or one; raises `InvalidArgument` otherwise."""
    if client_order_id and not CLIENT_ORDER_ID.fullmatch(client_order_id):
        raise InvalidArgument(
            "client_order_id", "must be 1 to 64 letters, digits, underscores, points or hyphens"
        )
    return client_order_id


def read_positive(field: str, text: str, increment: Decimal | None = None) -> Decimal:
    """The number in `text`, > 0, bounded, and a multiple of `increment`; raises `InvalidArgument`."""
    number = read_number(field, text)
    if number <= 0:
        raise InvalidArgument(field, "must be greater than 0")
    if increment is not None and number % increment:
        raise InvalidArgument(field, f"must be a multiple of {increment}")
    return number


def read_number(field: str, text: str) -> Decimal:
    """The exact number in `text` with ≤ 18 decimal places and ≤ 20 integer digits, else `InvalidArgument`."""
    if _WITHIN_BOUNDS.fullmatch(text):
        return Decimal(text) or ZERO
    if not _NUMBER.fullmatch(text):
        raise InvalidArgument(field, "must be a finite decimal number")
    try:
        return bounded(Decimal(text))
    except NumberOutOfRange as error:
        raise InvalidArgument(field, str(error)) from None
    except decimal.InvalidOperation:
        raise InvalidArgument(field, "must be a finite decimal number") from None


def request_digest(order: OrderRequest, *further: object) -> str:
    """Hash of what the client asked for; equal for requests that mean the same (0.10 and 0.1).

    `further` holds the rest of the request's meaning, such as time in force and expiry.
    """
    parts = (
        order.account,
        order.symbol,
        order.side.value,
        order.order_type.value,
        *(None if number is None else plain(number) for number in (order.quantity, order.price)),
        None if order.stop_price is None else plain(order.stop_price),
        *further,
    )
    text = "\x1f".join("" if part is None else str(part) for part in parts)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _read_type(value: "order_pb2.OrderType.ValueType", has_price: bool) -> OrderType:
    if value == order_pb2.ORDER_TYPE_UNSPECIFIED:
        return OrderType.LIMIT if has_price else OrderType.MARKET
    order_type = ORDER_TYPES.get(value)
    if order_type is None:
        raise InvalidArgument("type", "must be market, limit, stop or stop_limit")
    return order_type


def _too_valuable(field: str) -> InvalidArgument:
    return InvalidArgument(field, f"times quantity must be below 10^{MAX_INTEGER_DIGITS}")


def _wrongly_given(order_type: OrderType, taken: bool) -> str:
    return f"is required for {order_type} orders" if taken else f"must not be given for {order_type} orders"


def _unknown_symbol(symbol: str, instruments: Collection[str]) -> InvalidArgument:
    if not symbol:
        return InvalidArgument("symbol", "is required")
    if not SYMBOL.fullmatch(symbol):
        return InvalidArgument("symbol", "must be 1 to 32 upper-case letters or digits")
    known = ", ".join(sorted(instruments)[:10])
    return InvalidArgument("symbol", f"{symbol} is not a known instrument; known are {known}")
