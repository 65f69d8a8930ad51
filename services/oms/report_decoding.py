"""From a message of stream EXECUTIONS to the command that applies it, or to the reason why it cannot be."""

import re
from decimal import Decimal
from typing import Final

from services import messages
from services.ledger.commands import ApplyReport, ReportKind
from services.ledger.numbers import ZERO
from services.messages import BadMessage
from services.order_request import ACCOUNT, SYMBOL
from services.runtime.journal_reader import Message

_KINDS: Final = {kind.value: kind for kind in ReportKind if kind is not ReportKind.FILL}
_LONGEST_ID: Final = 256
_LONGEST_REASON: Final = 512
_LAST_SECOND: Final = 9_000_000_000
_PRINTABLE: Final = re.compile(r"[ -~]*")


def decode_report(message: Message) -> ApplyReport:
    """Reads a fill or an execution stored as `<partition>.<kind>.<account>`. Raises `BadMessage`."""
    parts = message.subject.split(".")
    if len(parts) != 3:
        raise BadMessage(f"subject {message.subject} is not <partition>.<kind>.<account>")
    _, kind, account = parts
    if not ACCOUNT.fullmatch(account):
        raise BadMessage("the account of the subject is not valid")
    if kind == "fills":
        return _fill(message, account)
    if kind == "executions":
        return _execution(message, account)
    raise BadMessage(f"subject kind {kind} is not known")


def _fill(message: Message, account: str) -> ApplyReport:
    fill = messages.decode(messages.Fill, message.data)
    _same_account(fill.account, account)
    if not SYMBOL.fullmatch(fill.symbol):
        raise BadMessage("symbol is not valid")
    if fill.quantity <= ZERO:
        raise BadMessage("quantity must be greater than 0")
    if fill.price <= ZERO:
        raise BadMessage("price must be greater than 0")
    return ApplyReport(
        account=account,
        stream_seq=message.sequence,
        kind=ReportKind.FILL,
        order_id=_identifier("order_id", fill.order_id),
        exec_id=_identifier("fill_id", fill.fill_id) or str(message.sequence),
        revision=fill.revision,
        reason="",
        venue_ns=_venue_ns(fill.timestamp, message),
        symbol=fill.symbol,
        side=fill.side,
        quantity=fill.quantity,
        price=fill.price,
        fee=ZERO if fill.fee is None else fill.fee,
        liquidity=_identifier("liquidity", fill.liquidity),
    )


def _execution(message: Message, account: str) -> ApplyReport:
    execution = messages.decode(messages.Execution, message.data)
    _same_account(execution.account, account)
    kind = _KINDS.get(execution.kind)
    if kind is None:
        raise BadMessage(f"kind {execution.kind[:_LONGEST_ID]!r} is not known")
    order_id = _identifier("order_id", execution.order_id)
    if not order_id:
        raise BadMessage("order_id is empty")
    return ApplyReport(
        account=account,
        stream_seq=message.sequence,
        kind=kind,
        order_id=order_id,
        exec_id=_identifier("exec_id", execution.exec_id),
        revision=execution.revision,
        reason=execution.reason[:_LONGEST_REASON],
        venue_ns=_venue_ns(execution.timestamp, message),
        symbol=execution.symbol,
        side=None,
        quantity=ZERO,
        price=ZERO,
        fee=ZERO,
        liquidity="",
    )


def _same_account(payload: str, subject: str) -> None:
    if payload != subject:
        raise BadMessage(f"account {payload[:64]!r} of the payload is not the subject's {subject!r}")


def _identifier(name: str, value: str) -> str:
    if len(value) > _LONGEST_ID or not _PRINTABLE.fullmatch(value):
        raise BadMessage(f"{name} is not an identifier")
    return value


def _venue_ns(timestamp: Decimal | None, message: Message) -> int:
    if timestamp is None:
        return message.time_ns
    if not 0 <= timestamp <= _LAST_SECOND:
        raise BadMessage("timestamp is not a time in seconds since the epoch")
    return messages.nanoseconds(timestamp)
