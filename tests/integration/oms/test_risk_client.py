"""Reservations over real gRPC connections to a risk service that does what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2

from services.oms import risk_client as module
from services.oms import risk_load
from services.oms.risk_channel import EJECT_AFTER, LedgerFacts, RiskChannel, RiskChannels
from services.oms.risk_client import (
    BATCH,
    STANDING_SEC,
    Answer,
    ReservationUnknown,
    RiskClient,
    RiskUnreachable,
)
from services.oms.risk_load import BEGIN
from services.runtime.errors import AlreadyExists, InvalidArgument, ResourceExhausted
from services.runtime.local_stack.ports import free_ports
from services.runtime.rpc_status import abort_with
from tests.support import eventually
from trade2026.risk.v1 import risk_pb2, risk_service_pb2_grpc

FACTS = LedgerFacts("ledger", 16)


@dataclass
class Risk(risk_service_pb2_grpc.RiskServiceServicer):
    """A risk service of one process; `behave` answers a batch."""

    port: int
    ledger_id: str = "ledger"
    batches: list[list[str]] = field(default_factory=list)
    time_sec: list[float] = field(default_factory=list)
    """Time that each batch gave risk."""
    behave: Callable[[Any], Awaitable[Any]] | None = None
    server: Any = None

    async def GetServiceInfo(self, request: Any, context: Any) -> Any:
        return risk_pb2.GetServiceInfoResponse(ledger_id=self.ledger_id, partitions=16)

    async def GetAccountRisk(self, request: Any, context: Any) -> Any:
        answer = risk_pb2.GetAccountRiskResponse()
        answer.cash.value = "12345.5"
        return answer

    async def BatchReserve(self, request: Any, context: Any) -> Any:
        self.batches.append([one.order_id for one in request.requests])
        self.time_sec.append(context.time_remaining() - request.answer_margin.ToNanoseconds() * 1e-9)
        if self.behave is not None:
            return await self.behave(request)
        return approved(request)

    async def start(self) -> None:
        self.server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        risk_service_pb2_grpc.add_RiskServiceServicer_to_server(self, self.server)
        assert self.server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self.server.start()

    async def stop(self) -> None:
        await self.server.stop(0)


def approved(request: Any) -> Any:
    answer = risk_pb2.BatchReserveResponse()
    for one in request.requests:
        answer.results.add(response=risk_pb2.ReserveResponse(approved=True, order_id=one.order_id))
    return answer


def hold(risk: Risk) -> asyncio.Event:
    """Has risk answer nothing until the event is set."""
    gate = asyncio.Event()

    async def wait(request: Any) -> Any:
        await gate.wait()
        return approved(request)

    risk.behave = wait
    return gate


@dataclass
class Ahead:
    """A loop whose clock is ahead."""

    loop: asyncio.AbstractEventLoop
    by_sec: float

    def time(self) -> float:
        return self.loop.time() + self.by_sec

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loop, name)


@pytest.fixture
async def risk() -> AsyncIterator[Risk]:
    service = Risk(free_ports(1)[0])  # type: ignore[abstract]
    await service.start()
    yield service
    await service.stop()


@dataclass
class Desk:
    channels: RiskChannels
    client: RiskClient
    cash: list[Decimal]

    def reserve(self, name: str) -> asyncio.Future[Answer]:
        return self.client.reserve(risk_pb2.ReserveRequest(order_id=name))


@pytest.fixture
def in_flight() -> int:
    return 2


@pytest.fixture
def timeout_sec() -> float:
    return 2.0


@pytest.fixture
def patient_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer may be read long after the deadline of what it answers."""
    monkeypatch.setattr(module, "READ_SEC", 20.0)


