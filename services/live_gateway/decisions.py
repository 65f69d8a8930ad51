"""What the engine has decided since it was last asked: every decision gets its exec id here."""

from decimal import Decimal

from services.ledger.numbers import ZERO
from services.ledger.order import OrderState
from services.live_gateway.orders import (
    Changes,
    Liquidity,
    Reason,
    Report,
    ReportKind,
    SeenOrder,
    Trade,
    WorkingOrder,
)


class Decisions:
    """Gathers decisions, and the state that has to be journaled with them."""

    def __init__(self, venue: str, next_number: int) -> None:
        """`venue` and a number make an exec id; the pair is used once."""
        self._venue = venue
        self.next_number = next_number
        self.changes = Changes()

    def take(self) -> Changes:
        """What has gathered since the last call."""
        changes, self.changes = self.changes, Changes()
        return changes

    def trade(
        self,
        order: WorkingOrder,
        quantity: Decimal,
        price: Decimal,
        fee: Decimal,
        liquidity: Liquidity,
        now_ns: int,
    ) -> None:
        """A trade that `order`, as it stands, includes already."""
        leaves = order.leaves
        self.changes.decisions.append(
            Trade(
                self._exec_id(),
                now_ns,
                order.account,
                order.order_id,
                order.symbol,
                order.side,
                quantity,
                price,
                fee,
                liquidity,
                order.revision,
                OrderState.PARTIALLY_FILLED if leaves else OrderState.FILLED,
                order.cumulative,
                leaves,
            )
        )

    def report(
        self,
        order: WorkingOrder,
        kind: ReportKind,
        now_ns: int,
        status: OrderState,
        revision: int = 0,
        reason: Reason | str = "",
        leaves: Decimal = ZERO,
    ) -> None:
        """A report on an order."""
        self.changes.decisions.append(
            Report(
                self._exec_id(),
                now_ns,
                order.account,
                order.order_id,
                kind,
                order.symbol,
                revision,
                status,
                reason,
                order.cumulative,
                leaves,
            )
        )

    def answer(
        self,
        kind: ReportKind,
        account: str,
        order_id: str,
        revision: int,
        now_ns: int,
        reason: str,
        seen: SeenOrder | None,
    ) -> None:
        """A report on an order that does not work; its symbol is not kept."""
        status, cumulative = ("", ZERO) if seen is None else (seen.state, seen.cumulative)
        self.changes.decisions.append(
            Report(
                self._exec_id(),
                now_ns,
                account,
                order_id,
                kind,
                "",
                revision,
                status,
                reason,
                cumulative,
                ZERO,
            )
        )

    def _exec_id(self) -> str:
        number = self.next_number
        self.next_number = number + 1
        return f"{self._venue}-{number}"
