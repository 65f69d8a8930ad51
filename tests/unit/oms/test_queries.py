"""Orders are looked for where they can be, whatever the clocks of the workers say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from services.ledger.order import Order, OrderState
from services.ledger.reading import OrderPage
from services.oms.queries import CLOCK_DIFFERENCE_SEC, Queries
from services.runtime.clock import ManualClock
from services.runtime.errors import NotFound
from services.runtime.ids import created_ms
from tests.unit.ledger.making import make_order
from trade2026.oms.v1 import order_pb2
from trade2026.type.v1.order_pb2 import ORDER_STATE_FILLED

KEPT_SEC = 120.0


class Ledger:
    """Has only what is in it still."""

    def __init__(self, held: tuple[Order, ...] = ()) -> None:
        self.held = held

    async def account(self, account: str, *, fresh: bool = False) -> None:
        return None

    async def order(self, order_id: str) -> Order | None:
        return next((one for one in self.held if one.order_id == order_id), None)

    async def orders(self, account: str, **_: Any) -> OrderPage:
        return OrderPage(self.held, "")

    async def order_by_client_id(self, account: str, client_order_id: str) -> Order | None:
        return None


class Archive:
    """Has ended orders, and counts how often it is asked."""

    def __init__(self, *orders: Order) -> None:
        self.orders = orders
        self.asked = 0

    async def find(self, order_id: str) -> Order | None:
        self.asked += 1
        return next((one for one in self.orders if one.order_id == order_id), None)

    async def page(self, account: str, state: OrderState | None, before: str, limit: int) -> list[Order]:
        self.asked += 1
        return list(self.orders)


def filled() -> Order:
    return replace(make_order("a"), state=OrderState.FILLED)


def asked_after(age_sec: float, order: Order, archive: Archive, ledger: Ledger | None = None) -> Queries:
    """Queries of a worker by whose clock the order is so old."""
    clock = ManualClock(round((created_ms(order.order_id) / 1000 + age_sec) * 1e9))
    return Queries(ledger or Ledger(), cast(Any, None), cast(Any, archive), KEPT_SEC, clock)


@pytest.mark.parametrize(
    "age_sec", [-300, -1, KEPT_SEC - CLOCK_DIFFERENCE_SEC + 1, KEPT_SEC - 1, KEPT_SEC + 1]
)
async def test_an_order_that_has_left_the_ledger_is_found_by_a_worker_whose_clock_differs(
    age_sec: float,
) -> None:
    order = filled()
    found = await asked_after(age_sec, order, Archive(order)).order(order.order_id)
    assert found.state == ORDER_STATE_FILLED


async def test_an_order_that_is_too_young_to_have_left_the_ledger_is_not_looked_for_elsewhere() -> None:
    archive = Archive()
    with pytest.raises(NotFound):
        await asked_after(1, filled(), archive).order(filled().order_id)
    order = filled()
    with pytest.raises(NotFound):
        await asked_after(KEPT_SEC - CLOCK_DIFFERENCE_SEC - 1, order, archive).order(order.order_id)
    assert archive.asked == 0


async def test_a_full_page_of_the_ledger_hides_no_order_that_has_left_it() -> None:
    # Both look as if they could not have left, by a clock that is behind; the newer one has.
    held, left = sorted((filled(), filled()), key=lambda one: one.order_id)
    queries = asked_after(KEPT_SEC - 1, held, Archive(left), Ledger((held,)))
    page = await queries.orders(order_pb2.ListOrdersRequest(account="a", page_size=1))
    assert [one.order_id for one in page.orders] == [left.order_id]
    assert page.next_page_token == left.order_id