@pytest.fixture
async def desk(
    risk: Risk, in_flight: int, timeout_sec: float, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Desk]:
    # So that there is something to learn with a deadline that a busy machine keeps.
    monkeypatch.setattr(risk_load, "LEAST_A_SECOND", 5)
    made: list[RiskClient] = []
    cash: list[Decimal] = []
    channels = RiskChannels(
        f"127.0.0.1:{risk.port}", FACTS, lambda: made[0].channel_changed() if made else None, cash.append
    )
    client = RiskClient(channels, timeout_sec, in_flight)
    made.append(client)
    channels.open()
    assert await channels.wait_usable(5)
    yield Desk(channels, client, cash)
    await client.close()
    await channels.close()


async def test_an_order_is_answered_and_its_latency_told(desk: Desk) -> None:
    answer = await desk.reserve("one")
    assert answer.response.approved
    assert answer.response.order_id == "one"
    assert answer.latency_ms > 0


async def test_the_opening_cash_is_learned_before_a_connection_is_used(desk: Desk) -> None:
    assert desk.cash[0] == Decimal("12345.5")


async def test_orders_of_one_turn_leave_together_and_later_ones_with_the_next_call(
    desk: Desk, risk: Risk
) -> None:
    gate = hold(risk)
    first = [desk.reserve(f"a{n}") for n in range(3)]
    await eventually(lambda: len(risk.batches) == 1)
    second = [desk.reserve("b")]
    await eventually(lambda: len(risk.batches) == 2)
    waiting = [desk.reserve(f"c{n}") for n in range(5)]
    await asyncio.sleep(0)
    assert desk.client.waiting == 5
    gate.set()
    answers = await asyncio.gather(*first, *second, *waiting)
    assert all(answer.response.approved for answer in answers)
    assert risk.batches == [["a0", "a1", "a2"], ["b"], [f"c{n}" for n in range(5)]]


async def test_no_call_carries_more_than_the_contract_allows(desk: Desk, risk: Risk) -> None:
    answers = await asyncio.gather(*(desk.reserve(str(n)) for n in range(10_000)))
    assert [answer.response.order_id for answer in answers] == [str(n) for n in range(10_000)]
    assert max(map(len, risk.batches)) == BATCH


# Of two calls one may carry little and the other nearly all of the window; of one the size is the window.
@pytest.mark.parametrize("in_flight", [1])
async def test_calls_carry_more_while_risk_answers_in_time_and_fewer_when_it_does_not(
    desk: Desk, risk: Risk
) -> None:
    await asyncio.gather(*(desk.reserve(str(n)) for n in range(10_000)))
    assert len(risk.batches[0]) == BEGIN
    assert max(map(len, risk.batches)) == BATCH
    at_best = len(risk.batches)

    async def some_unfinished(request: Any) -> Any:
        answer = approved(request)
        if len(request.requests) > 20:
            answer.results[0].error.code = code_pb2.UNAVAILABLE
        return answer

    risk.behave = some_unfinished
    await asyncio.gather(*(desk.reserve(str(n)) for n in range(2000)), return_exceptions=True)
    smaller = [len(batch) for batch in risk.batches[at_best:]]
    assert smaller[0] == BATCH
    assert max(smaller[-20:]) <= 21


async def test_what_is_at_risk_never_exceeds_the_window(desk: Desk, risk: Risk) -> None:
    gate = hold(risk)
    orders = [desk.reserve(str(n)) for n in range(5 * BEGIN)]
    await eventually(lambda: sum(map(len, risk.batches)) >= BEGIN)
    # A call more would be under way by now.
    await desk.channels.ping()
    assert sum(map(len, risk.batches)) == BEGIN
    assert desk.client.waiting == 4 * BEGIN
    gate.set()
    await asyncio.wait(orders)


