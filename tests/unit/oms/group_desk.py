"""Submissions of groups on a ledger in memory, with a risk and a venue that a test scripts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal

from services.instruments import DEFAULT_INSTRUMENTS, instruments_of
from services.ledger.account import Account
from services.ledger.commands import Approved, Refused, ReserveGroup
from services.ledger.order import Order
from services.oms.order_entry import OrderEntry
from services.oms.outcomes import Outcome, SubmissionRecord
from services.oms.risk_client import Answer
from services.oms.submit import SubmitRules, Submitter
from services.oms.submit_group import GroupSubmitter
from services.runtime.clock import SystemClock
from services.runtime.errors import AlreadyExists
from tests.unit.oms.memory import MemoryLedger, ScriptedRisk, ScriptedVenue, approve, deny, reserve_response
from trade2026.oms.v1 import order_pb2
from trade2026.risk.v1 import risk_pb2
from trade2026.type.v1 import order_pb2 as type_pb2

Ask = Callable[[], order_pb2.SubmitOrderGroupRequest]

PROTECTION = Decimal(43000)
"""Price that risk protects every order with."""

ENTRY = OrderEntry(instruments_of(DEFAULT_INSTRUMENTS), ["market", "limit", "stop"], 300, 10)


def asked(
    side: str, client_order_id: str = "", price: str = "45000", quantity: str = "0.1"
) -> order_pb2.SubmitOrderRequest:
    request = order_pb2.SubmitOrderRequest(
        account="desk",
        symbol="BTCUSDT",
        side=type_pb2.SIDE_BUY if side == "buy" else type_pb2.SIDE_SELL,
        client_order_id=client_order_id,
    )
    request.quantity.value = quantity
    request.price.value = price
    return request


def pair(*names: str, price: str = "46000") -> order_pb2.SubmitOrderGroupRequest:
    first, second = names or ("", "")
    return order_pb2.SubmitOrderGroupRequest(
        kind=order_pb2.GROUP_KIND_OCO, orders=[asked("sell", first, price), asked("sell", second, "44000")]
    )


def bracket(*names: str) -> order_pb2.SubmitOrderGroupRequest:
    first, second, third = names or ("", "", "")
    return order_pb2.SubmitOrderGroupRequest(
        kind=order_pb2.GROUP_KIND_BRACKET,
        orders=[asked("buy", first), asked("sell", second, "46000"), asked("sell", third, "44000")],
    )


def _protected(approved: Approved | Refused) -> Approved:
    assert isinstance(approved, Approved)
    return replace(approved, terms=replace(approved.terms, protection_price=PROTECTION))


@dataclass
class Desk:
    groups: GroupSubmitter
    submitter: Submitter
    ledger: MemoryLedger
    risk: ScriptedRisk
    venue: ScriptedVenue
    asked: list[ReserveGroup]
    refused: bool = False

    def _assess(self, account: Account, orders: tuple[Order, ...]) -> tuple[Approved, ...] | Refused:
        if self.refused:
            refusal = deny(account, orders[0])
            assert isinstance(refusal, Refused)
            return refusal
        return tuple(_protected(approve(account, one)) for one in orders)

    def reserve(self, request: risk_pb2.ReserveRequest) -> Answer:
        """What a healthy risk does: the reservation in the ledger, and its outcome."""
        requests = [request, *request.group.orders]
        kinds = {
            risk_pb2.RESERVE_GROUP_KIND_OCO: order_pb2.GROUP_KIND_OCO,
            risk_pb2.RESERVE_GROUP_KIND_BRACKET: order_pb2.GROUP_KIND_BRACKET,
        }
        group = order_pb2.SubmitOrderGroupRequest(kind=kinds[request.group.kind])
        for one in requests:
            added = group.orders.add(
                account=one.account,
                symbol=one.symbol,
                side=one.side,
                quantity=one.quantity,
                client_order_id=one.client_order_id,
            )
            added.price.CopyFrom(one.price)
        ids = {read.order_id: one for read, one in zip(self._read(group), requests, strict=True)}
        orders = tuple(
            replace(
                read,
                order_id=ids[read.order_id].order_id,
                digest=ids[read.order_id].digest,
                group=replace(
                    read.group,
                    group_id=ids[read.group.group_id].order_id,
                    linked=tuple(ids[name].order_id for name in read.group.linked),
                ),
            )
            for read in self._last
            if read.group is not None
        )
        command = ReserveGroup(orders, self._assess)
        self.asked.append(command)
        outcome = self.ledger.apply(command)
        if outcome.effect == "conflict":
            raise AlreadyExists("the client order id belongs to an order with other terms")
        response = reserve_response(outcome)
        for place, order in enumerate(outcome.orders):
            told = response.group.add(approved=True, order_id=order.order_id) if place else response
            if order.terms.protection_price is not None:
                told.protection_price.value = str(order.terms.protection_price)
        return Answer(response, 1.0)

    def _read(self, group: order_pb2.SubmitOrderGroupRequest) -> tuple[Order, ...]:
        self._last = ENTRY.read_group(group, 1)
        return self._last

    async def submit(self, request: order_pb2.SubmitOrderGroupRequest) -> tuple[Outcome, ...]:
        return await asyncio.shield(self.groups.begin(request))

    @property
    def states(self) -> list[str]:
        return [one.state.value for one in self.ledger.orders.values()]

    @property
    def held(self) -> Decimal:
        position = self.ledger.accounts["desk"].position("BTCUSDT")
        return position.open_buy + position.open_sell


def make_desk(*, fail_closed: bool = True, enabled: bool = True) -> Desk:
    clock = SystemClock()
    ledger = MemoryLedger(clock)
    risk = ScriptedRisk(ledger)
    venue = ScriptedVenue()
    record, rules = SubmissionRecord(10_000, 10_000), SubmitRules(fail_closed, 10)
    used = risk if enabled else None
    submitter = Submitter(ENTRY, used, ledger, venue, lambda: True, record, rules, clock)
    groups = GroupSubmitter(submitter, ENTRY, used, ledger, venue, record, rules, clock)
    desk = Desk(groups, submitter, ledger, risk, venue, [])
    risk.script = desk.reserve
    return desk
