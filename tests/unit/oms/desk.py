"""Submissions on a ledger in memory, with a risk and a venue that a test scripts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from services.instruments import DEFAULT_INSTRUMENTS, instruments_of
from services.ledger.commands import Reserve
from services.ledger.order import Order
from services.oms.order_entry import OrderEntry
from services.oms.outcomes import Rejected, SubmissionRecord, Submitted
from services.oms.risk_client import Answer
from services.oms.submit import SubmitRules, Submitter
from services.runtime.clock import SystemClock
from tests.unit.oms.memory import MemoryLedger, ScriptedRisk, ScriptedVenue, approve, reserve_response
from trade2026.oms.v1 import order_pb2
from trade2026.risk.v1 import risk_pb2
from trade2026.type.v1 import order_pb2 as type_pb2


@dataclass
class Desk:
    submitter: Submitter
    ledger: MemoryLedger
    risk: ScriptedRisk
    venue: ScriptedVenue
    connected: list[bool]

    def reserve(self, request: risk_pb2.ReserveRequest, assess: Callable[..., object] = approve) -> Answer:
        """What a healthy risk does: the reservation in the ledger, and its outcome."""
        order = self.order_of(request)
        outcome = self.ledger.apply(Reserve(order, assess))  # type: ignore[arg-type]
        return Answer(reserve_response(outcome), 1.0)

    def order_of(self, request: risk_pb2.ReserveRequest) -> Order:
        entry = OrderEntry(instruments_of(DEFAULT_INSTRUMENTS), ["limit"], 300, 10)
        asked = order_pb2.SubmitOrderRequest(
            account=request.account, symbol=request.symbol, side=request.side, quantity=request.quantity
        )
        asked.price.CopyFrom(request.price)
        asked.client_order_id = request.client_order_id
        return replace(entry.read(asked, 1), order_id=request.order_id, digest=request.digest)

    async def submit(self, client_order_id: str = "", quantity: str = "0.1") -> Submitted | Rejected:
        return await asyncio.shield(self.submitter.begin(buy(client_order_id, quantity)))


def buy(client_order_id: str = "", quantity: str = "0.1") -> order_pb2.SubmitOrderRequest:
    request = order_pb2.SubmitOrderRequest(
        account="desk", symbol="BTCUSDT", side=type_pb2.SIDE_BUY, client_order_id=client_order_id
    )
    request.quantity.value = quantity
    request.price.value = "45000"
    return request


def make_desk(*, fail_closed: bool = True, enabled: bool = True) -> Desk:
    clock = SystemClock()
    ledger = MemoryLedger(clock)
    risk = ScriptedRisk(ledger)
    venue = ScriptedVenue()
    connected = [True]
    submitter = Submitter(
        OrderEntry(instruments_of(DEFAULT_INSTRUMENTS), ["limit", "market"], 300, 10),
        risk if enabled else None,
        ledger,
        venue,
        lambda: connected[0],
        SubmissionRecord(10_000, 10_000),
        SubmitRules(fail_closed, 10),
        clock,
    )
    desk = Desk(submitter, ledger, risk, venue, connected)
    risk.script = desk.reserve
    return desk


def only_order(desk: Desk) -> Order:
    (order,) = desk.ledger.orders.values()
    return order


def open_orders(desk: Desk) -> int:
    return desk.ledger.accounts["desk"].open_orders