async def test_a_queue_that_stands_takes_no_more_and_a_burst_is_no_such_queue(
    desk: Desk, risk: Risk, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = hold(risk)
    desk.client.require_room()
    burst = []
    for number in range(1000):
        desk.client.require_room()
        burst.append(desk.reserve(str(number)))
    now = asyncio.get_running_loop().time
    start = now()
    monkeypatch.setattr(desk.client, "_loop", Ahead(asyncio.get_running_loop(), STANDING_SEC + 0.01))
    with pytest.raises(ResourceExhausted) as refused:
        desk.client.require_room()
    assert refused.value.retry_after_sec == STANDING_SEC
    monkeypatch.undo()
    assert now() - start < STANDING_SEC
    gate.set()
    await asyncio.wait(burst)
    desk.client.require_room()


async def test_a_deadline_missed_is_a_timeout_of_unknown_outcome(desk: Desk, risk: Risk) -> None:
    async def never(request: Any) -> Any:
        await asyncio.sleep(60)

    risk.behave = never
    futures = [desk.reserve("one"), desk.reserve("two")]
    for future in futures:
        with pytest.raises(ReservationUnknown) as unknown:
            await future
        assert unknown.value.reason == "risk_timeout"


@pytest.mark.usefixtures("patient_reader")
@pytest.mark.parametrize("timeout_sec", [1.0])
async def test_an_answer_may_be_read_after_the_time_that_risk_had_for_it(
    desk: Desk, risk: Risk, timeout_sec: float
) -> None:
    async def late(request: Any) -> Any:
        await asyncio.sleep(1.2 * timeout_sec)
        return approved(request)

    risk.behave = late
    assert (await desk.reserve("one")).response.approved
    # gRPC rounds a deadline up, by at most a hundredth.
    assert 0 < risk.time_sec[0] <= timeout_sec + 0.01 * (timeout_sec + 20)


async def test_each_order_of_a_call_has_its_own_result(desk: Desk, risk: Risk) -> None:
    async def mixed(request: Any) -> Any:
        answer = approved(request)
        for position, (code, text) in enumerate(
            [
                (code_pb2.UNAVAILABLE, "later"),
                (code_pb2.DEADLINE_EXCEEDED, "late"),
                (code_pb2.INTERNAL, "internal error"),
                (code_pb2.ALREADY_EXISTS, "used before"),
                (code_pb2.INVALID_ARGUMENT, "quantity: must be positive"),
                (code_pb2.RESOURCE_EXHAUSTED, "too much"),
            ],
            1,
        ):
            answer.results[position].error.code = code
            answer.results[position].error.message = text
        del answer.results[7:]
        return answer

    risk.behave = mixed
    futures = [desk.reserve(str(n)) for n in range(8)]
    await asyncio.wait(futures)
    assert futures[0].result().response.approved
    for position, kind, reason in (
        (1, ReservationUnknown, "risk_timeout"),
        (2, ReservationUnknown, "risk_timeout"),
        (3, ReservationUnknown, "risk_error"),
        (4, AlreadyExists, "ALREADY_EXISTS"),
        (5, InvalidArgument, "INVALID_ARGUMENT"),
        (6, ResourceExhausted, "OVERLOADED"),
        (7, ReservationUnknown, "risk_error"),
    ):
        error = futures[position].exception()
        assert isinstance(error, kind)
        assert getattr(error, "reason", None) == reason
    invalid = futures[5].exception()
    assert isinstance(invalid, InvalidArgument)
    assert invalid.violations == (("quantity", "must be positive"),)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INTERNAL, ReservationUnknown),
        (grpc.StatusCode.UNAVAILABLE, ReservationUnknown),
        # Without saying that it was risk that refused, it may have been anybody, at any moment.
        (grpc.StatusCode.RESOURCE_EXHAUSTED, ReservationUnknown),
    ],
)
async def test_a_failed_call_fails_every_order_of_it(
    desk: Desk, risk: Risk, code: grpc.StatusCode, kind: type[Exception]
) -> None:
    async def refuse(request: Any, context: Any) -> Any:
        await context.abort(code, "no")

    risk.BatchReserve = refuse  # type: ignore[method-assign]
    await risk.stop()
    await risk.start()
    assert await desk.channels.wait_usable(5)
    for future in (desk.reserve("one"), desk.reserve("two")):
        with pytest.raises(kind):
            await future


