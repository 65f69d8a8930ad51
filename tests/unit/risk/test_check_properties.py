"""What the checks promise together: at frozen marks, whatever subset of approved orders fills, no measure
ends above the larger of its limit and its value before.

Orders go through the ledger's own `transition`, so that what is reserved is what the account holds.
"""

from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.ledger.account import Account, Position
from services.ledger.commands import ApplyReport, Approved, Assess, Refused, ReportKind, Reserve
from services.ledger.order import Order, OrderState, OrderType, Side, Terms
from services.ledger.transition import transition
from services.risk.checks import (
    Candidate,
    Limits,
    Policy,
    Quote,
    Returns,
    SymbolExposure,
    appraise,
    evaluate,
    value_at_risk,
)
from services.risk.checks.case import Case
from tests.unit.risk import making
from tests.unit.risk.making import D

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
TOLERANCE = 1e-6
"""Of dollars, for value at risk: its returns are binary."""

# Few and round values, so that limits are often met exactly, exceeded by one, and crossed.
quantities = st.sampled_from([1, 2, 3, 5, 8]).map(D)
parts = st.sampled_from([D("0.8"), D("0.9"), D(1), D("1.1"), D("1.2")])
SLIPPAGE_PCT, FEE_PCT = "10", "1"


@dataclass
class World:
    """Frozen marks and returns, rules, and the account as orders and fills change it."""

    marks: dict[str, Decimal]
    daily: dict[str, Returns]
    rules: Policy
    state: Account
    working: list[Order] = field(default_factory=list)
    reports: int = 0

    def quote(self, symbol: str) -> Quote:
        return Quote(self.marks[symbol], fresh=True)

    def returns(self, symbol: str) -> Returns:
        return self.daily[symbol]

    def submit(self, order: Order) -> tuple[bool, bool]:
        """(approved, reducing)"""
        assess: Assess = self._assess
        reducing = Case(self.state, order, self, self.rules, 0, False).reducing
        step = transition(self.state, None, Reserve(order, assess), 1)
        assert step.account is not None
        assert step.outcome.order is not None
        self.state = step.account
        approved = step.outcome.order.state is OrderState.PENDING_NEW
        if approved:
            self.working.append(step.outcome.order)
        return approved, reducing

    def fill(self, order: Order, quantity: Decimal, price: Decimal) -> None:
        """At the worst fee that the checks counted on."""
        self.reports += 1
        fee = quantity * price * self.rules.worst_fee_pct * D("0.01")
        report = ApplyReport(
            account=self.state.account,
            stream_seq=self.reports,
            kind=ReportKind.FILL,
            order_id=order.order_id,
            exec_id=f"e{self.reports}",
            revision=0,
            reason="",
            venue_ns=0,
            symbol=order.symbol,
            side=order.side,
            quantity=quantity,
            price=price,
            fee=fee,
            liquidity="taker",
        )
        step = transition(self.state, order, report, 2)
        assert step.account is not None
        self.state = step.account

    def value(self, symbol: str) -> Decimal:
        return abs(self.state.position(symbol).quantity * self.marks[symbol])

    def equity(self) -> Decimal:
        held = self.state.positions.values()
        return self.state.cash + sum((p.quantity * self.marks[p.symbol] for p in held), D(0))

    def plain_var(self) -> float:
        lines = [
            (value, value, self.daily[p.symbol])
            for p in self.state.positions.values()
            if (value := float(p.quantity * self.marks[p.symbol]))
        ]
        return value_at_risk(lines, self.rules.var_confidence_level)

    def measures(self) -> "Measures":
        return Measures(
            {one.symbol: one for one in appraise(self.state, self.marks).symbols},
            appraise(self.state, self.marks).worst_equity,
        )

    def _assess(self, account: Account, order: Candidate) -> Approved | Refused:
        verdict = evaluate(account, order, self, self.rules)
        assert verdict.error is None, verdict.error
        return verdict.decision(order)


@dataclass
class Measures:
    exposures: dict[str, SymbolExposure]
    worst_equity: Decimal


@st.composite
def worlds(draw: Any) -> World:
    chosen = draw(st.lists(st.sampled_from(SYMBOLS), min_size=1, max_size=2, unique=True))
    marks = {symbol: D(draw(st.sampled_from([1, 2, 10]))) for symbol in chosen}
    changes = st.lists(st.sampled_from([-0.5, 0.0, 0.5]), min_size=3, max_size=3).map(tuple)
    daily = {symbol: Returns.of(1, draw(changes)) for symbol in chosen}
    held = [
        Position(symbol, D(draw(st.sampled_from([0, 5, -5, 3, -3, 8]))), last_price=marks[symbol])
        for symbol in chosen
    ]
    scale = max(marks.values())
    limits = Limits(
        max_order_size_usd=D(10_000),
        max_order_size_shares=D(8),
        max_position_size_usd=scale * draw(st.integers(2, 14)),
        max_concentration_pct=D(draw(st.sampled_from([25, 50, 100, 1000, 100_000]))),
        max_portfolio_var_usd=scale * draw(st.sampled_from([1, 2, 3, 4, 1000])),
        margin_requirement_pct=D(draw(st.sampled_from([0, 50, 100]))),
        max_deviation_pct=D(20),
    )
    rules = replace(
        making.policy(limits, worst_fee_pct=FEE_PCT, slippage_pct=SLIPPAGE_PCT, confidence="0.9"),
        allow_short=draw(st.booleans()),
    )
    cash = scale * draw(st.sampled_from([0, 5, 10, 20, 40, 1000]))
    return World(marks, daily, rules, making.account(cash, *held))


