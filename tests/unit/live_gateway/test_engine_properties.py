"""Whatever is asked of the venue in whatever order: what always holds."""

from collections import defaultdict
from dataclasses import dataclass, replace
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from services.ledger.numbers import MAX_DECIMAL_PLACES
from services.ledger.order import TERMINAL, OrderState, OrderType, Side, TimeInForce
from services.live_gateway import records
from services.live_gateway.orders import Changes, Decision, Report, Trade, WorkingOrder
from services.live_gateway.rules import FillModel, SelfMatch
from tests.unit.live_gateway.venue import Venue, order_id, said

ACCOUNTS = ("alice", "bob")
_price = st.integers(90, 110).map(lambda price: Decimal(price))
_quantity = st.integers(1, 3000).map(lambda thousandths: Decimal(thousandths) / 1000)


@dataclass(frozen=True)
class New:
    number: int
    account: str
    order_type: OrderType
    side: Side
    tif: TimeInForce
    quantity: Decimal
    price: Decimal
    stop: Decimal
    protection: Decimal | None
    expire_sec: int


@dataclass(frozen=True)
class Pair:
    """Two orders of one account of which one cancels the other."""

    first: New
    second: New


@dataclass(frozen=True)
class Cancel:
    number: int
    account: str
    revision: int


@dataclass(frozen=True)
class Amend:
    number: int
    account: str
    revision: int
    quantity: Decimal
    price: Decimal
    stop: Decimal


@dataclass(frozen=True)
class Mark:
    price: Decimal


@dataclass(frozen=True)
class Wait:
    seconds: float


Step = New | Pair | Cancel | Amend | Mark | Wait

_number = st.integers(1, 6)
_account = st.sampled_from(ACCOUNTS)
_new = st.builds(
    New,
    _number,
    _account,
    st.sampled_from(OrderType),
    st.sampled_from(Side),
    st.sampled_from([TimeInForce.GTC, TimeInForce.GTC, TimeInForce.IOC, TimeInForce.FOK]),
    _quantity,
    _price,
    _price,
    st.none() | _price,
    st.sampled_from([0, 0, 5]),
)
_waits = _new.filter(lambda new: new.tif is TimeInForce.GTC and new.order_type is not OrderType.MARKET)
_pair = st.builds(
    lambda first, second: Pair(first, replace(second, account=first.account, number=first.number % 6 + 1)),
    _waits,
    _waits,
)
_step = st.one_of(
    _new,
    _pair,
    st.builds(Cancel, _number, _account, st.integers(1, 3)),
    st.builds(Amend, _number, _account, st.integers(1, 3), _quantity, _price, _price),
    st.builds(Mark, _price),
    st.builds(Wait, st.sampled_from([0.05, 1, 70])),
)
_steps = st.lists(_step, max_size=40)
_venues = st.sampled_from(
    [
        {"fill_model": FillModel.INSTANT},
        {"fill_model": FillModel.MARKET},
        {"fill_model": FillModel.MARKET, "slices": 3},
        {"fill_model": FillModel.MARKET, "slices": 3, "delay_ns": 50_000_000},
        {"fill_model": FillModel.MARKET, "self_match": SelfMatch.CANCEL_OLDEST},
        {"fill_model": FillModel.MARKET, "self_match": SelfMatch.ALLOW},
    ]
)


def _order(venue: Venue, new: New) -> WorkingOrder:
    order_type = new.order_type
    return venue.order(
        order_type,
        new.side,
        str(new.quantity),
        str(new.price) if "limit" in order_type else None,
        stop=str(new.stop) if "stop" in order_type else None,
        protection=None if new.protection is None or "limit" in order_type else str(new.protection),
        tif=new.tif,
        expire_sec=new.expire_sec,
        account=new.account,
        id=order_id(new.number, new.account),
    )


def _do(venue: Venue, step: Step) -> list[Decision]:
    match step:
        case New():
            venue.engine.submit(_order(venue, step), venue.now_ns)
            return venue.told()
        case Pair():
            return venue.pair(_order(venue, step.first), _order(venue, step.second))
        case Cancel():
            return venue.cancel(order_id(step.number, step.account), step.revision)
        case Amend():
            return venue.amend(
                order_id(step.number, step.account),
                str(step.quantity),
                str(step.price),
                revision=step.revision,
                stop=str(step.stop),
            )
        case Mark():
            return venue.mark(str(step.price))
        case Wait():
            return venue.pass_time(step.seconds)


class _Observer:
    """What a reader of the reports believes; asserts that each report fits to those before."""

    def __init__(self) -> None:
        self.cumulative: dict[str, Decimal] = defaultdict(Decimal)
        self.ended: dict[str, str] = {}
        self.positions: dict[str, Decimal] = defaultdict(Decimal)
        self.fees: dict[str, Decimal] = defaultdict(Decimal)
        self.exec_ids: set[str] = set()

    def see(self, decision: Decision) -> None:
        assert decision.exec_id not in self.exec_ids
        self.exec_ids.add(decision.exec_id)
        if isinstance(decision, Trade):
            self._see_trade(decision)
        else:
            self._see_report(decision)

    def _see_trade(self, trade: Trade) -> None:
        assert trade.order_id not in self.ended
        assert trade.quantity > 0
        self.cumulative[trade.order_id] += trade.quantity
        assert trade.cumulative == self.cumulative[trade.order_id]
        assert trade.leaves >= 0
        assert (trade.status is OrderState.FILLED) == (not trade.leaves)
        exponent = trade.fee.as_tuple().exponent
        assert isinstance(exponent, int)
        assert exponent >= -MAX_DECIMAL_PLACES
        if trade.status in TERMINAL:
            self.ended[trade.order_id] = trade.status
        self.positions[trade.account] += trade.quantity if trade.side is Side.BUY else -trade.quantity
        self.fees[trade.account] += trade.fee

    def _see_report(self, report: Report) -> None:
        if report.kind in ("cancel_rejected", "replace_rejected"):
            assert self.ended.get(report.order_id, report.status) == report.status
            return
        assert report.order_id not in self.ended
        if report.reason != "unknown_order":
            assert report.cumulative == self.cumulative[report.order_id]
        if report.status in TERMINAL:
            self.ended[report.order_id] = report.status
            assert report.leaves == 0


