"""Reservations without risk: for `risk_service.enabled: false` and `fail_closed: false`.

The trading state of the account and the limit of open orders hold all the same; nothing else is looked at.
"""

import sys
from typing import Final

from services.ledger.account import Account, TradingState
from services.ledger.commands import Approved, Assess, AssessGroup, Refused
from services.ledger.numbers import ZERO
from services.ledger.order import GroupRole, Order, Reservation, Side
from services.ledger.values import replace

NO_LIMIT: Final = sys.maxsize
"""For an amendment, which opens no further order."""


def unchecked_assess(max_open_orders: int) -> Assess:
    """The rules of an unchecked reservation."""

    def assess(account: Account, order: Order) -> Approved | Refused:
        if account.trading_state is TradingState.HALTED:
            return Refused("trading_halted", f"trading is halted for account {account.account}")
        if account.trading_state is TradingState.REDUCING and not reduces(account, order):
            return Refused(
                "trading_reducing", f"account {account.account} takes only orders that reduce a position"
            )
        if account.open_orders >= max_open_orders:
            return Refused(
                "max_open_orders",
                f"the account has {account.open_orders} open orders, the limit is {max_open_orders}",
            )
        # An amended stop must not keep the protection that its old price had.
        terms = replace(order.terms, protection_price=None)
        # Without a mark the asked prices are the only value there is; a market order has none.
        value = max(terms.price or ZERO, terms.stop_price or ZERO)
        return Approved(Reservation(terms.quantity, value, ZERO, ZERO), terms)

    return assess


def unchecked_group(max_open_orders: int) -> AssessGroup:
    """The same for orders that are submitted together; exits that wait do not count as open orders."""
    assess = unchecked_assess(max_open_orders)

    def assess_group(account: Account, orders: tuple[Order, ...]) -> tuple[Approved, ...] | Refused:
        legs = sum(order.group is not None and order.group.role is GroupRole.LEG for order in orders)
        counted = replace(account, open_orders=account.open_orders + max(0, legs - 1))
        approved: list[Approved] = []
        for order in orders:
            decision = assess(counted, order)
            if isinstance(decision, Refused):
                return decision
            approved.append(decision)
        return tuple(approved)

    return assess_group


def reduces(account: Account, order: Order) -> bool:
    """Whether `order`, with all open ones of its side, can only bring its position nearer to zero."""
    position = account.position(order.symbol)
    if order.side is Side.SELL:
        return position.open_sell + order.terms.quantity <= position.quantity
    return position.open_buy + order.terms.quantity <= -position.quantity
