"""Orders that are reserved without risk, because it is switched off or may be done without."""

from __future__ import annotations

from dataclasses import replace

from services.ledger.account import TradingState
from services.oms.outcomes import Rejected, Submitted
from services.oms.risk_client import Answer, ReservationUnknown
from tests.unit.oms.desk import make_desk
from tests.unit.oms.memory import deny
from trade2026.risk.v1 import risk_pb2


async def test_without_fail_closed_silence_is_reserved_unchecked_but_a_denial_denies() -> None:
    desk = make_desk(fail_closed=False)
    desk.risk.script = lambda request: desk.reserve(request, deny)
    assert isinstance(await desk.submit(), Rejected)

    def silent(request: risk_pb2.ReserveRequest) -> Answer:
        raise ReservationUnknown("risk_timeout", "no answer")

    desk.risk.script = silent
    outcome = await desk.submit()
    assert isinstance(outcome, Submitted)
    assert desk.ledger.orders[outcome.order_id].unchecked


async def test_without_fail_closed_a_denial_that_landed_late_still_denies() -> None:
    desk = make_desk(fail_closed=False)

    def late_denial(request: risk_pb2.ReserveRequest) -> Answer:
        desk.reserve(request, deny)
        raise ReservationUnknown("risk_timeout", "no answer")

    desk.risk.script = late_denial
    outcome = await desk.submit()
    assert isinstance(outcome, Rejected)
    assert outcome.reason == "order_size_limit"
    assert desk.venue.sent == []


async def test_with_risk_switched_off_the_open_orders_and_the_trading_state_still_hold() -> None:
    desk = make_desk(enabled=False)
    for _ in range(10):
        assert isinstance(await desk.submit(), Submitted)
    eleventh = await desk.submit()
    assert isinstance(eleventh, Rejected)
    assert eleventh.reason == "max_open_orders"
    for state, reason in (
        (TradingState.HALTED, "trading_halted"),
        (TradingState.REDUCING, "trading_reducing"),
    ):
        desk.ledger.accounts["desk"] = replace(desk.ledger.accounts["desk"], trading_state=state)
        outcome = await desk.submit()
        assert isinstance(outcome, Rejected)
        assert outcome.reason == reason
