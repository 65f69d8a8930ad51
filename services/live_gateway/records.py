"""How the venue's state is written down: the rows of the journal, and the messages that wait to be
published.
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec

from services.ledger.order import OrderState
from services.live_gateway.orders import Position, SeenOrder, WorkingOrder


class Facts(msgspec.Struct):
    """The one row of single facts."""

    venue: str
    """Identity of this journal, the first part of every exec id."""
    next_number: int = 1
    """Second part of the next exec id."""
    highest_ulid: str = ""
    """Of all orders kept as seen."""
    orders_created: str = ""
    """When stream ORDERS was created, as the server writes it: tells a recreated stream."""
    orders_seq: int = 0
    """Last sequence of ORDERS that was decided on."""
    executions_created: str = ""
    executions_seq: int = 0
    """All reports up to this sequence of EXECUTIONS are known to be stored there."""
    terms_missing: bool = False
    """Orders may be kept as seen that have not ended and whose terms were lost with an older journal: those
    that do not come back by the end of ORDERS are ended."""
    marks: dict[str, tuple[Decimal, int]] = {}
    """symbol → (mark, when it was received)."""


class Outgoing(msgspec.Struct, array_like=True, gc=False):
    """A message that has to be published, verbatim, until the stream has acknowledged it."""

    subject: str
    msg_id: str
    payload: bytes


_encode: Final = msgspec.json.Encoder(decimal_format="string").encode
_decode_order: Final = msgspec.json.Decoder(WorkingOrder).decode
_decode_facts: Final = msgspec.json.Decoder(Facts).decode
_encode_batch: Final = msgspec.msgpack.Encoder().encode
_decode_batch: Final = msgspec.msgpack.Decoder(list[Outgoing]).decode


def encode_facts(facts: Facts) -> str:
    return _encode(facts).decode()


def decode_facts(text: str) -> Facts:
    return _decode_facts(text)


def encode_batch(messages: list[Outgoing]) -> bytes:
    return _encode_batch(messages)


def decode_batch(data: bytes) -> list[Outgoing]:
    return _decode_batch(data)


def encode_working(orders: Iterable[WorkingOrder]) -> str:
    """A JSON array of [order_id, record as text]; the record's numbers must not pass through SQLite's."""
    return _rows((order.order_id, encode_order(order)) for order in orders)


def encode_order(order: WorkingOrder) -> str:
    """The record of a working order."""
    return _encode(order).decode()


def decode_order(record: str) -> WorkingOrder:
    return _decode_order(record)


def encode_seen(seen: Mapping[str, SeenOrder]) -> str:
    """A JSON array of the columns of table `seen`."""
    return _rows(
        (order_id, order.state, str(order.cumulative), order.cancels, order.revision)
        for order_id, order in seen.items()
    )


def decode_seen(row: tuple[Any, ...]) -> tuple[str, SeenOrder]:
    order_id, state, cumulative, cancels, revision = row
    return order_id, SeenOrder(OrderState(state), Decimal(cumulative), cancels, revision)


def encode_positions(keys: Iterable[tuple[str, str]], positions: Mapping[tuple[str, str], Position]) -> str:
    """A JSON array of the columns of table `positions`."""
    rows = []
    for key in keys:
        position = positions[key]
        rows.append((*key, str(position.quantity), str(position.value), str(position.fees), position.trades))
    return _rows(rows)


def decode_position(row: tuple[Any, ...]) -> tuple[tuple[str, str], Position]:
    account, symbol, quantity, value, fees, trades = row
    return (account, symbol), Position(Decimal(quantity), Decimal(value), Decimal(fees), trades)


def encode_ids(ids: Iterable[str]) -> str:
    return _rows(ids)


def _rows(rows: Iterable[object]) -> str:
    return _encode(list(rows)).decode()
