"""The stored and published form of the domain: JSON whose numbers carry the exact decimal text.

`Commit` is what one commit did, as it stands in the outbox; a LEDGER message is a JSON array of consecutive
commits of one account.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import msgspec

from services.ledger.account import Account, Position
from services.ledger.events import EVENT_TYPES, Denied, Event, Reserved
from services.ledger.numbers import ZERO
from services.ledger.order import Group, GroupRole, Order, OrderState, OrderType, Side, Terms, TimeInForce
from services.ledger.values import replace
from services.runtime.ids import ULID_LENGTH

VERSION: Final = 1

_ENCODER: Final = msgspec.json.Encoder(decimal_format="number")
_ORDER: Final = msgspec.json.Decoder(Order)
_ACCOUNT: Final = msgspec.json.Decoder(Account)
_POSITION: Final = msgspec.json.Decoder(Position)
_NAMES: Final[dict[type[Any], str]] = {kind: name for name, kind in EVENT_TYPES.items()}
_EVENT_DECODERS: Final = {name: msgspec.json.Decoder(kind) for name, kind in EVENT_TYPES.items()}

encode: Final = _ENCODER.encode
"""Any value of the domain as JSON."""


class UnknownFormat(ValueError):
    """Bytes that are not what this version of the codec writes."""


@dataclass(frozen=True, slots=True)
class Commit:
    """What one commit did to one account. `seq` numbers its first event; `time_ns` is UTC, since 1970."""

    account: str
    seq: int
    time_ns: int
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class PositionChange:
    """A position after a commit with fills of it; `number` is the last of those events."""

    symbol: str
    quantity: Decimal
    price: Decimal
    number: int


class _Envelope(msgspec.Struct):
    v: int
    account: str
    seq: int
    time_ns: int
    events: list[dict[str, msgspec.Raw]]


_ENVELOPES: Final = msgspec.json.Decoder(list[_Envelope])
_POSITION_CHANGES: Final = msgspec.json.Decoder(tuple[PositionChange, ...])


class _Numbered(msgspec.Struct):
    event_seq: int


_NUMBERED: Final = msgspec.json.Decoder(_Numbered)
_ENVELOPE: Final = msgspec.json.Decoder(_Envelope)


def encode_order(order: Order) -> bytes:
    return encode(order)


def decode_order(data: bytes) -> Order:
    return _ORDER.decode(data)


class _Memory(msgspec.Struct, array_like=True, gc=False):
    """What is kept of an ended order under its client order id; `commit.lua` reads the beginning."""

    ulid: str
    digest: str
    state: OrderState
    reason: str
    message: str
    cumulative: Decimal
    group: tuple[str, GroupRole, tuple[str, ...]] | None
    """ULIDs of the group's first order and of those that this one is linked with."""


_MEMORY: Final = msgspec.json.Decoder(_Memory)

GIVEN_UP: Final = b"!"
"""Before the memory of an order that was given up: it keeps its client order id from itself and older
ones only. `commit.lua` reads it."""


def encode_memory(order: Order) -> bytes:
    """Enough of an ended order to answer a repetition of its request."""
    group = order.group
    of_group = None if group is None else (
        group.group_id[-ULID_LENGTH:], group.role, tuple(name[-ULID_LENGTH:] for name in group.linked)
    )  # fmt: skip
    return encode(
        _Memory(
            order.order_id[-ULID_LENGTH:],
            order.digest,
            order.state,
            order.reason,
            order.message,
            order.cumulative,
            of_group,
        )
    )


def decode_memory(data: bytes, account: str, client_order_id: str) -> Order:
    """The order of `encode_memory`: its identity, digest, group and outcome; symbol, terms and times are
    empty."""
    kept = _MEMORY.decode(data)
    group = None
    if kept.group is not None:
        first, role, linked = kept.group
        group = Group(f"{account}-{first}", role, tuple(f"{account}-{ulid}" for ulid in linked))
    return Order(
        order_id=f"{account}-{kept.ulid}",
        account=account,
        client_order_id=client_order_id,
        digest=kept.digest,
        symbol="",
        side=Side.BUY,
        order_type=OrderType.LIMIT,
        time_in_force=TimeInForce.TIMEOUT,
        terms=Terms(ZERO, None, None, None),
        state=kept.state,
        created_ns=0,
        updated_ns=0,
        expire_ns=0,
        cumulative=kept.cumulative,
        reason=kept.reason,
        message=kept.message,
        group=group,
    )


def encode_head(account: Account) -> bytes:
    """The account without its positions, which are fields of their own."""
    return encode(replace(account, positions={}))


def decode_account(head: bytes, positions: Iterable[Position]) -> Account:
    return replace(_ACCOUNT.decode(head), positions={p.symbol: p for p in positions})


def decode_event_number(head: bytes) -> int:
    """Number of the account's last event, from its head."""
    return _NUMBERED.decode(head).event_seq


def encode_position(position: Position) -> bytes:
    return encode(position)


def decode_position(data: bytes) -> Position:
    return _POSITION.decode(data)


def encode_commit(
    account: str,
    seq: int,
    time_ns: int,
    events: Sequence[Event],
    records: Mapping[str, tuple[Order, bytes]] | None = None,
) -> bytes:
    """One commit's outbox entry: `{"v", "account", "seq", "time_ns", "events": [{<name>: {…}}, …]}`.

    `records`: orders that are encoded already, by order id; a new order's event takes its text from there.
    """
    names = _NAMES
    named: list[dict[str, Any]] = []
    for event in events:
        body: Any = event
        if records and isinstance(event, (Reserved, Denied)):
            order, record = records.get(event.order.order_id, (None, b""))
            if order is event.order:
                body = {"order": msgspec.Raw(record)}
                if isinstance(event, Denied):
                    body["abandoned"] = event.abandoned
        named.append({names[type(event)]: body})
    return encode({"v": VERSION, "account": account, "seq": seq, "time_ns": time_ns, "events": named})


def encode_positions(changes: Sequence[PositionChange]) -> bytes:
    return encode(changes)


def decode_positions(data: bytes) -> tuple[PositionChange, ...]:
    return _POSITION_CHANGES.decode(data)


def join_commits(entries: Sequence[bytes]) -> bytes:
    """The LEDGER message of consecutive outbox entries of one account."""
    return b"[" + b",".join(entries) + b"]"


def decode_commits(payload: bytes) -> tuple[Commit, ...]:
    """Reads a LEDGER message; raises `UnknownFormat` for what this version cannot read."""
    try:
        return tuple(_commit(envelope) for envelope in _ENVELOPES.decode(payload))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UnknownFormat(str(error)) from error


def decode_commit(entry: bytes) -> Commit:
    """Reads an outbox entry; raises `UnknownFormat`."""
    try:
        return _commit(_ENVELOPE.decode(entry))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UnknownFormat(str(error)) from error


def _commit(envelope: _Envelope) -> Commit:
    if envelope.v != VERSION:
        raise UnknownFormat(f"version {envelope.v} of a commit")
    events: list[Event] = []
    for named in envelope.events:
        if len(named) != 1:
            raise UnknownFormat("an event has one name")
        ((name, body),) = named.items()
        decoder = _EVENT_DECODERS.get(name)
        if decoder is None:
            raise UnknownFormat(f"unknown event {name!r}")
        events.append(decoder.decode(body))
    return Commit(envelope.account, envelope.seq, envelope.time_ns, tuple(events))
