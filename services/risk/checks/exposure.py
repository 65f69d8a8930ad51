"""Worst exposures of an account over every subset of fills, with or without one more order.

Notation of the formulas, for one symbol: q signed position; B and S open buy and sell quantity, the order
included; m mark; L = q + B and K = q - S bound the position; VB and VS value the open orders at the larger of
mark and reserved value; W = max(|q·m + VB|, |q·m - VS|).
"""

from collections.abc import Mapping, Sequence
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

    symbols: Sequence[SymbolExposure]
    """Each symbol with a position or an open order."""
    equity: Decimal
    """cash + Σ q·m."""
    worst_equity: Decimal
    """Equity less the adverse losses and worst fees of all open orders."""
    total_worst: Decimal
    """Σ W."""


FLAT: Final = Position("")
"""Stands for every symbol that an account has never traded: making one an order is what would cost."""


def is_live(position: Position) -> bool:
    """Whether the position has anything at risk: units held, or open orders."""
    return bool(position.quantity or position.open_buy or position.open_sell)


def expose(
    symbol: str,
    mark: Decimal,
    quantity: Decimal,
    buy: Decimal,
    buy_value: Decimal,
    sell: Decimal,
    sell_value: Decimal,
) -> SymbolExposure:
    """One symbol: the position, and the quantity and reserved value of its open orders of each side."""
    held = quantity * mark
    if not buy and not sell:
        return SymbolExposure(symbol, mark, quantity, quantity, quantity, abs(held))
    at_mark = buy * mark
    up = abs(held + (buy_value if buy_value > at_mark else at_mark))
    at_mark = sell * mark
    down = abs(held - (sell_value if sell_value > at_mark else at_mark))
    worst = up if up > down else down
    return SymbolExposure(symbol, mark, quantity, quantity + buy, quantity - sell, worst)


def appraise(
    account: Account,
    marks: Mapping[str, Decimal],
    own: SymbolExposure | None = None,
    reserved: Decimal = ZERO,
) -> AccountRisk:
    """The whole account, with `own` in the place of its symbol: the one of an order, the order included.

    `marks` has every other live symbol; raises `KeyError` otherwise. `reserved` is the adverse loss and worst
    fee of the order, beside those of the account's open orders.
    """
    equity = account.cash
    if own is None:
        exposures, total = [], ZERO
        replaced = None
    else:
        exposures, total = [own], own.worst
        replaced = own.symbol
        if own.quantity:
            equity += own.quantity * own.mark
    for symbol, position in account.positions.items():
        reserved += position.adverse_loss + position.worst_fee
        if symbol == replaced or not is_live(position):
            continue
        exposure = expose(
            symbol,
            marks[symbol],
            position.quantity,
            position.open_buy,
            position.buy_value,
            position.open_sell,
            position.sell_value,
        )
        equity += exposure.quantity * exposure.mark
        total += exposure.worst
        exposures.append(exposure)
    return AccountRisk(exposures, equity, equity - reserved, total)
