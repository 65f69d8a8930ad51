"""CPU µs of the steps of an order inside one process, without sockets: which step grew when an order did.

python -m perf.steps

Each figure is the best of many short samples of the thread's own CPU time, so that a busy machine hardly
moves it. `calibration` is a fixed piece of Python; the others are also told as multiples of it, which is what
machines can be compared by.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import msgspec

from gateway_http import create_app, local
from perf import requests as r
from perf.processes import calibration
from services import messages
from services.instruments import DEFAULT_INSTRUMENTS, instruments_of
from services.ledger import codec, commands
from services.ledger.account import Account, Position
from services.ledger.draft import Copy, Draft
from services.ledger.numbers import install_context
from services.ledger.order import Order, OrderState, OrderType, Side, Terms, TimeInForce
from services.oms.report_decoding import decode_report
from services.order_request import read_order, request_digest
from services.risk.checks import CHECK_NAMES, Limits, Policy, Quote, Returns, assess, evaluate
from services.risk.engine import RiskEngine
from services.risk.meter import Meter
from services.risk.servicer import RiskServicer, ServiceInfo
from services.runtime.clock import SystemClock
from services.runtime.ids import new_order_id
from services.runtime.journal_reader import Message
from trade2026.risk.v1 import risk_pb2, risk_service_pb2
from trade2026.type.v1 import order_pb2 as type_pb2

ACCOUNT: Final = "test_account"
_CALIBRATIONS: Final = 40
_SAMPLE_SEC: Final = 0.004
_SAMPLES: Final = 60
_BATCH: Final = 100

_ENDLESS: Final = Decimal(10) ** 12
_LIMITS: Final = Limits(
    max_order_size_usd=_ENDLESS,
    max_order_size_shares=_ENDLESS,
    max_position_size_usd=_ENDLESS,
    max_concentration_pct=Decimal(1000),
    max_portfolio_var_usd=_ENDLESS,
    margin_requirement_pct=Decimal(50),
    max_deviation_pct=Decimal(20),
)
_POLICY: Final = Policy(_LIMITS, frozenset(CHECK_NAMES), True, Decimal(1), Decimal("0.1"), Decimal("0.99"))


@dataclass(frozen=True, slots=True)
class Step:
    """What one step uses."""

    micros: float
    """CPU µs."""
    ratio: float
    """The same as a multiple of the calibration."""


class _Market:
    """One mark, and thirty quiet days."""

    def __init__(self) -> None:
        self._quote = Quote(Decimal("45012.34"), fresh=True)
        self._returns = Returns.of(20_000, (0.01, -0.01) * 15)

    def quote(self, symbol: str) -> Quote | None:
        return self._quote

    def returns(self, symbol: str) -> Returns | None:
        return self._returns

    def now(self) -> _Market:
        return self


class _Ledger:
    """An account that is always at hand."""

    identity = "steps"

    def __init__(self, account: Account) -> None:
        self._account = account

    def cached(self, account: str) -> Account | None:
        return self._account

    def known_absent(self, account: str) -> bool:
        return False

    async def account(self, account: str, *, fresh: bool = False) -> Account | None:
        return self._account

    def submit(self, command: commands.Command, timeout: float = 1.0) -> asyncio.Future[commands.Outcome]:
        raise NotImplementedError

    async def rehearse(self, command: commands.Reserve, cash: Decimal) -> commands.Outcome:
        raise NotImplementedError


def measure_all() -> dict[str, Step]:
    """Every step by its name."""
    install_context()
    gc.collect()
    gc.freeze()
    loop = asyncio.new_event_loop()
    try:
        found = {
            name: loop.run_until_complete(_best(_made_async(step), 1)) for name, step in _steps().items()
        }
        for name, (call, items) in _coroutines().items():
            found[name] = loop.run_until_complete(_best(call, items))
    finally:
        loop.close()
        gc.unfreeze()
    return found


def _made_async(step: Callable[[], object]) -> Callable[[], Awaitable[object]]:
    async def call() -> object:
        return step()

    return call


async def _best(call: Callable[[], Awaitable[object]], items: int) -> Step:
    """The best sample of a step and the best of the calibration, taken in turn: a processor that is slow for
    a while is slow for both."""
    await _timed(call, 1)
    count = max(1, int(_SAMPLE_SEC / max(await _timed(call, 1), 1e-7)))
    samples = []
    for _ in range(_SAMPLES):
        own = await _timed(call, count)
        begin = time.thread_time()
        for _ in range(_CALIBRATIONS):
            calibration()
        samples.append((own, (time.thread_time() - begin) / _CALIBRATIONS))
    micros = min(own for own, _ in samples) * 1e6 / items
    return Step(micros, micros / (min(unit for _, unit in samples) * 1e6))


async def _timed(call: Callable[[], Awaitable[object]], count: int) -> float:
    begin = time.thread_time()
    for _ in range(count):
        await call()
    return (time.thread_time() - begin) / count


def _account() -> Account:
    held = Position("BTCUSDT", Decimal("1.25"), Decimal("56250.5"), last_price=Decimal(45000))
    return Account(
        ACCOUNT, "0123456789abcdef", _ENDLESS, _ENDLESS, registered=True, event_seq=1000,
        applied_seq=1, positions={"BTCUSDT": held},
    )  # fmt: skip


def _order() -> Order:
    now = time.time_ns()
    return Order(
        order_id=new_order_id(ACCOUNT),
        account=ACCOUNT,
        client_order_id="",
        digest="0123456789abcdef0123456789abcdef",
        symbol="BTCUSDT",
        side=Side.BUY,
        order_type=OrderType.LIMIT,
        time_in_force=TimeInForce.TIMEOUT,
        terms=Terms(Decimal("0.01"), Decimal("45012.0"), None, None),
        state=OrderState.PENDING_NEW,
        created_ns=now,
        updated_ns=now,
        expire_ns=now + 300 * 10**9,
    )


def _request() -> risk_pb2.CheckRequest:
    request = risk_pb2.CheckRequest(account=ACCOUNT, symbol="BTCUSDT", side=type_pb2.SIDE_BUY)
    request.quantity.value, request.price.value = "0.01", "45012.0"
    return request


def _steps() -> dict[str, Callable[[], object]]:
    """Steps that wait for nothing."""
    instruments = instruments_of(DEFAULT_INSTRUMENTS)
    market, account, order, request = _Market(), _account(), _order(), _request()
    asked = read_order(request, instruments)
    reserve = commands.Reserve(order, lambda state, new: assess(state, new, market, _POLICY))

    def reserved() -> Draft:
        draft = Draft(Copy("a.1.b", account), order.created_ns)
        draft.apply(reserve)
        return draft

    held = reserved()
    outcome = held.results[0]
    if isinstance(outcome, Exception):
        raise outcome
    known = Copy("a.2.b", held.account, {}, dict(held.orders))
    payload = messages.encode(
        messages.Fill(
            account=ACCOUNT,
            symbol="BTCUSDT",
            side=Side.BUY,
            quantity=Decimal("0.01"),
            price=Decimal("45012.0"),
            fill_id="2289c64e-1",
            order_id=order.order_id,
            fee=Decimal("0.045012"),
            liquidity="taker",
            timestamp=Decimal("1704885600.123456"),
            status="filled",
            cumulative=Decimal("0.01"),
            leaves=Decimal(0),
            version=1,
        )
    )
    report = Message(2, f"3.fills.{ACCOUNT}", payload, None, order.created_ns)
    command = decode_report(report)

    def filled() -> Draft:
        draft = Draft(known, order.created_ns)
        draft.apply(command)
        return draft

    booked = filled()
    after = next(iter(booked.orders.values()))
    record = codec.encode_order(after)
    return {
        "request: read and validate": lambda: read_order(request, instruments),
        "request: digest": lambda: request_digest(asked, "timeout", 0),
        "risk: all checks": lambda: evaluate(account, order, market, _POLICY),
        "ledger: reserve, checks included": reserved,
        "ledger: record of an order to bytes": lambda: codec.encode_order(order),
        "ledger: record of an order from bytes": lambda: codec.decode_order(record),
        "ledger: events of a reservation to bytes": lambda: codec.encode_commit(
            ACCOUNT, 1, order.created_ns, held.events
        ),
        "ledger: account to bytes": lambda: codec.encode_head(account),
        "report: read a fill": lambda: decode_report(report),
        "ledger: book a fill": filled,
        "log line": lambda: _log_line(order),
        "new order id": lambda: new_order_id(ACCOUNT),
    }


_ENCODE: Final = msgspec.json.Encoder(decimal_format="number", enc_hook=str).encode


def _log_line(order: Order) -> bytes:
    """What the logger does for a line, its thread aside."""
    return _ENCODE(
        {
            "timestamp": "2024-01-10T11:20:00.123456Z",
            "level": "INFO",
            "service": "risk",
            "worker": 0,
            "message": "check request",
            "order_id": order.order_id,
            "account": order.account,
            "verdict": "approved",
            "latency_ms": 0.123,
        }
    )


def _coroutines() -> dict[str, tuple[Callable[[], Awaitable[object]], int]]:
    """Calls of the servicer: name → (call, checks in it)."""
    engine = RiskEngine(_POLICY, Decimal(100_000), _Market())
    engine.ledger = _Ledger(_account())
    servicer = RiskServicer(
        engine,
        instruments_of(DEFAULT_INSTRUMENTS),
        Meter(1000.0, 1000.0),
        SystemClock(),
        ServiceInfo("0", "grpcio", 16),
    )
    one = _request()
    batch = risk_pb2.BatchCheckRequest(requests=[one] * _BATCH)
    service = risk_service_pb2.DESCRIPTOR.services_by_name["RiskService"]
    app = create_app([local(service, servicer)], title="risk", health=lambda: (200, {}))
    body = msgspec.json.encode(r.check_body(quantity=0.01))
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/check",
        "raw_path": b"/check",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        if message.get("status", 200) != 200:
            raise RuntimeError(f"{message}")

    context: Any = None
    return {
        "Check, without a transport": (lambda: servicer.Check(one, context), 1),
        f"BatchCheck of {_BATCH}, a check": (lambda: servicer.BatchCheck(batch, context), _BATCH),
        "REST /check, without a transport": (lambda: app(scope, receive, send), 1),
    }


def table(steps: dict[str, Step]) -> str:
    """Markdown."""
    lines = ["| step | CPU µs | × calibration |", "| --- | ---: | ---: |"]
    lines += [f"| {name} | {step.micros:.1f} | {step.ratio:.2f} |" for name, step in steps.items()]
    return "\n".join(lines)


def main() -> int:
    """Prints the table."""
    print(table(measure_all()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