async def test_a_call_that_risk_refuses_at_its_door_reserves_nothing(desk: Desk, risk: Risk) -> None:
    async def refuse(request: Any, context: Any) -> Any:
        await abort_with(context, ResourceExhausted("more than 3 calls are open"))

    risk.BatchReserve = refuse  # type: ignore[method-assign]
    await risk.stop()
    await risk.start()
    assert await desk.channels.wait_usable(5)
    with pytest.raises(ResourceExhausted):
        await desk.reserve("one")


async def test_without_anybody_there_nothing_is_sent_and_the_return_is_noticed(
    desk: Desk, risk: Risk
) -> None:
    await risk.stop()
    await eventually(lambda: desk.channels.refused, within_sec=10)
    with pytest.raises(RiskUnreachable) as unreachable:
        await desk.reserve("one")
    assert unreachable.value.reason == "risk_error"
    with pytest.raises(ConnectionError):
        await desk.channels.ping()
    await risk.start()
    assert await desk.channels.wait_usable(5)
    assert (await desk.reserve("two")).response.approved
    await desk.channels.ping()


async def test_a_service_on_another_ledger_is_never_asked(risk: Risk, desk: Desk) -> None:
    await risk.stop()
    risk.ledger_id = "other"
    await risk.start()
    await eventually(lambda: bool(desk.channels.foreign), within_sec=10)
    with pytest.raises(RiskUnreachable) as unreachable:
        await desk.reserve("one")
    assert unreachable.value.reason == "risk_error"
    assert risk.batches == []
    risk.ledger_id = "ledger"
    assert await desk.channels.wait_usable(5)
    assert (await desk.reserve("two")).response.approved


async def test_too_many_waiting_orders_are_refused_with_nothing_reserved(
    desk: Desk, risk: Risk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)

    async def slow(request: Any) -> Any:
        await asyncio.sleep(0.1)
        return approved(request)

    risk.behave = slow
    futures = [desk.reserve(str(n)) for n in range(3)]
    with pytest.raises(ResourceExhausted):
        desk.reserve("too many")
    assert all(answer.response.approved for answer in await asyncio.gather(*futures))


async def test_an_order_that_waited_too_long_is_refused_unsent(
    desk: Desk, risk: Risk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(request: Any) -> Any:
        await asyncio.sleep(0.2)
        return approved(request)

    risk.behave = slow
    monkeypatch.setattr(module, "MAX_WAIT_SEC", 0.05)
    busy = [desk.reserve("a")]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    busy.append(desk.reserve("b"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    late = desk.reserve("c")
    with pytest.raises(ResourceExhausted):
        await late
    await asyncio.gather(*busy)
    assert sorted(one for batch in risk.batches for one in batch) == ["a", "b"]


async def two_connections(desk: Desk) -> list[RiskChannel]:
    """Both, once both can be used."""

    def usable() -> list[RiskChannel]:
        picked = {id(one): one for one in (desk.channels.pick() for _ in range(4)) if one is not None}
        return list(picked.values()) if len(picked) == 2 else []

    return await eventually(usable, within_sec=5)


async def test_a_connection_that_misses_deadlines_is_replaced_when_another_does_better(desk: Desk) -> None:
    bad, good = await two_connections(desk)
    for _ in range(EJECT_AFTER):
        desk.channels.missed(bad)
    assert desk.channels.ejections == 1
    assert desk.channels.pick() is good
    await two_connections(desk)
    assert bad not in [desk.channels.pick() for _ in range(4)]


async def test_no_connection_is_replaced_while_all_miss_deadlines(desk: Desk) -> None:
    one, two = await two_connections(desk)
    for _ in range(5):
        desk.channels.missed(one)
        desk.channels.missed(two)
    assert desk.channels.ejections == 0
    assert desk.channels.pick() in (one, two)
