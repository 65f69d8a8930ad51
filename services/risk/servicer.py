"""`trade2026.risk.v1.RiskService`: reads a request, asks the engine, writes the answer."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final, NoReturn

import grpc

from services.instruments import Instrument
from services.ledger.account import Account
from services.ledger.errors import LedgerError
from services.ledger.order import Terms
from services.order_request import read_account, read_order
from services.risk.account_view import limits_response, risk_response
from services.risk.checks import DryOrder, Market, Verdict
from services.risk.encode import check_response, reserve_response
from services.risk.engine import Answer, Reservation, RiskEngine, Unknown
from services.risk.meter import Meter
from services.risk.reserve_request import read_reservation
from services.runtime.clock import Clock
from services.runtime.errors import InvalidArgument, ServiceError, Unavailable, Unimplemented
from services.runtime.rpc_status import status_of
from trade2026.risk.v1 import risk_pb2, risk_service_pb2_grpc

MAX_CHECKS: Final = 1_000
MAX_RESERVATIONS: Final = 64
RESERVE_SEC: Final = 1.0
"""Time for a reservation whose caller has no deadline."""
ANSWER_MARGIN_SEC: Final = 0.001
"""Kept of the caller's deadline for the answer's way back (at most half of what is left), unless the caller
says how much."""
_YIELD_EVERY: Final = 50
_LEDGER_SHARE: Final = 0.9

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """What does not change while the service runs."""

    version: str
    grpc_engine: str
    partitions: int


class RiskServicer(risk_service_pb2_grpc.RiskServiceServicer):
    """One a worker; the same object answers gRPC and REST."""

    def __init__(
        self,
        engine: RiskEngine,
        instruments: Mapping[str, Instrument],
        meter: Meter,
        clock: Clock,
        info: ServiceInfo,
    ) -> None:
        self._engine = engine
        self._instruments = instruments
        self._meter = meter
        self._clock = clock
        self._info = info

    async def Check(self, request: risk_pb2.CheckRequest, context: Context) -> risk_pb2.CheckResponse:
        return check_response(await self._check(request, None))

    async def BatchCheck(
        self, request: risk_pb2.BatchCheckRequest, context: Context
    ) -> risk_pb2.BatchCheckResponse:
        _bounded(request.requests, MAX_CHECKS)
        market = self._engine.market.now()
        response = risk_pb2.BatchCheckResponse()
        results = response.results
        for place, one in enumerate(request.requests):
            if place % _YIELD_EVERY == _YIELD_EVERY - 1:
                # Others wait for the loop; a long batch must not be felt by them.
                await asyncio.sleep(0)
            try:
                results.add(response=check_response(await self._check(one, market)))
            except ServiceError as error:
                results.add(error=status_of(error))
        return response

    async def Reserve(self, request: risk_pb2.ReserveRequest, context: Context) -> risk_pb2.ReserveResponse:
        reservation = read_reservation(request, self._instruments, self._clock.now_ns())
        (answer,) = await self._reserve([reservation], context, None)
        return reserve_response(answer, reservation.order.order_id)

    async def BatchReserve(
        self, request: risk_pb2.BatchReserveRequest, context: Context
    ) -> risk_pb2.BatchReserveResponse:
        _bounded(request.requests, MAX_RESERVATIONS)
        margin = _margin(request)
        now_ns = self._clock.now_ns()
        read: list[Reservation | ServiceError] = []
        for one in request.requests:
            try:
                read.append(read_reservation(one, self._instruments, now_ns))
            except ServiceError as error:
                read.append(error)
        reservations = [one for one in read if isinstance(one, Reservation)]
        answers = iter(await self._reserve(reservations, context, margin))
        response = risk_pb2.BatchReserveResponse()
        for item in read:
            try:
                if not isinstance(item, Reservation):
                    raise item
                response.results.add(response=reserve_response(next(answers), item.order.order_id))
            except ServiceError as error:
                response.results.add(error=status_of(error))
        return response

    async def GetAccountRisk(
        self, request: risk_pb2.GetAccountRiskRequest, context: Context
    ) -> risk_pb2.GetAccountRiskResponse:
        account = await self._account(request.account)
        return risk_response(request.account, account, self._engine.market.now(), self._engine.policy)

    async def GetLimits(
        self, request: risk_pb2.GetLimitsRequest, context: Context
    ) -> risk_pb2.GetLimitsResponse:
        account = await self._account(request.account)
        return limits_response(request.account, account, self._engine.policy)

    async def UpdateLimits(self, request: risk_pb2.UpdateLimitsRequest, context: Context) -> NoReturn:
        raise _not_served("UpdateLimits")

    async def GetTradingState(self, request: risk_pb2.GetTradingStateRequest, context: Context) -> NoReturn:
        raise _not_served("GetTradingState")

    async def SetTradingState(self, request: risk_pb2.SetTradingStateRequest, context: Context) -> NoReturn:
        raise _not_served("SetTradingState")

    async def GetServiceInfo(
        self, request: risk_pb2.GetServiceInfoRequest, context: Context
    ) -> risk_pb2.GetServiceInfoResponse:
        ledger = self._engine.ledger
        if ledger is None:
            raise Unavailable("the ledger is not connected yet", reason="LEDGER_UNAVAILABLE")
        info = self._info
        return risk_pb2.GetServiceInfoResponse(
            ledger_id=ledger.identity,
            version=info.version,
            grpc_engine=info.grpc_engine,
            partitions=info.partitions,
        )

    async def _check(self, request: risk_pb2.CheckRequest, market: Market | None) -> Verdict:
        started = perf_counter()
        asked = read_order(request, self._instruments)
        order = DryOrder(
            asked.symbol,
            asked.side,
            asked.order_type,
            Terms(asked.quantity, asked.price, asked.stop_price, None),
        )
        verdict = self._engine.evaluate_at_once(asked.account, order, request.explain, market)
        if verdict is None:
            verdict = await self._engine.evaluate(asked.account, order, request.explain, market)
        self._meter.checked(asked.account, asked.symbol, verdict, (perf_counter() - started) * 1e3)
        return verdict

    async def _reserve(
        self, reservations: Sequence[Reservation], context: Context, margin: float | None
    ) -> list[Answer]:
        """One answer a reservation, `margin` seconds before the caller's deadline; what is open by then is
        `Unknown`."""
        if not reservations:
            return []
        started = perf_counter()
        remaining = context.time_remaining()
        within = RESERVE_SEC
        if remaining is not None:
            if margin is None:
                margin = min(ANSWER_MARGIN_SEC, remaining / 2)
            within = min(within, max(0.0, remaining - margin))

        def answered(reservation: Reservation, answer: Answer) -> None:
            self._meter.reserved(reservation, answer, (perf_counter() - started) * 1e3)

        # A command that can no longer be answered in time is not begun: less to give up afterwards.
        futures = self._engine.reserve(reservations, within * _LEDGER_SHARE, answered)
        await asyncio.wait(futures, timeout=within)
        return [future.result() if future.done() else Unknown(late=True) for future in futures]

    async def _account(self, account: str) -> Account:
        read_account(account)
        try:
            return await self._engine.account(account)
        except LedgerError:
            raise Unavailable("the account's state cannot be read", reason="LEDGER_UNAVAILABLE") from None


def _bounded(requests: Sequence[object], most: int) -> None:
    if not 1 <= len(requests) <= most:
        raise InvalidArgument("requests", f"must be 1 to {most:,} orders")


def _margin(request: risk_pb2.BatchReserveRequest) -> float | None:
    """Seconds that the caller wants for the answer; None when it does not say."""
    if not request.HasField("answer_margin"):
        return None
    margin = request.answer_margin.ToNanoseconds() * 1e-9
    if margin < 0:
        raise InvalidArgument("answer_margin", "must not be negative")
    return margin


def _not_served(method: str) -> Unimplemented:
    return Unimplemented(f"{method} is not served yet")