def _worst_price(order: WorkingOrder) -> Decimal | None:
    return order.terms.price if "limit" in order.order_type else order.terms.protection_price


@given(_venues, _steps)
def test_fills_never_exceed_the_quantity_and_positions_are_the_sum_of_fills(
    rules: dict[str, object], steps: list[Step]
) -> None:
    venue, observer = Venue(**rules), _Observer()
    for step in steps:
        for decision in _do(venue, step):
            observer.see(decision)
        for order in venue.engine.working.values():
            assert order.order_id not in observer.ended
            assert order.cumulative == observer.cumulative[order.order_id] < order.terms.quantity
    for account in ACCOUNTS:
        position = venue.engine.positions.get((account, "BTCUSDT"))
        assert (position.quantity if position else 0) == observer.positions[account]
        assert (position.fees if position else 0) == observer.fees[account]


@given(_venues, _steps)
def test_no_fill_is_worse_than_limit_or_protection_price(rules: dict[str, object], steps: list[Step]) -> None:
    venue = Venue(**rules)
    worst: dict[str, Decimal | None] = {}
    for step in steps:
        decisions = _do(venue, step)
        for new in (
            [step] if isinstance(step, New) else [step.first, step.second] if isinstance(step, Pair) else []
        ):
            limit = new.price if "limit" in new.order_type else new.protection
            worst.setdefault(order_id(new.number, new.account), limit)
        for order in venue.engine.working.values():
            worst[order.order_id] = _worst_price(order)
        for decision in decisions:
            if not isinstance(decision, Trade) or isinstance(step, Amend):
                continue
            bound = worst[decision.order_id]
            if bound is not None:
                better = decision.price <= bound if decision.side is Side.BUY else decision.price >= bound
                assert better, (decision, bound)


@given(_venues, _steps, st.integers(0, 40))
def test_engine_restored_from_its_changes_decides_like_the_one_that_went_on(
    rules: dict[str, object], steps: list[Step], crash_after: int
) -> None:
    venue, again = Venue(**rules), Venue(**rules)
    journal = _Journal()
    for step in steps[:crash_after]:
        _do(venue, step)
        journal.add(venue.changes)
        _do(again, step)
    again.memory = type(again.memory)(10_000)
    again.engine = type(again.engine)("venue", again.rules, again.memory, venue.engine.next_number)
    journal.restore_into(again)
    for step in steps[crash_after:]:
        first = _do(venue, step)
        assert _do(again, step) == first, said(first)


@given(_venues, _steps)
def test_orders_of_a_pair_never_both_execute(rules: dict[str, object], steps: list[Step]) -> None:
    venue = Venue(**rules)
    siblings: dict[str, str] = {}
    executed: set[str] = set()
    for step in steps:
        decisions = _do(venue, step)
        # What is in the book says which orders were taken as a pair: one of them may have been known before.
        for order in venue.engine.working.values():
            if order.sibling:
                siblings[order.order_id] = order.sibling
        for decision in decisions:
            if isinstance(decision, Trade):
                executed.add(decision.order_id)
                sibling = siblings.get(decision.order_id, "")
                assert sibling not in venue.engine.working
                assert sibling not in executed or siblings.get(sibling) != decision.order_id


@given(_venues, _steps)
def test_resting_limits_of_an_account_never_cross(rules: dict[str, object], steps: list[Step]) -> None:
    venue = Venue(**rules)
    for step in steps:
        _do(venue, step)
        if rules.get("self_match") is SelfMatch.ALLOW:
            continue
        for account in ACCOUNTS:
            own = [o for o in venue.engine.working.values() if o.account == account and not o.awaits_trigger]
            prices = {
                side: [o.terms.price for o in own if o.side is side and o.terms.price is not None]
                for side in Side
            }
            if prices[Side.BUY] and prices[Side.SELL]:
                assert max(prices[Side.BUY]) < min(prices[Side.SELL])


class _Journal:
    """What a journal would hold."""

    def __init__(self) -> None:
        self._working: dict[str, WorkingOrder] = {}
        self._changes = Changes()

    def add(self, changes: Changes) -> None:
        for name in changes.removed:
            self._working.pop(name, None)
        self._working.update(changes.touched)
        self._changes.seen.update(changes.seen)
        self._changes.marks.update(changes.marks)

    def restore_into(self, venue: Venue) -> None:
        for name, seen in self._changes.seen.items():
            venue.memory.remember(name, seen)
        copies = [records.decode_order(records.encode_order(order)) for order in self._working.values()]
        venue.engine.restore(copies, {}, self._changes.marks)
