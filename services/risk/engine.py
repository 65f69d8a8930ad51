"""The checks on the live ledger and the live market: dry evaluations, and reservations."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Protocol, TypeAlias

from services.ledger import commands as c
from services.ledger.account import Account
from services.ledger.errors import CommitUnknown, LedgerError
from services.ledger.order import Order
from services.risk.checks import Candidate, Market, Policy, Verdict, evaluate, evaluate_group
from services.runtime.errors import InvalidArgument
from services.runtime.telemetry import get_logger

LEDGER_UNAVAILABLE: Final = Verdict(
    False, "ledger_unavailable", "the account's state cannot be read or reserved in"
)

_log = get_logger("risk.engine")


class MarketSource(Protocol):
    """Marks and daily returns as this process knows them."""

    def now(self) -> Market:
        """What is known at this moment; later changes do not reach it."""
        ...


class AccountLedger(Protocol):
    """What risk asks of the ledger; see `services.ledger.ledger.Ledger`."""

    identity: str

    def cached(self, account: str) -> Account | None: ...

    def known_absent(self, account: str) -> bool:
        """The account was read, was never opened, and nothing has changed since."""
        ...

    async def account(self, account: str, *, fresh: bool = False) -> Account | None: ...

    def submit(self, command: c.Command, timeout: float = 1.0) -> "asyncio.Future[c.Outcome]": ...

    async def rehearse(self, command: c.Reserve, cash: Decimal) -> c.Outcome:
        """What the command would do to an account with `cash`; leaves nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Amendment:
    """Which amendment of its order a reservation is."""

    order_id: str
    revision: int


@dataclass(frozen=True, slots=True)
class Reservation:
    """An order to check and reserve; with `amends`, new terms of one that is held already."""

    order: Order
    max_open_orders: int
    """Open orders that the account may have with this one; 0: no limit."""
    amends: Amendment | None = None
    further: tuple[Order, ...] = ()
    """The other orders of the group of which `order` is the first."""


@dataclass(frozen=True, slots=True)
class Reserved:
    """An answered reservation."""

    outcome: c.Outcome


@dataclass(frozen=True, slots=True)
class NotReserved:
    """Certainly nothing was reserved."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Unknown:
    """The reservation may exist, or may yet come to exist."""

    late: bool
    """The time was up; otherwise the ledger gave up."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """The request contradicts the order that it amends; nothing was reserved."""

    error: InvalidArgument


Answer: TypeAlias = Reserved | NotReserved | Unknown | Malformed


class RiskEngine:
    """Evaluates and reserves. One a worker, on its event loop."""

    def __init__(
        self,
        policy: Policy,
        opening_cash: Decimal,
        market: MarketSource,
        *,
        always_read: bool = False,
    ) -> None:
        """`always_read`: every evaluation reads the account from Valkey."""
        self.policy = policy
        self.market = market
        self.ledger: AccountLedger | None = None
        """None until it is connected; everything is denied before."""
        self._always_read = always_read
        self._unopened = Account("", "", opening_cash, opening_cash)

    def evaluate_at_once(
        self, account: str, order: Candidate, explain: bool, market: Market | None = None
    ) -> Verdict | None:
        """The verdict when the account is at hand; None when it has to be read first."""
        ledger = self.ledger
        if ledger is None or self._always_read:
            return None
        state = ledger.cached(account)
        if state is None:
            if not ledger.known_absent(account):
                return None
            state = self._unopened
        return self._evaluate(state, order, explain, market or self.market.now())

    async def evaluate(
        self, account: str, order: Candidate, explain: bool, market: Market | None = None
    ) -> Verdict:
        """The verdict on the account as it stands. Changes nothing; an unknown account is not opened."""
        try:
            state = await self.account(account)
        except LedgerError as error:
            _log.debug("ledger unavailable", account=account, error=str(error))
            return LEDGER_UNAVAILABLE
        return self._evaluate(state, order, explain, market or self.market.now())

    async def account(self, account: str) -> Account:
        """The account's state, or that of one that has just been opened. Raises `LedgerUnavailable`."""
        if self.ledger is None:
            raise LedgerError("the ledger is not connected yet")
        state = await self.ledger.account(account, fresh=self._always_read)
        return self._unopened if state is None else state

    def reserve(
        self,
        reservations: Sequence[Reservation],
        within: float,
        answered: Callable[[Reservation, Answer], None],
    ) -> "list[asyncio.Future[Answer]]":
        """Submits all reservations at once, so that those of one account become one commit.

        Every one is carried through, or given up, within about `within` seconds, whether or not somebody
        waits. `answered` is told of each when it is settled; the futures never fail and are in the order of
        the reservations.
        """
        market = self.market.now()
        loop = asyncio.get_running_loop()
        futures = []
        for reservation in reservations:
            future: asyncio.Future[Answer] = loop.create_future()
            futures.append(future)
            if self.ledger is None:
                future.set_result(NotReserved(LEDGER_UNAVAILABLE))
                answered(reservation, future.result())
                continue
            command = _command(reservation, market, self.policy)
            submitted = self.ledger.submit(command, within)
            submitted.add_done_callback(_Settle(reservation, future, answered))
        return futures

    async def rehearse(self, reservation: Reservation) -> Reserved:
        """What `reservation`, of an account that does not exist, would be answered; leaves nothing.

        Raises `LedgerError`.
        """
        if self.ledger is None:
            raise LedgerError("the ledger is not connected yet")
        command = _command(reservation, self.market.now(), self.policy)
        assert isinstance(command, c.Reserve)
        return Reserved(await self.ledger.rehearse(command, self._unopened.cash))

    def _evaluate(self, account: Account, order: Candidate, explain: bool, market: Market) -> Verdict:
        verdict = evaluate(account, order, market, self.policy, explain=explain)
        if verdict.error is not None:
            log_check_error(verdict.error, account.account, order.symbol)
        return verdict


