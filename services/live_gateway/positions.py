"""Positions as a table in the order of account and symbol, and what moves them."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from services.ledger.numbers import ZERO
from services.ledger.order import Side
from services.live_gateway.orders import Position, Trade
from services.live_gateway.records import Outgoing
from services.messages import Fill, decode

Key = tuple[str, str]
"""(account, symbol)"""


@dataclass(frozen=True, slots=True)
class Movement:
    """What one trade does to a position. `quantity` and `value` are negative for a sale."""

    account: str
    symbol: str
    quantity: Decimal
    value: Decimal
    fee: Decimal


def of_trade(trade: Trade) -> Movement:
    """The movement of a trade that was decided."""
    signed = trade.quantity if trade.side is Side.BUY else -trade.quantity
    return Movement(trade.account, trade.symbol, signed, signed * trade.price, trade.fee)


def of_fill(fill: Fill) -> Movement:
    """The movement of a trade that was told."""
    signed = fill.quantity if fill.side is Side.BUY else -fill.quantity
    return Movement(fill.account, fill.symbol, signed, signed * fill.price, fill.fee or ZERO)


def of_message(message: Outgoing) -> Movement | None:
    """The movement in a message that waits to be published; None when it is no trade."""
    return of_fill(decode(Fill, message.payload)) if message.subject.startswith("fills.") else None


class PositionTable:
    """Σ over trades for each account and symbol."""

    def __init__(self, positions: Mapping[Key, Position] | None = None) -> None:
        """Starts with copies of `positions`."""
        self._positions = {
            key: Position(one.quantity, one.value, one.fees, one.trades)
            for key, one in (positions or {}).items()
        }
        self._keys = sorted(self._positions)

    def apply(self, movement: Movement, sign: int = 1) -> None:
        """Adds a trade; takes it out again with `sign` -1."""
        key = (movement.account, movement.symbol)
        position = self._positions.get(key)
        if position is None:
            position = self._positions[key] = Position()
            insort(self._keys, key)
        position.quantity += sign * movement.quantity
        position.value += sign * movement.value
        position.fees += sign * movement.fee
        position.trades += sign

    def page(self, account: str, after: Key | None, size: int) -> tuple[list[tuple[Key, Position]], bool]:
        """Up to `size` positions beyond the key `after`, of `account` (empty: all); whether there are
        more.
        """
        keys = self._keys
        first = bisect_left(keys, (account, "")) if account else 0
        last = bisect_right(keys, (account, "\U0010ffff")) if account else len(keys)
        if after is not None:
            first = max(first, bisect_right(keys, after))
        chosen = keys[first : min(last, first + size)]
        return [(key, self._positions[key]) for key in chosen], first + size < last

    def as_mapping(self) -> Mapping[Key, Position]:
        """All of them."""
        return self._positions
