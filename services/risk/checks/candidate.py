"""The order that is judged."""

from decimal import Decimal
from typing import NamedTuple, Protocol

from services.ledger.numbers import ZERO
from services.ledger.order import OrderType, Side, Terms


class Candidate(Protocol):
    """What the checks look at of an order; a ledger `Order` is one."""

    @property
    def symbol(self) -> str: ...
    @property
    def side(self) -> Side: ...
    @property
    def order_type(self) -> OrderType: ...
    @property
    def terms(self) -> Terms: ...
    @property
    def cumulative(self) -> Decimal:
        """What has executed of it; not 0 only when it is amended."""
        ...


class DryOrder(NamedTuple):
    """An order that is only asked about."""

    symbol: str
    side: Side
    order_type: OrderType
    terms: Terms
    cumulative: Decimal = ZERO
