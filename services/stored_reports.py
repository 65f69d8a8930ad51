"""What a message of stream EXECUTIONS says, for everyone who reads it. Pure.

The account ledger and the fill store read the same messages, each on its own. What is a trade, which id it
has and when it happened is decided here, once: what one of them takes, the other takes too, under that id.
"""

import re
from decimal import Decimal
from typing import Final

import msgspec

from services.dead_letters import StoredMessage
from services.ledger.numbers import ZERO, bounded
from services.ledger.order import Side
from services.messages import BadMessage, Fill, decode, nanoseconds
from services.order_request import ACCOUNT, SYMBOL
from services.runtime.ids import created_ms

FILLS: Final = "fills"
EXECUTIONS: Final = "executions"
LONGEST_ID: Final = 256
LAST_SECOND: Final = 9_000_000_000
UNDATED_NS: Final = 946_684_800_000_000_000
"""2000-01-01: when a trade happened that tells neither a time nor an order of ours."""
_MILLISECOND: Final = 1_000_000
_PRINTABLE: Final = re.compile(r"[ -~]*")


class Trade(msgspec.Struct, frozen=True, gc=False):
    """A usable fill."""

    account: str
    symbol: str
    side: Side
    quantity: Decimal
    """> 0"""
    price: Decimal
    """> 0"""
    fee: Decimal
    """In the quote currency; negative for a rebate."""
    fill_id: str
    order_id: str
    """Empty: a fill of an unknown order."""
    liquidity: str
    revision: int
    time_ns: int
    """When it happened, nanoseconds since the epoch; 1970 … 2255."""


def read_subject(subject: str) -> tuple[str, str]:
    """(kind, account) of a subject `<partition>.<kind>.<account>`. Raises `BadMessage`."""
    parts = subject.split(".")
    if len(parts) != 3:
        raise BadMessage(f"subject {subject} is not <partition>.<kind>.<account>")
    _, kind, account = parts
    if not ACCOUNT.fullmatch(account):
        raise BadMessage("the account of the subject is not valid")
    return kind, account


def read_fill(message: StoredMessage, account: str) -> Trade:
    """The trade in a fill that is stored under the subject of `account`. Raises `BadMessage`.

    A fill without an id has its stream sequence as id and, if it tells no time, the time at which the stream
    stored it: no two messages are the same trade. One with an id is the same trade however often it is
    published, so its time may not depend on the message that brings it: without a `timestamp` it is the time
    in its order's id, the earliest that it can have, or `UNDATED_NS`.
    """
    fill = decode(Fill, message.data)
    same_account(fill.account, account)
    if not SYMBOL.fullmatch(fill.symbol):
        raise BadMessage("symbol is not valid")
    if fill.quantity <= ZERO:
        raise BadMessage("quantity must be greater than 0")
    if fill.price <= ZERO:
        raise BadMessage("price must be greater than 0")
    fill_id = read_identifier("fill_id", fill.fill_id)
    order_id = read_identifier("order_id", fill.order_id)
    if fill.timestamp is not None:
        time_ns = read_time_ns(fill.timestamp)
    elif fill_id:
        time_ns = _time_of_order(order_id)
    else:
        time_ns = message.time_ns
    return Trade(
        account=account,
        symbol=fill.symbol,
        side=fill.side,
        quantity=bounded(fill.quantity),
        price=bounded(fill.price),
        fee=ZERO if fill.fee is None else bounded(fill.fee),
        fill_id=fill_id or str(message.sequence),
        order_id=order_id,
        liquidity=read_identifier("liquidity", fill.liquidity),
        revision=fill.revision,
        time_ns=time_ns,
    )


def same_account(payload: str, subject: str) -> None:
    """Raises `BadMessage` when a payload names another account than its subject."""
    if payload != subject:
        raise BadMessage(f"account {payload[:64]!r} of the payload is not the subject's {subject!r}")


def read_identifier(name: str, value: str) -> str:
    """`value` when it has at most `LONGEST_ID` characters, all printable ASCII. Raises `BadMessage`."""
    if len(value) > LONGEST_ID or not _PRINTABLE.fullmatch(value):
        raise BadMessage(f"{name} is not an identifier")
    return value


def read_time_ns(timestamp: Decimal) -> int:
    """Seconds since the epoch, 0 … `LAST_SECOND`, as nanoseconds. Raises `BadMessage`."""
    if not 0 <= timestamp <= LAST_SECOND:
        raise BadMessage("timestamp is not a time in seconds since the epoch")
    return nanoseconds(timestamp)


def _time_of_order(order_id: str) -> int:
    made_ns = created_ms(order_id) * _MILLISECOND
    return made_ns if 0 < made_ns <= nanoseconds(Decimal(LAST_SECOND)) else UNDATED_NS
