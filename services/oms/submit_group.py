"""Orders that are submitted together, on their way to the venue: reserve, publish, answer, all or none.

The invariants are those of single orders (`submit`). Two orders of which one cancels the other leave in one
message. Of a bracket only the entry leaves; its exits are sent by the owner of the partition once the ledger
has activated them.
"""

import asyncio
import time
from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from services.ledger.commands import AbandonGroup, ReserveGroup
from services.ledger.errors import LedgerUnavailable
from services.ledger.order import GroupRole, Order, OrderState
from services.ledger.values import replace
from services.oms.earlier import Repeated
from services.oms.order_entry import OrderEntry
from services.oms.outcomes import (
    Outcome,
    Outcomes,
    OutcomeUnknown,
    Rejected,
    SubmissionRecord,
    Submitted,
)
from services.oms.risk_client import Answer, ReservationUnknown, RiskUnreachable
from services.oms.submit import Ledger, Reservations, Sender, SubmitRules, Submitter
from services.oms.unchecked import unchecked_group
from services.oms.wire import REASON_NAMES
from services.runtime.clock import Clock
from trade2026.oms.v1 import order_pb2
from trade2026.risk.v1 import risk_pb2

Orders = tuple[Order, ...]

_NO_ACCOUNT: Final = "the account cannot be read or opened; nothing was reserved"


