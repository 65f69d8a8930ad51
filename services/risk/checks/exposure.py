"""Worst exposures of an account over every subset of fills, with or without one more order.

Notation of the formulas, for one symbol: q signed position; B and S open buy and sell quantity, the order
included; m mark; L = q + B and K = q - S bound the position; VB and VS value the open orders at the larger of
mark and reserved value; W = max(|q·m + VB|, |q·m - VS|).
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Final, NamedTuple

from services.ledger.account import Account, Position
from services.ledger.numbers import ZERO


class SymbolExposure(NamedTuple):
    """One symbol at its mark."""

    symbol: str
    mark: Decimal
    quantity: Decimal
    longest: Decimal
    """L: the position if every buy fills and no sell."""
    shortest: Decimal
    """K: the position if every sell fills and no buy."""
    worst: Decimal
    """W, ≥ 0."""


class AccountRisk(NamedTuple):
    """An account at the marks. Money in the quote currency."""

    symbols: tuple[SymbolExposure, ...]
    """Each symbol with a position or an open order."""
    equity: Decimal
    """cash + Σ q·m."""
    worst_equity: Decimal
    """Equity less the adverse losses and worst fees of all open orders."""
    total_worst: Decimal
    """Σ W."""
    own: SymbolExposure | None
    """The symbol of the order that was added; None without one."""


class Addition(NamedTuple):
    """What one more order adds to its symbol; money and quantities ≥ 0."""

    symbol: str
    buy: Decimal
    sell: Decimal
    buy_value: Decimal
    sell_value: Decimal
    loss: Decimal
    fee: Decimal


NOTHING: Final = Addition("", ZERO, ZERO, ZERO, ZERO, ZERO, ZERO)
FLAT: Final = Position("")
"""Stands for every symbol that an account has never traded: making one an order is what would cost."""


def is_live(position: Position) -> bool:
    """Whether the position has anything at risk: units held, or open orders."""
    return bool(position.quantity or position.open_buy or position.open_sell)


def expose(symbol: str, position: Position, mark: Decimal, more: Addition = NOTHING) -> SymbolExposure:
    """One symbol's exposure at `mark`; `more` belongs to the same symbol."""
    buy, sell = position.open_buy, position.open_sell
    buy_value, sell_value = position.buy_value, position.sell_value
    if more is not NOTHING:
        buy, sell = buy + more.buy, sell + more.sell
        buy_value, sell_value = buy_value + more.buy_value, sell_value + more.sell_value
    quantity = position.quantity
    held = quantity * mark
    if not buy and not sell:
        return SymbolExposure(symbol, mark, quantity, quantity, quantity, abs(held))
    at_mark = buy * mark
    up = abs(held + (buy_value if buy_value > at_mark else at_mark))
    at_mark = sell * mark
    down = abs(held - (sell_value if sell_value > at_mark else at_mark))
    worst = up if up > down else down
    return SymbolExposure(symbol, mark, quantity, quantity + buy, quantity - sell, worst)


def appraise(account: Account, marks: Mapping[str, Decimal], more: Addition = NOTHING) -> AccountRisk:
    """The whole account. `marks` has every live symbol and that of `more`; raises `KeyError` otherwise."""
    exposures = []
    own = None
    equity = account.cash
    reserved = more.loss + more.fee
    total = ZERO
    symbols = account.positions
    for symbol, position in symbols.items():
        added = more if symbol == more.symbol else NOTHING
        reserved += position.adverse_loss + position.worst_fee
        if added is NOTHING and not is_live(position):
            continue
        exposure = expose(symbol, position, marks[symbol], added)
        equity += exposure.quantity * exposure.mark
        total += exposure.worst
        exposures.append(exposure)
        if added is not NOTHING:
            own = exposure
    if more.symbol and more.symbol not in symbols:
        own = expose(more.symbol, FLAT, marks[more.symbol], more)
        total += own.worst
        exposures.append(own)
    return AccountRisk(tuple(exposures), equity, equity - reserved, total, own)
