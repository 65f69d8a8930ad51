"""What the callers saw: every request with when it began and ended and what it was answered, every drop copy.

Nothing here is asked of the platform behind the callers' back; `observed.py` holds that side. Times are
`time.monotonic()` seconds of the one process that all callers run in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import StrEnum


class Told(StrEnum):
    """What a caller knows after a request."""

    SUBMITTED = "submitted"
    REJECTED = "rejected"
    CONFLICT = "conflict"
    """The client order id belongs to other terms."""
    NOTHING_DONE = "nothing_done"
    """RESOURCE_EXHAUSTED: overload, or a full journal."""
    UNKNOWN = "unknown"
    """UNAVAILABLE, a deadline, a lost connection: anything may have happened."""
    ERROR = "error"
    """An answer that the contract does not give to a valid request."""


@dataclass(frozen=True, slots=True)
class Intent:
    """An order as its caller wants it."""

    client_order_id: str
    account: str
    symbol: str
    side: str
    type: str
    quantity: Decimal
    price: Decimal | None = None
    stop_price: Decimal | None = None
    group: str = ""
    """Kind and terms of all orders that are wanted together with it, as text; empty: it is wanted alone."""


@dataclass(frozen=True, slots=True)
class GroupIntent:
    """Orders that their caller wants together, in their order. `kind`: oco or bracket.

    At least one of them has a client order id; the others may have none.
    """

    kind: str
    orders: tuple[Intent, ...]

    @classmethod
    def of(cls, kind: str, orders: Iterable[Intent]) -> GroupIntent:
        """A group of orders; each of them tells from then on which group it is of."""
        alone = [replace(order, group="") for order in orders]
        text = f"{kind}: {'; '.join(map(str, alone))}"
        return cls(kind, tuple(replace(order, group=text) for order in alone))

    @property
    def text(self) -> str:
        """Tells this group from every other one, those with other terms under the same ids included."""
        return self.orders[0].group

    @property
    def account(self) -> str:
        """The account of all its orders."""
        return self.orders[0].account


@dataclass(frozen=True, slots=True)
class Answer:
    """What one submission was answered; `reason` of a rejection, `detail` of an error."""

    told: Told
    order_id: str = ""
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One submission of an intent. `way`: grpc, batch, rest or review."""

    intent: Intent
    way: str
    began: float
    ended: float
    answer: Answer


@dataclass(frozen=True, slots=True)
class GroupAttempt:
    """One submission of a group, with an answer for each of its orders. `way`: grpc, rest or review."""

    intent: GroupIntent
    way: str
    began: float
    ended: float
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class CancelAttempt:
    """One cancel. `told`: asked (the order is pending_cancel), ended, missing, unknown or error."""

    order_id: str
    began: float
    ended: float
    told: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class AmendAttempt:
    """One amendment. `told`: asked (the order is pending_replace), refused, missing, unknown or error.

    A price is None when the amendment leaves it.
    """

    order_id: str
    quantity: Decimal
    price: Decimal | None
    told: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """An order as GetOrder told it. `missing`: it told NOT_FOUND."""

    order_id: str
    began: float
    ended: float
    state: str
    cumulative: Decimal
    missing: bool = False


@dataclass(frozen=True, slots=True)
class CopiedFill:
    """A trade in a drop copy."""

    fill_id: str
    symbol: str
    side: str
    quantity: Decimal
    price: Decimal


@dataclass(frozen=True, slots=True)
class CopiedOrder:
    """The terms of an order in a drop copy."""

    client_order_id: str
    symbol: str
    side: str
    type: str
    quantity: Decimal
    price: Decimal | None
    stop_price: Decimal | None
    group_id: str = ""
    """Id of the first of the orders that were submitted together; empty: it was submitted alone."""


@dataclass(frozen=True, slots=True)
class CopiedTerms:
    """The terms that an amendment asks for."""

    quantity: Decimal
    price: Decimal | None
    stop_price: Decimal | None


@dataclass(frozen=True, slots=True)
class Copied:
    """One event of a drop copy. `revision` and `terms` belong to amendments."""

    sequence: int
    kind: str
    order_id: str
    state: str
    reason: str
    fill: CopiedFill | None
    order: CopiedOrder | None
    revision: int = 0
    terms: CopiedTerms | None = None


@dataclass(slots=True)
class DropCopy:
    """What one follower received of one account, in the order of arrival."""

    follower: str
    events: list[Copied] = field(default_factory=list)
    resumed: int = 0
    complaints: list[str] = field(default_factory=list)
    """Gaps, repetitions and heartbeats that contradict what was received."""

    @property
    def last(self) -> int:
        """Number of the last event; 0 before the first."""
        return self.events[-1].sequence if self.events else 0

    def receive(self, event: Copied) -> None:
        """Notes an event; numbers must follow each other without gap."""
        if event.sequence != self.last + 1:
            self.complaints.append(
                f"{self.follower} received {event.sequence} after {self.last} (resumed {self.resumed} times)"
            )
            if event.sequence <= self.last:
                return
        self.events.append(event)

    def heartbeat(self, sequence: int) -> None:
        """A heartbeat names the last event that was sent on its stream; a fresh stream has sent none."""
        if sequence not in (0, self.last):
            self.complaints.append(f"{self.follower}: heartbeat says {sequence}, received up to {self.last}")


@dataclass(slots=True)
class History:
    """Everything that the callers of one round saw."""

    attempts: dict[str, list[Attempt]] = field(default_factory=lambda: defaultdict(list))
    """By client order id, in the order of their ends; those of the orders of groups as well."""
    groups: dict[str, list[GroupAttempt]] = field(default_factory=lambda: defaultdict(list))
    """By the group's text, in the order of their ends."""
    cancels: list[CancelAttempt] = field(default_factory=list)
    amends: list[AmendAttempt] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    copies: dict[str, list[DropCopy]] = field(default_factory=lambda: defaultdict(list))
    """By account."""

    def of_account(self, account: str) -> list[list[Attempt]]:
        """The attempts of each client order id of an account."""
        return [tries for tries in self.attempts.values() if tries[0].intent.account == account]

    def groups_of_account(self, account: str) -> list[list[GroupAttempt]]:
        """The attempts of each group of an account."""
        return [tries for tries in self.groups.values() if tries[0].intent.account == account]

    def note_group(self, attempt: GroupAttempt) -> None:
        """Notes an attempt of a group, and of each of its orders that has a client order id."""
        self.groups[attempt.intent.text].append(attempt)
        for intent, answer in zip(attempt.intent.orders, attempt.answers, strict=True):
            if intent.client_order_id:
                own = Attempt(intent, attempt.way, attempt.began, attempt.ended, answer)
                self.attempts[intent.client_order_id].append(own)