class GroupSubmitter:
    """Submits groups; one a worker."""

    def __init__(
        self,
        submitter: Submitter,
        entry: OrderEntry,
        risk: Reservations | None,
        ledger: Ledger,
        dispatch: Sender,
        record: SubmissionRecord,
        rules: SubmitRules,
        clock: Clock,
    ) -> None:
        """What groups have in common with single orders is `submitter`'s to do."""
        self._submitter = submitter
        self._earlier = submitter.earlier
        self._entry = entry
        self._risk = risk
        self._ledger = ledger
        self._dispatch = dispatch
        self._record = record
        self._rules = rules
        self._clock = clock
        self._assess = unchecked_group(rules.max_open_orders)

    def begin(self, request: order_pb2.SubmitOrderGroupRequest) -> "asyncio.Task[Outcomes]":
        """Starts a submission; the task has one outcome an order. Otherwise as `Submitter.begin`."""
        started = time.perf_counter()
        self._submitter.require_ready()
        orders = self._entry.read_group(request, self._clock.now_ns())
        group_id = orders[0].order_id
        task = self._submitter.own(self._submit(orders, request, started), group_id)
        self._earlier.note_group_begun(group_id, task)
        return task

    async def _submit(
        self, orders: Orders, request: order_pb2.SubmitOrderGroupRequest, started: float
    ) -> Outcomes:
        told: Sequence[Outcome | Exception] = ()
        try:
            outcomes = await self._carry_out(orders, request)
            told = outcomes
            return outcomes
        except Exception as error:
            told = [error] * len(orders)
            raise
        finally:
            latency_ms = (time.perf_counter() - started) * 1000
            for order, outcome in zip(orders, told, strict=False):
                self._record.answered(order, latency_ms, outcome)

    async def _carry_out(self, orders: Orders, request: order_pb2.SubmitOrderGroupRequest) -> Outcomes:
        try:
            if not await self._submitter.open_account(orders[0].account):
                return await self._denied(orders, "ledger_unavailable", _NO_ACCOUNT)
            if self._risk is None:
                return await self._reserve_unchecked(orders, "risk_service.enabled is false")
            sent = time.perf_counter()
            try:
                answer = await self._risk.reserve(self._entry.group_reservation(orders, request))
            except (ReservationUnknown, RiskUnreachable) as failure:
                self._note_check(orders, "unknown", (time.perf_counter() - sent) * 1000, failure.reason)
                return await self._without_answer(orders, failure)
            return await self._on_answer(orders, answer)
        except Repeated as repeated:
            return await self._earlier.group_outcomes(repeated.order, orders)

    async def _on_answer(self, orders: Orders, answer: Answer) -> Outcomes:
        response = answer.response
        if response.order_id not in {order.order_id for order in orders}:
            self._note_check(orders, "repeated", answer.latency_ms)
            raise Repeated(await self._earlier.read(response.order_id, *orders))
        if not response.approved:
            reason = REASON_NAMES.get(response.reason, "risk_check_failed")
            self._note_check(orders, "denied", answer.latency_ms, reason)
            if reason == "ledger_unavailable":
                return await self._denied(orders, reason, response.message)
            return _rejected(orders, reason, response.message)
        self._note_check(orders, "approved", answer.latency_ms)
        answers = [response, *response.group]
        return await self._publish(tuple(map(_protected, orders, answers)))

    async def _without_answer(
        self, orders: Orders, failure: ReservationUnknown | RiskUnreachable
    ) -> Outcomes:
        if not self._rules.fail_closed:
            return await self._reserve_unchecked(orders, failure.reason)
        if isinstance(failure, RiskUnreachable):
            return await self._denied(orders, failure.reason, failure.message)
        return await self._withdraw(orders, failure.reason, failure.message)

    async def _reserve_unchecked(self, orders: Orders, why: str) -> Outcomes:
        asked = tuple(replace(order, unchecked=True) for order in orders)
        try:
            outcome = await self._submitter.settled_outcome(ReserveGroup(asked, self._assess), orders[0])
        except LedgerUnavailable:
            return await self._denied(orders, "ledger_unavailable", _NO_ACCOUNT)
        # Risk may have reserved them after all: then they are checked, and have its protection prices.
        stored = outcome.orders
        first = stored[0]
        if not any(order.is_open for order in stored):
            return _rejected(orders, first.reason, first.message)
        for order in stored:
            if order.unchecked:
                self._record.unchecked(order, why)
        if first.state is not OrderState.PENDING_NEW:
            raise OutcomeUnknown(orders[0], f"order {first.order_id} is {first.state}")
        return await self._publish(stored)

    async def _publish(self, orders: Orders) -> Outcomes:
        first = orders[0]
        paired = first.group is not None and first.group.role is GroupRole.LEG
        payload = (
            self._dispatch.new_pair(first, orders[1])
            if paired
            else self._dispatch.new_order(first, first.terms.protection_price)
        )
        refused = await self._submitter.publish(
            first, payload, lambda reason, message: self._withdraw(orders, reason, message)
        )
        if refused is not None:
            return refused
        return tuple(Submitted(order.order_id, order.client_order_id) for order in orders)

    async def _withdraw(self, orders: Orders, reason: str, message: str) -> Outcomes:
        """Gives up a group that is certainly not published, reserved or not."""
        held = await self._submitter.settled(AbandonGroup(orders, reason, message), orders[0])
        if held.is_open:
            # Not this submission's doing, which has published nothing: the sweeper is canceling it.
            raise OutcomeUnknown(orders[0], f"order {held.order_id} is {held.state}")
        return _rejected(orders, held.reason, held.message)

    async def _denied(self, orders: Orders, reason: str, message: str) -> Outcomes:
        """Rejects a group of which nothing was reserved, and of which the ledger was not asked."""
        await self._submitter.require_unknown(orders, AbandonGroup(orders, reason, message))
        return _rejected(orders, reason, message)

    def _note_check(self, orders: Orders, verdict: str, latency_ms: float, reason: str = "") -> None:
        for order in orders:
            self._record.risk_check(order, verdict, latency_ms, reason)


def _rejected(orders: Orders, reason: str, message: str) -> Outcomes:
    return tuple(Rejected(order.order_id, order.client_order_id, reason, message) for order in orders)


def _protected(order: Order, answer: risk_pb2.ReserveResponse) -> Order:
    """The order with the worst price at which the venue may fill it, if risk gave one."""
    if not answer.HasField("protection_price"):
        return order
    price = Decimal(answer.protection_price.value)
    return replace(order, terms=replace(order.terms, protection_price=price))
