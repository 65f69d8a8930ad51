"""Reservations at risk: what arrives together travels together.

One `BatchReserve` carries whatever orders arrived while earlier ones were in flight; nothing waits for more.
A few calls may be in flight, so that one late answer does not hold up everything behind it. How many orders
they carry together, and how many may wait, follows what risk answers in time (`risk_load`).
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

import grpc
from google.protobuf import duration_pb2
from google.rpc import code_pb2, error_details_pb2
from grpc_status import rpc_status

from services.oms.risk_channel import RiskChannel, RiskChannels
from services.oms.risk_load import Backlog, Window
from services.runtime.errors import (
    AlreadyExists,
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    ServiceError,
)
from services.runtime.telemetry import get_logger
from trade2026.risk.v1 import risk_pb2
from trade2026.type.v1 import order_pb2

BATCH: Final = 64
"""Orders in one call; the contract's bound."""
IN_FLIGHT: Final = 2
"""Calls whose answer is awaited. Waiting here costs nothing of the deadline; waiting at risk does."""
MAX_WAITING: Final = 20_000
"""Orders that may wait for their sending; a burst of 10,000 is no overload."""
MAX_WAIT_SEC: Final = 10.0
"""Longest wait before the sending: what such a burst takes on a small machine."""
READ_SEC: Final = 0.02
"""For reading what risk answered within the deadline: a busy loop comes to it later. An order given up then
would cost a commit more than it takes to read the answer."""
STANDING_SEC: Final = 1.0
"""A wait that shows overload, and how long what is taken then waits. A disk that stalls takes less."""

TIMEOUT: Final = "risk_timeout"
ERROR: Final = "risk_error"

_log = get_logger("oms.risk_client")


class ReservationUnknown(Exception):
    """No outcome was seen: the reservation may exist, or may come to exist later.

    `reason` is the published one, `risk_timeout` or `risk_error`; the text is a sentence for the client.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class RiskUnreachable(Exception):
    """Nothing was sent, so nothing is reserved. `reason` is the published one."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Answer:
    """What risk answered to one order, and how long after its sending, in milliseconds."""

    response: risk_pb2.ReserveResponse
    latency_ms: float


@dataclass(slots=True)
class _Waiting:
    request: risk_pb2.ReserveRequest
    future: "asyncio.Future[Answer]"
    since: float