@st.composite
def orders(draw: Any, world: World) -> Order:
    symbol = draw(st.sampled_from(sorted(world.marks)))
    mark = world.marks[symbol]
    kind = draw(st.sampled_from([OrderType.LIMIT, OrderType.LIMIT, *OrderType]))
    near = parts.map(lambda part: mark * part)
    terms = Terms(
        draw(quantities),
        draw(near) if kind in (OrderType.LIMIT, OrderType.STOP_LIMIT) else None,
        draw(near) if kind in (OrderType.STOP, OrderType.STOP_LIMIT) else None,
        None,
    )
    made = making.order(draw(st.sampled_from(Side)), symbol=symbol, order_type=kind)
    return replace(made, terms=terms)


def fill_some(draw: Any, world: World) -> None:
    """Fills any part of any of the orders, each at the worst price that it allows, or at the mark."""
    filled = st.just(D(1)) if draw(st.booleans()) else st.sampled_from([D(0), D("0.5"), D(1)])
    for order in draw(st.permutations(world.working)):
        part = draw(filled)
        if not part:
            continue
        bound = order.terms.protection_price or order.terms.price
        assert bound is not None
        mark = world.marks[order.symbol]
        better = max(bound, mark) if order.side is Side.SELL else min(bound, mark)
        price = draw(st.sampled_from([bound, better]))
        world.fill(order, order.terms.quantity * part, price)


examples = settings(
    max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


@examples
@given(st.data())
def test_no_symbol_ends_above_the_larger_of_its_limits_and_its_value_before(data: st.DataObject) -> None:
    world = data.draw(worlds())
    before = {symbol: world.value(symbol) for symbol in world.marks}
    short_before = {symbol: min(D(0), world.state.position(symbol).quantity) for symbol in world.marks}
    allowed: dict[str, Decimal] = {}
    for _ in range(data.draw(st.integers(2, 8))):
        order = data.draw(orders(world))
        approved, reducing = world.submit(order)
        if approved and not reducing:
            # What concentration allowed when the symbol was last added to.
            percent = world.rules.limits.max_concentration_pct
            allowed[order.symbol] = percent * world.measures().worst_equity / 100

    fill_some(data.draw, world)

    for symbol in world.marks:
        after = world.value(symbol)
        assert after <= max(world.rules.limits.max_position_size_usd, before[symbol])
        assert after <= max(allowed.get(symbol, D(0)), before[symbol])
        if not world.rules.allow_short:
            assert world.state.position(symbol).quantity >= short_before[symbol]


@examples
@given(st.data())
def test_value_at_risk_ends_no_higher_than_the_limit_once_orders_that_do_not_reduce_are_approved(
    data: st.DataObject,
) -> None:
    world = data.draw(worlds())
    before = world.plain_var()
    for _ in range(data.draw(st.integers(2, 8))):
        order = data.draw(orders(world))
        if not Case(world.state, order, world, world.rules, 0, False).reducing:
            world.submit(order)

    fill_some(data.draw, world)

    limit = float(world.rules.limits.max_portfolio_var_usd)
    assert world.plain_var() <= max(limit, before) + TOLERANCE


@examples
@given(st.data())
def test_equity_never_ends_below_the_worst_equity_and_margin_is_covered(data: st.DataObject) -> None:
    world = data.draw(worlds())
    covered: Decimal | None = None
    for _ in range(data.draw(st.integers(2, 8))):
        approved, reducing = world.submit(data.draw(orders(world)))
        if approved and not reducing:
            covered = world.measures().worst_equity
    worst = world.measures().worst_equity

    fill_some(data.draw, world)

    assert world.equity() >= worst
    if covered is not None:
        margin = sum((world.value(symbol) for symbol in world.marks), D(0))
        assert margin * world.rules.limits.margin_requirement_pct <= 100 * covered


@examples
@given(st.data())
def test_worst_exposure_never_grows_by_a_fill(data: st.DataObject) -> None:
    world = data.draw(worlds())
    for _ in range(data.draw(st.integers(2, 8))):
        world.submit(data.draw(orders(world)))
    before = world.measures().exposures

    fill_some(data.draw, world)

    for symbol, exposure in world.measures().exposures.items():
        assert exposure.worst <= before[symbol].worst


@examples
@given(st.data())
def test_an_order_that_reduces_is_approved_or_breaks_a_rule_that_holds_for_all(data: st.DataObject) -> None:
    world = data.draw(worlds())
    order = data.draw(orders(world))
    verdict = evaluate(world.state, order, world, world.rules)
    if Case(world.state, order, world, world.rules, 0, False).reducing:
        assert verdict.reason in ("", "order_size_limit", "price_collar")


@examples
@given(st.data())
def test_explanation_and_verdict_always_agree(data: st.DataObject) -> None:
    world = data.draw(worlds())
    world.submit(data.draw(orders(world)))
    order = data.draw(orders(world))

    short = evaluate(world.state, order, world, world.rules, max_open_orders=2)
    explained = evaluate(world.state, order, world, world.rules, max_open_orders=2, explain=True)

    assert (short.approved, short.reason, short.message) == (
        explained.approved,
        explained.reason,
        explained.message,
    )
    assert short.unit == explained.unit
