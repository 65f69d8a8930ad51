"""The life of orders as a state machine against the real store, with two workers and a plain model beside it.

Hypothesis chooses what happens, to which order and through which worker, and shrinks what goes wrong to the
shortest story. The model knows an order's states from the field's own rules, not from our table.
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from services.ledger.commands import Command, Effect, Outcome, ReportKind
from services.ledger.continuity import NoJournal
from services.ledger.ledger import Ledger, LedgerOptions
from services.ledger.order import Order
from services.ledger.registry import MemoryAccountRegistry
from services.runtime.clock import SystemClock
from services.runtime.local_stack import ValkeyServer
from tests.support import unique_account
from tests.unit.ledger.making import (
    SYMBOL,
    abandon,
    fill,
    make_order,
    refuse,
    report,
    request_cancel,
    reserve,
)

OPEN = frozenset({"pending_new", "new", "partially_filled", "pending_cancel"})
QUANTITIES = st.sampled_from([Decimal(1), Decimal("0.5"), Decimal(2), Decimal("0.000000000000000001")])
WORKERS = st.integers(0, 1)


@dataclass
class Expected:
    """An order as it has to be."""

    order: Order
    state: str
    executed: Decimal = Decimal(0)
    cancels: int = 0

    @property
    def open(self) -> bool:
        return self.state in OPEN

    @property
    def leaves(self) -> Decimal:
        return max(Decimal(0), self.order.terms.quantity - self.executed) if self.open else Decimal(0)

    @property
    def told(self) -> str:
        """The state under its public name."""
        return "canceled" if self.state == "given_up" else self.state

    @property
    def working(self) -> str:
        return "partially_filled" if self.executed else "new"


class OrderMachine(RuleBasedStateMachine):
    """One account."""

    url = ""
    orders = Bundle("orders")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.account = unique_account()
        self.expected: dict[str, Expected] = {}
        self.position = Decimal(0)
        self.sequence = itertools.count(1)
        self.reported: list[Command] = []
        registry = MemoryAccountRegistry()
        self.workers = [self.runner.run(self._opened(registry)) for _ in range(2)]

    async def _opened(self, registry: MemoryAccountRegistry) -> Ledger:
        return await Ledger.open(LedgerOptions(url=self.url), registry, NoJournal(), SystemClock())

    def teardown(self) -> None:
        for worker in self.workers:
            self.runner.run(worker.close())
        self.runner.close()

    def run(self, worker: int, command: Command) -> Outcome:
        return self.runner.run(self.workers[worker].execute(command, timeout=5.0))

    def report(self, worker: int, command: Command) -> Outcome:
        self.reported.append(command)
        return self.run(worker, command)

    @rule(target=orders, worker=WORKERS, quantity=QUANTITIES)
    def reserve(self, worker: int, quantity: Decimal) -> Order:
        order = make_order(self.account, quantity)
        outcome = self.run(worker, reserve(order))
        assert outcome.effect is Effect.DONE
        self.expected[order.order_id] = Expected(order, "pending_new")
        return order

    @rule(target=orders, worker=WORKERS)
    def deny(self, worker: int) -> Order:
        order = make_order(self.account)
        assert self.run(worker, reserve(order, refuse)).effect is Effect.DONE
        self.expected[order.order_id] = Expected(order, "denied")
        return order

    @rule(order=orders, worker=WORKERS)
    def reserve_again(self, order: Order, worker: int) -> None:
        outcome = self.run(worker, reserve(order))
        assert outcome.effect is Effect.REPEATED
        assert outcome.state == self.expected[order.order_id].told

    @rule(target=orders, order=orders, worker=WORKERS, same=st.booleans())
    def another_under_its_client_id(self, order: Order, worker: int, same: bool) -> object:
        """Refused or answered with the first, unless that was given up: then the id is free again."""
        digest = order.digest if same else "another"
        again = make_order(self.account, client_order_id=order.client_order_id, digest=digest)
        outcome = self.run(worker, reserve(again))
        holders = [
            held
            for held in self.expected.values()
            if held.order.client_order_id == order.client_order_id and held.state != "given_up"
        ]
        if not holders:
            assert outcome.effect is Effect.DONE
            self.expected[again.order_id] = Expected(again, "pending_new")
            return again
        (holder,) = holders
        repeated = holder.order.digest == digest
        assert outcome.effect is (Effect.REPEATED if repeated else Effect.CONFLICT)
        assert outcome.order is not None
        assert outcome.order.order_id == holder.order.order_id
        return multiple()

    @rule(order=orders, worker=WORKERS)
    def give_up(self, order: Order, worker: int) -> None:
        expected = self.expected[order.order_id]
        effect = self.run(worker, abandon(order)).effect
        assert effect is (Effect.DONE if expected.state == "pending_new" else Effect.REPEATED)
        if expected.state == "pending_new":
            expected.state = "given_up"

    @rule(order=orders, worker=WORKERS, again=st.booleans())
    def cancel(self, order: Order, worker: int, again: bool) -> None:
        expected = self.expected[order.order_id]
        effect = self.run(worker, request_cancel(order, again=again)).effect
        if not expected.open:
            assert effect is Effect.NOT_OPEN
        elif expected.state == "pending_cancel" and not again:
            assert effect is Effect.REPEATED
        else:
            assert effect is Effect.DONE
            expected.state = "pending_cancel"
            expected.cancels += 1

    @rule(order=orders, worker=WORKERS, share=st.sampled_from([Decimal("0.5"), Decimal(1), Decimal(2)]))
    def trade(self, order: Order, worker: int, share: Decimal) -> None:
        """Of what is left, all of it, too much, or of an order that has ended: the venue is always right."""
        expected = self.expected[order.order_id]
        quantity = max(
            Decimal("0.000000000000000001"), (order.terms.quantity * share).quantize(Decimal("1e-18"))
        )
        self.report(worker, fill(order, next(self.sequence), quantity))
        self.position += quantity
        expected.executed += quantity
        if expected.open and expected.executed >= order.terms.quantity:
            expected.state = "filled"
        elif expected.state in ("pending_new", "new"):
            expected.state = "partially_filled"

    @rule(order=orders, worker=WORKERS)
    def accept(self, order: Order, worker: int) -> None:
        self.report(worker, report(ReportKind.ACCEPTED, order, next(self.sequence)))
        expected = self.expected[order.order_id]
        if expected.state == "pending_new":
            expected.state = "new"

    @rule(
        order=orders,
        worker=WORKERS,
        kind=st.sampled_from([ReportKind.CANCELED, ReportKind.REJECTED, ReportKind.EXPIRED]),
    )
    def end(self, order: Order, worker: int, kind: ReportKind) -> None:
        self.report(worker, report(kind, order, next(self.sequence)))
        expected = self.expected[order.order_id]
        if expected.open:
            expected.state = kind.value

    @rule(order=orders, worker=WORKERS)
    def refuse_cancel(self, order: Order, worker: int) -> None:
        self.report(worker, report(ReportKind.CANCEL_REJECTED, order, next(self.sequence)))
        expected = self.expected[order.order_id]
        if expected.state == "pending_cancel":
            expected.state = expected.working

    @precondition(lambda self: self.reported)
    @rule(worker=WORKERS, choice=st.randoms(use_true_random=False))
    def report_again(self, worker: int, choice: object) -> None:
        command = choice.choice(self.reported)  # type: ignore[attr-defined]
        assert self.run(worker, command).effect is Effect.REPEATED

    @invariant()
    def the_store_agrees(self) -> None:
        for worker in self.workers:
            account = self.runner.run(worker.account(self.account, fresh=True))
            if account is None:
                assert not self.expected
                continue
            held = account.position(SYMBOL)
            assert held.quantity == self.position
            assert held.open_buy == sum((one.leaves for one in self.expected.values()), Decimal(0))
            assert account.open_orders == sum(one.open for one in self.expected.values())
        for order_id, expected in self.expected.items():
            stored = self.runner.run(self.workers[0].order(order_id))
            assert stored is not None
            assert (stored.state, stored.cumulative, stored.leaves, stored.cancels) == (
                expected.told,
                expected.executed,
                expected.leaves,
                expected.cancels,
            )


@pytest.mark.timeout(120)
def test_every_story_of_orders_leaves_the_store_as_the_model(valkey_server: ValkeyServer) -> None:
    machine = type("Machine", (OrderMachine,), {"url": valkey_server.url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=15, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