class RiskClient:
    """Sends reservations; one a worker."""

    def __init__(self, channels: RiskChannels, timeout_sec: float, in_flight: int = IN_FLIGHT) -> None:
        """`timeout_sec` is the time that risk has for a reservation, counted from its sending; its answer is
        awaited for `READ_SEC` more."""
        self._channels = channels
        self._timeout_sec = timeout_sec
        self._read_sec = duration_pb2.Duration()
        self._read_sec.FromNanoseconds(round(READ_SEC * 1e9))
        self._limit = in_flight
        self._window = Window(timeout_sec, in_flight * BATCH)
        self._backlog = Backlog(STANDING_SEC)
        self._at_risk = 0
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Waiting] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._scheduled = False
        self._patience: asyncio.TimerHandle | None = None

    @property
    def reachable(self) -> bool:
        """Whether a connection can be used now."""
        return self._channels.pick() is not None

    @property
    def waiting(self) -> int:
        """Orders that are not sent yet."""
        return len(self._waiting)

    def require_room(self) -> None:
        """Raises `ResourceExhausted` while more orders come than risk can check."""
        waiting, now = self._waiting, self._loop.time()
        if self._backlog.refuses(now, len(waiting), waiting[0].since if waiting else now):
            raise ResourceExhausted(
                f"more orders wait for their risk check than leave within {STANDING_SEC:g} s; "
                "nothing was done",
                retry_after_sec=STANDING_SEC,
            )

    def reserve(self, request: risk_pb2.ReserveRequest) -> "asyncio.Future[Answer]":
        """Asks for one reservation. Must not be cancelled.

        The future fails with `ReservationUnknown`; with `RiskUnreachable` or a `ServiceError` when certainly
        nothing is reserved. Raises `ResourceExhausted` at
        once when too many orders wait.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise ResourceExhausted(f"{MAX_WAITING} orders wait for their risk check; nothing was reserved")
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._waiting.append(_Waiting(request, future, self._loop.time()))
        if not self._scheduled and self._room():
            # At the end of this turn of the loop: orders of one batch, or of one read, are all there by then.
            self._scheduled = True
            self._loop.call_soon(self._send)
        return future

    async def close(self) -> None:
        """Waits for the answers to what was sent; what was not fails as unreachable."""
        self._fail_waiting(ERROR, "oms is stopping")
        if self._calls:
            await asyncio.wait(self._calls)

    def channel_changed(self) -> None:
        """To be called when a connection came or went: what waits for one is looked at again."""
        if self._waiting and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        self._scheduled = False
        while self._waiting and (room := self._room()):
            channel = self._channels.pick()
            if channel is None:
                self._without_channel()
                return
            batch = self._next_batch(room)
            if batch:
                self._at_risk += len(batch)
                call = self._loop.create_task(self._call(channel, batch, room), name="batch reserve")
                self._calls.add(call)
                call.add_done_callback(self._called)

    def _room(self) -> int:
        """Orders that a call may carry now: what is free of the window; 0: none."""
        if len(self._calls) >= self._limit:
            return 0
        return max(0, min(BATCH, self._window.size - self._at_risk))

    def _called(self, call: "asyncio.Task[None]") -> None:
        self._calls.discard(call)
        if not call.cancelled() and (error := call.exception()) is not None:
            _log.error("reservation call failed", error=f"{type(error).__name__}: {error}", exc_info=error)
        if self._waiting and not self._scheduled:
            self._send()

    def _next_batch(self, most: int) -> list[_Waiting]:
        waited = len(self._waiting)
        oldest = self._loop.time() - MAX_WAIT_SEC
        batch: list[_Waiting] = []
        while self._waiting and len(batch) < most:
            one = self._waiting.popleft()
            if one.since < oldest:
                one.future.set_exception(
                    ResourceExhausted(f"not sent to risk within {MAX_WAIT_SEC:g} s; nothing was reserved")
                )
                continue
            batch.append(one)
        self._backlog.left(waited - len(self._waiting))
        return batch

    def _without_channel(self) -> None:
        """Nothing can be sent now: an error when nobody is there, a timeout when nobody answers."""
        if self._channels.foreign:
            self._fail_waiting(ERROR, "risk works on another ledger; nothing was reserved")
        elif self._channels.refused:
            self._fail_waiting(ERROR, "risk cannot be reached; nothing was reserved")
        elif self._patience is None:
            self._patience = self._loop.call_later(self._timeout_sec, self._out_of_patience)

    def _out_of_patience(self) -> None:
        self._patience = None
        if self._channels.pick() is None:
            reason = ERROR if self._channels.refused else TIMEOUT
            self._fail_waiting(reason, "risk does not answer; nothing was reserved")
        else:
            self._send()

    def _fail_waiting(self, reason: str, message: str) -> None:
        waiting, self._waiting = self._waiting, deque()
        for one in waiting:
            one.future.set_exception(RiskUnreachable(reason, message))

    async def _call(self, channel: RiskChannel, batch: list[_Waiting], room: int) -> None:
        """Asks for `batch`, of which there might have been `room`, and tells the window how it went."""
        sent = perf_counter()  # the loop's own time has steps of a millisecond
        try:
            finished = await self._ask(channel, batch, sent)
        finally:
            self._at_risk -= len(batch)
        if finished:
            self._window.answered(len(batch), room, (perf_counter() - sent) * 1000)
        else:
            self._window.missed(len(batch), room)

    async def _ask(self, channel: RiskChannel, batch: list[_Waiting], sent: float) -> bool:
        """Gives every order of `batch` its answer; False when the call failed, or had no time for some."""
        request = risk_pb2.BatchReserveRequest(
            requests=[one.request for one in batch], answer_margin=self._read_sec
        )
        try:
            answer = await channel.stub.BatchReserve(request, timeout=self._timeout_sec + READ_SEC)
        except grpc.aio.AioRpcError as error:
            self._failed(channel, batch, error)
            return False
        except BaseException:
            # Whatever it is, the orders must not wait for ever: their outcome is unknown.
            for one in batch:
                one.future.set_exception(ReservationUnknown(ERROR, "the call to risk failed"))
            raise
        self._channels.answered(channel)
        latency_ms = (perf_counter() - sent) * 1000
        results = answer.results
        finished = True
        for position, one in enumerate(batch):
            if position >= len(results):
                one.future.set_exception(
                    ReservationUnknown(ERROR, "risk answered fewer orders than were asked")
                )
                continue
            result = results[position]
            _settle(one.future, result, latency_ms)
            finished = finished and not _too_late(result)
        return finished

    def _failed(self, channel: RiskChannel, batch: list[_Waiting], error: grpc.aio.AioRpcError) -> None:
        code = error.code()
        for one in batch:
            failure: Exception
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                failure = ReservationUnknown(
                    TIMEOUT, f"risk did not answer within {self._timeout_sec * 1000:g} ms"
                )
            elif code is grpc.StatusCode.RESOURCE_EXHAUSTED and _refused_at_the_door(error):
                failure = ResourceExhausted("risk is overloaded; nothing was reserved")
            else:
                failure = ReservationUnknown(ERROR, "risk could not be reached or answered an error")
            one.future.set_exception(failure)
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            self._channels.missed(channel)
        else:
            _log.warning("risk call failed", code=code.name, orders=len(batch), target=self._channels.target)


def _refused_at_the_door(error: grpc.aio.AioRpcError) -> bool:
    """Whether risk itself says that it did not take the call; libraries use the code for other things."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return bool(info.reason == ResourceExhausted.default_reason)
    return False


