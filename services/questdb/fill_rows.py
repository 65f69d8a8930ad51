"""What the fill store makes of a message: the row of a trade, or why there is none. Pure."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from services.ledger.numbers import ZERO, bounded
from services.messages import BadMessage, Fill, decode
from services.questdb.durable_pull import Delivered
from services.questdb.writes import moment, moment_ns

_ACCOUNT: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SYMBOL: Final = re.compile(r"[A-Z0-9]{1,32}")
_LABEL: Final = re.compile(r"[\x20-\x7e]{0,128}")
_FIRST_YEAR: Final = 2000
_LAST_YEAR: Final = 2200


def fill_row(message: Delivered) -> Sequence[Any]:
    """The row of table `fills` for a stored message. Raises `BadMessage` when it is no usable fill.

    Every text is checked here, so that the only reason for which QuestDB can refuse a row is its own state:
    one bad message can never hold up the others. A fill without an id gets its stream sequence as id; one
    without a timestamp, or with one that is no wall clock, the time at which the stream stored it.
    """
    fill = decode(Fill, message.data)
    addressed = message.subject.rpartition(".")[2]
    if fill.account != addressed:
        raise BadMessage(f"account {fill.account!r} came on the subject of {addressed!r}")
    _check("account", fill.account, _ACCOUNT)
    _check("symbol", fill.symbol, _SYMBOL)
    _check("fill_id", fill.fill_id, _LABEL)
    _check("order_id", fill.order_id, _LABEL)
    _check("liquidity", fill.liquidity, _LABEL)
    if fill.quantity <= 0:
        raise BadMessage("quantity must be positive")
    return (
        _time(fill, message),
        fill.account,
        fill.symbol,
        str(fill.side),
        fill.order_id,
        fill.fill_id or str(message.sequence),
        bounded(fill.quantity),
        bounded(fill.price),
        ZERO if fill.fee is None else bounded(fill.fee),
        fill.liquidity,
        message.sequence,
    )


def _time(fill: Fill, message: Delivered) -> datetime:
    if fill.timestamp is not None and _FIRST <= fill.timestamp < _LAST:
        return moment(fill.timestamp)
    return moment_ns(message.time_ns)


def _check(name: str, text: str, pattern: re.Pattern[str]) -> None:
    if pattern.fullmatch(text) is None:
        raise BadMessage(f"{name} has characters or a length that are not allowed")


_FIRST: Final = int(datetime(_FIRST_YEAR, 1, 1, tzinfo=UTC).timestamp())
_LAST: Final = int(datetime(_LAST_YEAR, 1, 1, tzinfo=UTC).timestamp())
