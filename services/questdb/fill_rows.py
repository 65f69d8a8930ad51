"""What the fill store makes of a message: the row of a trade, or why there is none. Pure."""

from collections.abc import Sequence
from typing import Any

from services.questdb.durable_pull import Delivered
from services.questdb.writes import moment_ns
from services.stored_reports import read_fill, read_subject


def fill_row(message: Delivered) -> Sequence[Any]:
    """The row of table `fills` for a stored fill. Raises `BadMessage` when it is no usable fill.

    Every text was checked before, so that the only reason for which QuestDB can refuse a row is its own
    state: one bad message can never hold up the others.
    """
    _, account = read_subject(message.subject)
    trade = read_fill(message, account)
    return (
        moment_ns(trade.time_ns),
        trade.account,
        trade.symbol,
        str(trade.side),
        trade.order_id,
        trade.fill_id,
        trade.quantity,
        trade.price,
        trade.fee,
        trade.liquidity,
        message.sequence,
    )
