"""Connections to risk that keep themselves up, each checked to work on our own ledger before it is used."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import grpc

from services.runtime.ids import new_ulid
from services.runtime.tasks import end
from services.runtime.telemetry import get_logger
from trade2026.channel import open_channel
from trade2026.risk.v1 import risk_pb2, risk_service_pb2_grpc

CHANNELS: Final = 2
"""Connections a worker holds: with SO_REUSEPORT each may lead to another worker of risk."""
EJECT_AFTER: Final = 3
"""Deadlines missed in a row after which a connection is replaced, when another one does better."""
INFO_TIMEOUT_SEC: Final = 1.0
RECHECK_SEC: Final = 1.0
CLOSE_GRACE_SEC: Final = 0.5

OPTIONS: Final = (
    # Each channel has a connection of its own; the default shares one among equal targets.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 250),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    # A peer that vanished without a word is found by pings. A frozen one is found by missed deadlines first.
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Whether something is sent again is decided by the order's submission alone.
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
)

_log = get_logger("oms.risk_channel")


class ForeignLedger(Exception):
    """The risk service works on another ledger, or with other partitions, than this oms."""


@dataclass(frozen=True, slots=True)
class LedgerFacts:
    """What a risk service has to agree on."""

    ledger_id: str
    partitions: int


class RiskChannel:
    """One connection. `usable` while it is up and leads to a risk service on our ledger."""

    def __init__(
        self,
        target: str,
        expected: LedgerFacts,
        changed: Callable[[], None],
        learned: Callable[[Decimal], None],
        authorities: str,
    ) -> None:
        self._target = target
        self._authorities = authorities
        self._expected = expected
        self._changed = changed
        self._learned = learned
        self._keeper: asyncio.Task[None] | None = None
        self._stub: Any = None
        self.usable = False
        self.refused = False
        """The peer cannot be reached: nothing listens, or the network says no."""
        self.foreign = ""
        """What is wrong with the ledger of the peer; empty when nothing is."""
        self.missed = 0
        """Deadlines missed in a row."""

    def open(self) -> None:
        """Starts to connect; returns at once."""
        self._keeper = asyncio.get_running_loop().create_task(
            self._keep(), name=f"risk channel {self._target}"
        )

    @property
    def stub(self) -> Any:
        """The generated stub on the connection."""
        return self._stub

    async def close(self) -> None:
        """Ends the connection; calls in flight get a moment to finish."""
        keeper, self._keeper = self._keeper, None
        self.usable = False
        if keeper is not None:
            await end(keeper)

    async def info(self, timeout_sec: float = INFO_TIMEOUT_SEC) -> risk_pb2.GetServiceInfoResponse:
        """What the peer says of itself. Raises `grpc.aio.AioRpcError`."""
        info: risk_pb2.GetServiceInfoResponse = await self._stub.GetServiceInfo(
            risk_pb2.GetServiceInfoRequest(), timeout=timeout_sec
        )
        return info

    async def _keep(self) -> None:
        channel = open_channel(self._target, OPTIONS, self._authorities)
        self._stub = risk_service_pb2_grpc.RiskServiceStub(channel)
        try:
            while True:
                state = channel.get_state(try_to_connect=True)
                # While a connection is tried again the answer to the last trial counts.
                if state is not grpc.ChannelConnectivity.CONNECTING:
                    self.refused = state is grpc.ChannelConnectivity.TRANSIENT_FAILURE
                usable = state is grpc.ChannelConnectivity.READY and (self.usable or await self._verified())
                if usable != self.usable:
                    self.usable, self.missed = usable, 0
                    _log.info("risk channel up" if usable else "risk channel down", target=self._target)
                    self._changed()
                change = channel.wait_for_state_change(state)
                if state is grpc.ChannelConnectivity.READY and not usable:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(change, RECHECK_SEC)
                else:
                    await change
        finally:
            self.usable = False
            await channel.close(CLOSE_GRACE_SEC)

    async def _verified(self) -> bool:
        try:
            found = self._difference(await self.info())
            opening_cash = await self._opening_cash() if not found else None
        except grpc.aio.AioRpcError as error:
            _log.warning("risk does not tell its ledger", target=self._target, error=code_name(error))
            return False
        if found and found != self.foreign:
            _log.error("risk works on another ledger", target=self._target, difference=found)
        self.foreign = found
        if opening_cash is not None:
            self._learned(opening_cash)
        return not found

    async def _opening_cash(self) -> Decimal:
        """The cash of an account that is not open yet: that of a name which nobody ever used."""
        request = risk_pb2.GetAccountRiskRequest(account=new_ulid())
        answer = await self._stub.GetAccountRisk(request, timeout=INFO_TIMEOUT_SEC)
        return Decimal(answer.cash.value or "0")

    def _difference(self, info: risk_pb2.GetServiceInfoResponse) -> str:
        expected = self._expected
        if info.ledger_id != expected.ledger_id:
            return f"ledger is {info.ledger_id!r}, expected {expected.ledger_id!r}"
        if info.partitions != expected.partitions:
            return f"partitions are {info.partitions}, expected {expected.partitions}"
        return ""


class RiskChannels:
    """The connections of one worker to risk."""

    def __init__(
        self,
        target: str,
        expected: LedgerFacts,
        on_change: Callable[[], None],
        on_opening_cash: Callable[[Decimal], None],
        count: int = CHANNELS,
        authorities: str = "",
    ) -> None:
        """`on_change` is called when a connection becomes usable or stops being so, `on_opening_cash` before
        that with the cash that risk gives to an account that is opened. With `authorities`, a PEM file, the
        connections are encrypted.
        """
        self._new: Callable[[], RiskChannel] = lambda: RiskChannel(
            target, expected, on_change, on_opening_cash, authorities
        )
        self._channels = [self._new() for _ in range(count)]
        self._next = 0
        self._closing: set[asyncio.Task[None]] = set()
        self.target = target
        self.ejections = 0

    def open(self) -> None:
        """Starts to connect; returns at once."""
        for channel in self._channels:
            channel.open()

    async def close(self) -> None:
        """Ends the connections."""
        await asyncio.gather(*(channel.close() for channel in self._channels), *self._closing)

    async def wait_usable(self, timeout_sec: float) -> bool:
        """Waits at most `timeout_sec` seconds for a connection that can be used; False when there is none."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_sec
        while self.pick() is None:
            if loop.time() >= deadline:
                return False
            await asyncio.sleep(0.01)
        return True

    def pick(self) -> RiskChannel | None:
        """The next usable connection in turn, one that answers in time rather than one that does not."""
        usable = [channel for channel in self._channels if channel.usable]
        if not usable:
            return None
        prompt = [channel for channel in usable if not channel.missed] or usable
        self._next += 1
        return prompt[self._next % len(prompt)]

    @property
    def refused(self) -> bool:
        """Nothing can be reached, and not merely nothing answers."""
        return all(channel.refused or channel.foreign for channel in self._channels)

    @property
    def foreign(self) -> str:
        """What is wrong with the ledger of the peer; empty when nothing is, or it is not known."""
        return next((channel.foreign for channel in self._channels if channel.foreign), "")

    def answered(self, channel: RiskChannel) -> None:
        """An answer came in time."""
        channel.missed = 0

    def missed(self, channel: RiskChannel) -> None:
        """A deadline passed; the connection is replaced when it fails repeatedly and another does not."""
        channel.missed += 1
        if channel.missed < EJECT_AFTER or channel not in self._channels:
            return
        if any(other.usable and not other.missed for other in self._channels if other is not channel):
            self.ejections += 1
            _log.warning("risk channel ejected", target=self.target, missed=channel.missed)
            fresh = self._new()
            self._channels[self._channels.index(channel)] = fresh
            fresh.open()
            closing = asyncio.get_running_loop().create_task(channel.close(), name="close risk channel")
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def ping(self) -> None:
        """Returns when risk answers and works on our ledger; the health probe."""
        channel = self.pick()
        if channel is None:
            foreign = self.foreign
            raise (
                ForeignLedger(foreign)
                if foreign
                else ConnectionError(f"risk at {self.target} is not reachable")
            )
        try:
            await channel.info()
        except grpc.aio.AioRpcError as error:
            raise ConnectionError(f"risk at {self.target} answers {code_name(error)}") from None


def code_name(error: grpc.aio.AioRpcError) -> str:
    """The name of a failed call's status code."""
    code: grpc.StatusCode = error.code()
    return str(code.name)
