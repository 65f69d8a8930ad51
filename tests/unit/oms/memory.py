"""The ledger's own rules on a dictionary, and scripted neighbours, for tests of every interleaving."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal

from services.ledger.account import Account
from services.ledger.commands import (
    Abandon,
    AbandonGroup,
    Approved,
    Command,
    Effect,
    Open,
    Outcome,
    Refused,
    Register,
    Reserve,
    ReserveGroup,
)
from services.ledger.numbers import ZERO
from services.ledger.order import Order, OrderState, Reservation, Terms
from services.ledger.transition import named_order, transition
from services.oms.risk_client import Answer
from services.oms.wire import REASONS, STATES
from services.runtime.clock import Clock
from trade2026.risk.v1 import risk_pb2

_PASSING = frozenset({"risk_timeout", "risk_error", "not_published", "ledger_unavailable"})


class MemoryLedger:
    """Accounts in memory. `fail` is asked before and after each command; what it raises is raised."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.accounts: dict[str, Account] = {}
        self.orders: dict[str, Order] = {}
        self.before: Callable[[Command], None] = lambda _: None
        self.after: Callable[[Command], None] = lambda _: None
        self.commands: list[Command] = []

    def apply(self, command: Command) -> Outcome:
        """Runs a command as the ledger would."""
        account = self.accounts.get(command.account)
        if account is None:
            opened = transition(None, None, Open(command.account, "i", Decimal(100_000)), 1)
            assert opened.account is not None
            account = replace(opened.account, registered=True)
        known = self.orders.get(named_order(command))
        if known is None and isinstance(command, Reserve | Abandon) and command.order.client_order_id:
            known = self._holder(command.order)
        step = transition(account, known, command, self._clock.now_ns(), self._others(command, known))
        assert step.account is not None
        self.accounts[command.account] = step.account
        self.orders.update(step.orders)
        return step.outcome

    def _others(self, command: Command, known: Order | None) -> dict[str, Order]:
        if isinstance(command, ReserveGroup | AbandonGroup):
            found = {
                order.order_id: self.orders.get(order.order_id)
                or (self._holder(order) if order.client_order_id else None)
                for order in command.orders
            }
            return {order_id: order for order_id, order in found.items() if order is not None}
        if known is None or known.group is None:
            return {}
        return {name: self.orders[name] for name in known.group.linked}

    def _holder(self, order: Order) -> Order | None:
        same = [
            held
            for held in self.orders.values()
            if (held.account, held.client_order_id) == (order.account, order.client_order_id)
        ]
        for held in same:
            if held.reason not in _PASSING:
                return held
        # One that was given up holds it against older orders.
        return next((held for held in reversed(same) if held.order_id > order.order_id), None)

    async def execute(self, command: Command, timeout: float = 1.0) -> Outcome:
        await asyncio.sleep(0)
        self.commands.append(command)
        if not isinstance(command, Register):
            self.before(command)
        outcome = self.apply(command)
        if not isinstance(command, Register):
            self.after(command)
        return outcome

    async def order(self, order_id: str) -> Order | None:
        await asyncio.sleep(0)
        return self.orders.get(order_id)

    async def open_orders(self, account: str) -> tuple[Order, ...]:
        await asyncio.sleep(0)
        return tuple(o for o in self.orders.values() if o.account == account and o.is_open)

    async def order_by_client_id(self, account: str, client_order_id: str) -> Order | None:
        for held in self.orders.values():
            if (held.account, held.client_order_id) == (account, client_order_id):
                return held
        return None

    def cached(self, account: str) -> Account | None:
        return self.accounts.get(account)


def approve(account: Account, order: Order) -> Approved | Refused:
    return Approved(Reservation(order.terms.quantity, Decimal(1), ZERO, ZERO), order.terms)


def deny(account: Account, order: Order) -> Approved | Refused:
    return Refused("order_size_limit", "too large")


class ScriptedRisk:
    """Risk that does with each request what the test says."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger
        self.reachable = True
        self.requests: list[risk_pb2.ReserveRequest] = []
        self.script: Callable[[risk_pb2.ReserveRequest], Answer] = lambda _: Answer(
            risk_pb2.ReserveResponse(approved=True), 1.0
        )

    def reserve(self, request: risk_pb2.ReserveRequest) -> asyncio.Future[Answer]:
        self.requests.append(request)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        try:
            future.set_result(self.script(request))
        except Exception as error:
            future.set_exception(error)
        return future


def reserve_response(outcome: Outcome) -> risk_pb2.ReserveResponse:
    """What risk answers when a reservation came to `outcome`."""
    held = outcome.order
    assert held is not None
    response = risk_pb2.ReserveResponse(
        approved=held.state is not OrderState.DENIED,
        order_id=held.order_id,
        state=STATES[held.state],
        repeated=outcome.effect is Effect.REPEATED,
    )
    if held.state is OrderState.DENIED:
        response.reason, response.message = REASONS[held.reason], held.message
    return response


class ScriptedVenue:
    """The way to the venue: what was sent, and what each sending raises first."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        """Order ids of new orders; amendments as `<order id> <revision> <quantity> <price>`."""
        self.payloads: list[bytes] = []
        """Messages of new orders."""
        self.protections: list[Decimal | None] = []
        """Protection prices of new orders; of a pair both."""
        self.raises: list[Exception | None] = []
        self.acknowledges = asyncio.Event()
        """New orders wait for it."""
        self.acknowledges.set()

    def new_order(self, order: Order, protection_price: Decimal | None) -> bytes:
        self.protections.append(protection_price)
        return order.order_id.encode()

    def new_pair(self, first: Order, second: Order) -> bytes:
        self.protections += (first.terms.protection_price, second.terms.protection_price)
        return f"{first.order_id} {second.order_id}".encode()

    async def send_new(self, order: Order, payload: bytes) -> object:
        await self.acknowledges.wait()
        self.payloads.append(payload)
        return await self._send(order.order_id)

    async def send_replace(self, order: Order, revision: int, terms: Terms) -> object:
        return await self._send(f"{order.order_id} {revision} {terms.quantity} {terms.price}")

    async def send_activated(self, orders: Sequence[Order]) -> object:
        return await self._send(" ".join(order.order_id for order in orders) + " activated")

    async def send_cancel(self, order: Order) -> object:
        return await self._send(f"{order.order_id} cancel {order.cancels}")

    async def _send(self, what: str) -> object:
        await asyncio.sleep(0)
        self.sent.append(what)
        error = self.raises.pop(0) if self.raises else None
        if error is not None:
            raise error
        return None