class _Settle:
    """Turns the ledger's answer to one command into an `Answer`."""

    __slots__ = ("_answered", "_future", "_reservation")

    def __init__(
        self,
        reservation: Reservation,
        future: "asyncio.Future[Answer]",
        answered: Callable[[Reservation, Answer], None],
    ) -> None:
        self._reservation = reservation
        self._future = future
        self._answered = answered

    def __call__(self, submitted: "asyncio.Future[c.Outcome]") -> None:
        error = submitted.exception()
        answer: Answer
        if error is None:
            answer = Reserved(submitted.result())
        elif isinstance(error, CommitUnknown):
            answer = Unknown(late=False)
        elif isinstance(error, LedgerError):
            answer = NotReserved(LEDGER_UNAVAILABLE)
        elif isinstance(error, InvalidArgument):
            answer = Malformed(error)
        else:
            order = self._reservation.order
            log_check_error(error, order.account, order.symbol)
            answer = NotReserved(CHECK_ERROR)
        if not self._future.done():
            self._future.set_result(answer)
        self._answered(self._reservation, answer)


CHECK_ERROR: Final = Verdict(False, "risk_check_error", "the checks could not be evaluated")


def log_check_error(error: BaseException, account: str, symbol: str) -> None:
    """Keeps for the operator what no client is told."""
    _log.error("check failed to evaluate", account=account, symbol=symbol, exc_info=error)


def _command(reservation: Reservation, market: Market, policy: Policy) -> c.Command:
    order, most = reservation.order, reservation.max_open_orders

    def assess(account: Account, candidate: Order) -> c.Approved | c.Refused:
        verdict = evaluate(account, candidate, market, policy, max_open_orders=most)
        if verdict.error is not None:
            log_check_error(verdict.error, account.account, candidate.symbol)
        return verdict.decision(candidate)

    def assess_group(account: Account, group: tuple[Order, ...]) -> tuple[c.Approved, ...] | c.Refused:
        approved: list[c.Approved] = []
        for one, verdict in zip(group, evaluate_group(account, group, market, policy, most), strict=False):
            if verdict.error is not None:
                log_check_error(verdict.error, account.account, one.symbol)
            decision = verdict.decision(one)
            if isinstance(decision, c.Refused):
                return decision
            approved.append(decision)
        return tuple(approved)

    if reservation.further:
        return c.ReserveGroup((order, *reservation.further), assess_group)
    amends = reservation.amends
    if amends is None:
        return c.Reserve(order, assess)

    def assess_amendment(account: Account, candidate: Order) -> c.Approved | c.Refused:
        for field in ("symbol", "side", "order_type"):
            if getattr(candidate, field) != getattr(order, field):
                name = "type" if field == "order_type" else field
                raise InvalidArgument(name, "an amendment cannot change it")
        return assess(account, candidate)

    terms = order.terms
    return c.Amend(
        order.account,
        amends.order_id,
        amends.revision,
        terms.quantity,
        terms.price,
        terms.stop_price,
        assess_amendment,
        order.digest,
    )