def _settle(future: "asyncio.Future[Answer]", result: risk_pb2.ReserveResult, latency_ms: float) -> None:
    which = result.WhichOneof("result")
    if which == "response":
        future.set_result(Answer(result.response, latency_ms))
    elif which == "error":
        future.set_exception(_error_of(result.error))
    else:
        future.set_exception(ReservationUnknown(ERROR, "risk answered nothing for the order"))


def _too_late(result: risk_pb2.ReserveResult) -> bool:
    """Whether risk had no time to finish the order, or to begin it."""
    if result.HasField("error"):
        return result.error.code in _OUT_OF_TIME
    return bool(result.response.reason == order_pb2.DENIAL_REASON_LEDGER_UNAVAILABLE)


_OUT_OF_TIME: Final = (code_pb2.UNAVAILABLE, code_pb2.DEADLINE_EXCEEDED)
_REFUSALS: Final[Mapping[int, type[ServiceError]]] = {
    code_pb2.ALREADY_EXISTS: AlreadyExists,
    code_pb2.RESOURCE_EXHAUSTED: ResourceExhausted,
    code_pb2.NOT_FOUND: NotFound,
    code_pb2.FAILED_PRECONDITION: FailedPrecondition,
    code_pb2.ABORTED: Conflict,
}
"""Answers that say for certain that nothing was reserved."""


def _error_of(status: Any) -> Exception:
    if status.code == code_pb2.INVALID_ARGUMENT:
        field, _, description = status.message.partition(": ")
        return InvalidArgument(field, description) if description else InvalidArgument("", status.message)
    refusal = _REFUSALS.get(status.code)
    if refusal is not None:
        info = error_details_pb2.ErrorInfo()
        if any(detail.Unpack(info) for detail in status.details):
            return refusal(status.message, reason=info.reason, metadata=dict(info.metadata))
        return refusal(status.message)
    if status.code in _OUT_OF_TIME:
        return ReservationUnknown(TIMEOUT, "risk did not finish the reservation in time")
    return ReservationUnknown(ERROR, "risk answered an error")
