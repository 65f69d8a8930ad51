"""Orders, commands and reports in the shapes that tests need, with everything incidental filled in."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from decimal import Decimal

from services.ledger.account import Account
from services.ledger.commands import (
    Abandon,
    AbandonAmend,
    AbandonGroup,
    Amend,
    ApplyReport,
    Approved,
    Assess,
    Refused,
    ReportKind,
    RequestCancel,
    Reserve,
    ReserveGroup,
)
from services.ledger.groups import as_bracket, as_pair
from services.ledger.order import (
    Order,
    OrderState,
    OrderType,
    Reservation,
    Side,
    Terms,
    TimeInForce,
)
from services.runtime.ids import new_order_id

SYMBOL = "BTCUSDT"
_numbers = itertools.count(1)


def number(text: str | int | Decimal) -> Decimal:
    return Decimal(text)


def make_order(
    account: str,
    quantity: str | Decimal = "1",
    *,
    side: Side = Side.BUY,
    price: str | Decimal = "100",
    symbol: str = SYMBOL,
    client_order_id: str | None = None,
    digest: str = "digest",
    order_id: str | None = None,
    expire_ns: int = 0,
) -> Order:
    order_id = order_id or new_order_id(account)
    return Order(
        order_id=order_id,
        account=account,
        client_order_id=f"c-{next(_numbers)}" if client_order_id is None else client_order_id,
        digest=digest,
        symbol=symbol,
        side=side,
        order_type=OrderType.LIMIT,
        time_in_force=TimeInForce.GTC,
        terms=Terms(Decimal(quantity), Decimal(price), None, None),
        state=OrderState.PENDING_NEW,
        created_ns=0,
        updated_ns=0,
        expire_ns=expire_ns,
    )


def hold_price(account: Account, order: Order) -> Approved:
    """Checks that pass everything and hold the order's price, 1 % loss and 0.1 % fee a unit."""
    price = order.terms.price or Decimal(0)
    held = Reservation(order.terms.quantity, price, price * Decimal("0.01"), price * Decimal("0.001"))
    return Approved(held, order.terms)


def refuse(account: Account, order: Order) -> Refused:
    return Refused("order_size_limit", "too large")


def reserve(order: Order, assess: Assess = hold_price) -> Reserve:
    return Reserve(order, assess)


def grouped(*orders: Order) -> tuple[Order, ...]:
    """Orders as a pair when they are of two of a kind, or else as an entry with exits of the other side."""
    first, *rest = orders
    return as_pair(first, rest[0]) if first.side is rest[0].side else as_bracket(first, rest)


def hold_prices(account: Account, orders: tuple[Order, ...]) -> tuple[Approved, ...]:
    return tuple(hold_price(account, order) for order in orders)


def refuse_group(account: Account, orders: tuple[Order, ...]) -> Refused:
    return Refused("order_size_limit", "too large")


def reserve_group(orders: tuple[Order, ...], *, refused: bool = False) -> ReserveGroup:
    return ReserveGroup(orders, refuse_group if refused else hold_prices)


def abandon_group(orders: tuple[Order, ...]) -> AbandonGroup:
    return AbandonGroup(orders, "risk_timeout", "no answer in time")


def abandon(order: Order, reason: str = "risk_timeout") -> Abandon:
    return Abandon(order, reason, "no answer in time")


def request_cancel(order: Order, *, again: bool = False) -> RequestCancel:
    return RequestCancel(order.account, order.order_id, "requested", again)


def amend(
    order: Order,
    revision: int,
    quantity: str | Decimal,
    price: str | Decimal,
    assess: Assess = hold_price,
    request_id: str = "",
) -> Amend:
    terms = (Decimal(quantity), Decimal(price), None)
    return Amend(order.account, order.order_id, revision, *terms, assess, request_id)


def abandon_amend(order: Order, revision: int, request_id: str = "") -> AbandonAmend:
    return AbandonAmend(order.account, order.order_id, revision, request_id, "risk_timeout")


def report(
    kind: ReportKind,
    order: Order,
    stream_seq: int,
    *,
    exec_id: str | None = None,
    revision: int = 0,
    reason: str = "",
    quantity: str | Decimal = "0",
    price: str | Decimal = "0",
    fee: str | Decimal = "0",
) -> ApplyReport:
    return ApplyReport(
        account=order.account,
        stream_seq=stream_seq,
        kind=kind,
        order_id=order.order_id,
        exec_id=exec_id or f"x-{next(_numbers)}",
        revision=revision,
        reason=reason,
        venue_ns=1_700_000_000_000_000_000 + stream_seq,
        symbol=order.symbol,
        side=order.side if kind is ReportKind.FILL else None,
        quantity=Decimal(quantity),
        price=Decimal(price),
        fee=Decimal(fee),
        liquidity="taker",
    )


def fill(
    order: Order,
    stream_seq: int,
    quantity: str | Decimal,
    price: str | Decimal = "100",
    fee: str | Decimal = "0.1",
    exec_id: str | None = None,
) -> ApplyReport:
    return report(
        ReportKind.FILL, order, stream_seq, exec_id=exec_id, quantity=quantity, price=price, fee=fee
    )


Reporting = Callable[[Order, int], ApplyReport]
