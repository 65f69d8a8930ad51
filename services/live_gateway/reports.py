"""From the engine's decisions to the messages that tell them."""

import base64
from typing import Final

import msgspec

from services.live_gateway.orders import Decision, Trade
from services.live_gateway.records import Outgoing
from services.messages import VERSION, Execution, Fill, encode, timestamp

DEAD_LETTER_SUBJECT: Final = "deadletter.orders"
_MAX_DEAD_LETTER_BYTES: Final = 64 * 1024


class DeadLetter(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`deadletter.orders`: a message of ORDERS that could not be taken as it is."""

    version: int = VERSION
    stream: str
    sequence: int
    subject: str
    reason: str
    payload: str | None = None
    """Its text, when it is text."""
    payload_base64: str | None = None
    """Its bytes, when they are no text."""
    truncated: bool = False
    """Only the first 64 KiB of the payload are here."""
    timestamp_ns: int
    """When it was given up, nanoseconds since the epoch."""


def outgoing(decision: Decision) -> Outgoing:
    """The message of a decision: its subject, its payload, its exec id as message id."""
    if isinstance(decision, Trade):
        return Outgoing(f"fills.{decision.account}", decision.exec_id, encode(_fill(decision)))
    report = Execution(
        exec_id=decision.exec_id,
        account=decision.account,
        order_id=decision.order_id,
        kind=decision.kind,
        symbol=decision.symbol,
        revision=decision.revision,
        status=decision.status,
        reason=decision.reason,
        cumulative=decision.cumulative,
        leaves=decision.leaves,
        timestamp=timestamp(decision.ns),
        version=VERSION,
    )
    return Outgoing(f"executions.{decision.account}", decision.exec_id, encode(report))


def _fill(trade: Trade) -> Fill:
    return Fill(
        account=trade.account,
        symbol=trade.symbol,
        side=trade.side,
        quantity=trade.quantity,
        price=trade.price,
        fill_id=trade.exec_id,
        order_id=trade.order_id,
        fee=trade.fee,
        liquidity=trade.liquidity,
        timestamp=timestamp(trade.ns),
        revision=trade.revision,
        status=trade.status,
        cumulative=trade.cumulative,
        leaves=trade.leaves,
        version=VERSION,
    )


def dead_letter(
    venue: str, stream: str, sequence: int, subject: str, data: bytes, reason: str, now_ns: int
) -> Outgoing:
    """The message that keeps what could not be taken, with the reason."""
    kept = data[:_MAX_DEAD_LETTER_BYTES]
    letter = DeadLetter(
        stream=stream,
        sequence=sequence,
        subject=subject,
        reason=reason,
        truncated=len(kept) < len(data),
        timestamp_ns=now_ns,
    )
    try:
        letter.payload = kept.decode()
    except UnicodeDecodeError:
        letter.payload_base64 = base64.b64encode(kept).decode()
    return Outgoing(DEAD_LETTER_SUBJECT, f"{venue}:{stream}:{sequence}:{now_ns}", msgspec.json.encode(letter))
