"""A venue without journal and network: an engine, and words to talk to it."""

from collections.abc import Sequence
from decimal import Decimal

from services.ledger.commands import ApplyReport, ReportKind
from services.ledger.order import OrderType, Side, Terms, TimeInForce
from services.live_gateway.engine import Engine
from services.live_gateway.memory import OrderMemory
from services.live_gateway.orders import Changes, Decision, Report, Trade, WorkingOrder
from services.live_gateway.rules import FillModel, Instrument, Rules

START_NS = 1_700_000_000_000_000_000
SECOND_NS = 1_000_000_000
INSTRUMENTS = {
    "BTCUSDT": Instrument(Decimal("0.01"), Decimal("0.001")),
    "ETHUSDT": Instrument(Decimal("0.01"), Decimal("0.001")),
}


def order_id(number: int, account: str = "alice") -> str:
    """Ids in the shape of the platform's, ordered by `number`."""
    return f"{account}-{number:026d}"


class Venue:
    """An engine with a clock; amounts are written as text."""

    def __init__(self, **rules: object) -> None:
        self.rules = Rules(instruments=INSTRUMENTS, **rules)  # type: ignore[arg-type]
        self.memory = OrderMemory(10_000)
        self.engine = Engine("venue", self.rules, self.memory)
        self.now_ns = START_NS
        self.changes = Changes()
        self._orders = 0

    def mark(self, price: str, symbol: str = "BTCUSDT") -> list[Decision]:
        self.engine.mark(symbol, Decimal(price), self.now_ns)
        return self.told()

    def order(
        self,
        order_type: OrderType,
        side: Side,
        quantity: str,
        price: str | None = None,
        *,
        stop: str | None = None,
        protection: str | None = None,
        tif: TimeInForce = TimeInForce.GTC,
        expire_sec: float = 0,
        symbol: str = "BTCUSDT",
        account: str = "alice",
        id: str = "",
    ) -> WorkingOrder:
        """An order that was not submitted yet."""
        self._orders += 1
        return WorkingOrder(
            id or order_id(self._orders, account),
            account,
            symbol,
            side,
            order_type,
            tif,
            Terms(Decimal(quantity), _number(price), _number(stop), _number(protection)),
            self.now_ns + round(expire_sec * SECOND_NS) if expire_sec else 0,
        )

    def submit(self, *arguments: object, **options: object) -> list[Decision]:
        """Submits `order(...)`; what the venue decided."""
        self.engine.submit(self.order(*arguments, **options), self.now_ns)  # type: ignore[arg-type]
        return self.told()

    def pair(self, first: WorkingOrder, second: WorkingOrder) -> list[Decision]:
        """Submits two orders of which one cancels the other."""
        self.engine.submit_pair(first, second, self.now_ns)
        return self.told()

    def market(self, side: Side, quantity: str, **options: object) -> list[Decision]:
        return self.submit(OrderType.MARKET, side, quantity, **options)

    def limit(self, side: Side, quantity: str, price: str, **options: object) -> list[Decision]:
        return self.submit(OrderType.LIMIT, side, quantity, price, **options)

    def stop(self, side: Side, quantity: str, stop: str, **options: object) -> list[Decision]:
        return self.submit(OrderType.STOP, side, quantity, stop=stop, **options)

    def cancel(self, id: str, number: int = 1) -> list[Decision]:
        self.engine.cancel(id.rpartition("-")[0], id, number, self.now_ns)
        return self.told()

    def amend(
        self,
        id: str,
        quantity: str,
        price: str | None = None,
        *,
        revision: int = 1,
        stop: str | None = None,
        protection: str | None = None,
    ) -> list[Decision]:
        terms = Terms(Decimal(quantity), _number(price), _number(stop), _number(protection))
        self.engine.amend(id.rpartition("-")[0], id, revision, terms, self.now_ns)
        return self.told()

    def pass_time(self, seconds: float) -> list[Decision]:
        self.now_ns += round(seconds * SECOND_NS)
        self.engine.advance(self.now_ns)
        return self.told()

    def told(self) -> list[Decision]:
        """What was decided since the last look; the changes that go with it are kept in `changes`."""
        self.changes = self.engine.take_changes()
        return self.changes.decisions

    @property
    def working(self) -> list[str]:
        return list(self.engine.working)


def market_model(**rules: object) -> Venue:
    return Venue(fill_model=FillModel.MARKET, **rules)


def _number(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def said(decisions: Sequence[Decision]) -> list[str]:
    """One short sentence a decision: `fill 0.1 @ 45000`, `canceled protection_price`."""
    return [_sentence(decision) for decision in decisions]


def _sentence(decision: Decision) -> str:
    if isinstance(decision, Trade):
        return f"fill {decision.quantity} @ {decision.price}"
    return f"{decision.kind} {decision.reason}".strip()


def trades(decisions: Sequence[Decision]) -> list[Trade]:
    return [decision for decision in decisions if isinstance(decision, Trade)]


def only_trade(decisions: Sequence[Decision]) -> Trade:
    (decision,) = decisions
    assert isinstance(decision, Trade)
    return decision


def only_report(decisions: Sequence[Decision]) -> Report:
    (decision,) = decisions
    assert isinstance(decision, Report)
    return decision


def report_of(decision: Decision, account: str, stream_seq: int) -> ApplyReport:
    """What the ledger reads of a decision, at its place in the stream."""
    trade = decision if isinstance(decision, Trade) else None
    return ApplyReport(
        account=account,
        stream_seq=stream_seq,
        kind=ReportKind.FILL if isinstance(decision, Trade) else ReportKind(decision.kind.value),
        order_id=decision.order_id,
        exec_id=decision.exec_id,
        revision=decision.revision,
        reason="" if isinstance(decision, Trade) else str(decision.reason),
        venue_ns=decision.ns,
        symbol=decision.symbol,
        side=trade.side if trade else None,
        quantity=trade.quantity if trade else Decimal(0),
        price=trade.price if trade else Decimal(0),
        fee=trade.fee if trade else Decimal(0),
        liquidity="",
    )
