"""Ended orders in QuestDB: found whole by their id, and in pages without gap or repetition."""

from __future__ import annotations

import random
from dataclasses import replace
from decimal import Decimal

from ulid import ULID

from services.ledger.order import Order, OrderState
from services.questdb.order_archive import OrderArchive
from services.runtime.ids import new_order_id
from services.runtime.local_stack import QuestDbServer
from tests.integration.questdb.support import pool_of
from tests.unit.ledger.making import make_order


def an_order(account: str, state: OrderState = OrderState.FILLED, order_id: str = "") -> Order:
    order = make_order(account, "1.000000000000000001", order_id=order_id or new_order_id(account))
    return replace(order, state=state, fees=Decimal("0.1"), message='a "message"', exec_ids=("e1",))


async def pages(archive: OrderArchive, account: str, size: int, state: OrderState | None = None) -> list[str]:
    seen: list[str] = []
    before = ""
    while True:
        page = await archive.page(account, state, before, size)
        seen += [order.order_id for order in page]
        if len(page) < size:
            return seen
        before = seen[-1]


async def test_an_order_is_found_whole_by_its_id(empty_questdb: QuestDbServer, account: str) -> None:
    async with pool_of(empty_questdb) as pool:
        archive = OrderArchive(pool)
        assert await archive.find(new_order_id(account)) is None
        order = an_order(account)
        await archive.store([order])
        await archive.store([order])
        assert await archive.find(order.order_id) == order
        assert await archive.find(new_order_id(account)) is None
        later = replace(order, cumulative=Decimal(2))
        await archive.store([later])
        assert await archive.find(order.order_id) == later


async def test_pages_hold_every_order_once_even_of_one_moment(
    empty_questdb: QuestDbServer, account: str
) -> None:
    async with pool_of(empty_questdb) as pool:
        archive = OrderArchive(pool)
        first = 1_700_000_000_000
        chance = random.Random(7)
        # Thousands in three milliseconds: many share a microsecond.
        moments = [(first + number % 3).to_bytes(6) for number in range(4_000)]
        ids = [f"{account}-{ULID.from_bytes(moment + chance.randbytes(10))}" for moment in moments]
        orders = [
            an_order(account, OrderState.FILLED if number % 2 else OrderState.CANCELED, order_id)
            for number, order_id in enumerate(ids)
        ]
        chance.shuffle(orders)
        await archive.store([*orders, *(an_order(f"{account}_other") for _ in range(50))])
        assert await pages(archive, account, 70) == sorted(ids, reverse=True)
        filled = sorted((one.order_id for one in orders if one.state is OrderState.FILLED), reverse=True)
        assert await pages(archive, account, 999, OrderState.FILLED) == filled
        assert await pages(archive, f"{account}_nobody", 10) == []
