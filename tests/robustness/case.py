"""One account with everything that is known of it: what checks are given."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from tests.robustness.history import Attempt, CopiedOrder, GroupAttempt, History, Intent
from tests.robustness.model import AccountModel, ModelOrder
from tests.robustness.observed import Observed


@dataclass(slots=True)
class Case:
    """One account, and what the model makes of its drop copy."""

    history: History
    observed: Observed
    model: AccountModel = field(init=False)
    by_client_id: dict[str, list[ModelOrder]] = field(init=False)

    def __post_init__(self) -> None:
        self.model = AccountModel().fold(self.observed.drop_copy)
        self.by_client_id = defaultdict(list)
        for order in self.model.orders.values():
            self.by_client_id[order.terms.client_order_id].append(order)

    @property
    def tries(self) -> list[list[Attempt]]:
        """The attempts of each client order id."""
        return self.history.of_account(self.observed.account)

    @property
    def group_tries(self) -> list[list[GroupAttempt]]:
        """The attempts of each group."""
        return self.history.groups_of_account(self.observed.account)


def terms_of(intent: Intent) -> CopiedOrder:
    """What a drop copy has to tell of the order, but for its group's id, which no caller chooses."""
    return CopiedOrder(
        intent.client_order_id,
        intent.symbol,
        intent.side,
        intent.type,
        intent.quantity,
        intent.price,
        intent.stop_price,
    )
