"""The verdict on orders that are submitted together."""

from collections.abc import Sequence

from services.ledger.account import Account
from services.ledger.order import GroupRole, Order, Side
from services.ledger.values import replace
from services.risk.checks.evaluate import Verdict, evaluate
from services.risk.checks.limits import Policy
from services.risk.checks.market import Market
from services.risk.checks.valuation import UnitValuation


def evaluate_group(
    account: Account, orders: Sequence[Order], market: Market, policy: Policy, max_open_orders: int = 0
) -> list[Verdict]:
    """The verdicts up to the first denial, or one an order; `account` does not hold the group yet.

    Of a pair only one order executes: each is evaluated as if it were alone, but both count as open. A
    bracket's entry is evaluated as a single order, and its exits on the account as the entry would leave it
    at its worst price; they take the entry's place among the open orders.
    """
    first = orders[0]
    bracket = first.group is not None and first.group.role is GroupRole.ENTRY
    if not bracket:
        account = replace(account, open_orders=account.open_orders + len(orders) - 1)
    verdicts: list[Verdict] = []
    for place, order in enumerate(orders):
        verdict = evaluate(account, order, market, policy, max_open_orders=max_open_orders)
        verdicts.append(verdict)
        if not verdict.approved:
            break
        if bracket and not place and verdict.unit is not None:
            account = _filled(account, first, verdict.unit)
            max_open_orders = 0
    return verdicts


def _filled(account: Account, entry: Order, unit: UnitValuation) -> Account:
    """The account after a fill of the whole entry at its worst price and fee."""
    quantity, buys = entry.terms.quantity, entry.side is Side.BUY
    price = unit.value if buys else unit.value - unit.loss
    fee = quantity * unit.fee
    value = quantity * price
    position = account.position(entry.symbol).with_fill(entry.side, quantity, price, fee)
    return replace(
        account,
        cash=account.cash - (value if buys else -value) - fee,
        positions={**account.positions, entry.symbol: position},
    )
