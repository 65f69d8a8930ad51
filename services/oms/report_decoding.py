"""From a message of stream EXECUTIONS to the command that applies it, or to the reason why it cannot be."""

from typing import Final

from services import messages
from services.ledger.commands import ApplyReport, ReportKind
from services.ledger.numbers import ZERO
from services.messages import BadMessage
from services.runtime.journal_reader import Message
from services.stored_reports import (
    EXECUTIONS,
    FILLS,
    LONGEST_ID,
    read_fill,
    read_identifier,
    read_subject,
    read_time_ns,
    same_account,
)

_KINDS: Final = {kind.value: kind for kind in ReportKind if kind is not ReportKind.FILL}
_LONGEST_REASON: Final = 512


def decode_report(message: Message) -> ApplyReport:
    """Reads a fill or an execution stored as `<partition>.<kind>.<account>`. Raises `BadMessage`."""
    kind, account = read_subject(message.subject)
    if kind == FILLS:
        return _fill(message, account)
    if kind == EXECUTIONS:
        return _execution(message, account)
    raise BadMessage(f"subject kind {kind} is not known")


def _fill(message: Message, account: str) -> ApplyReport:
    trade = read_fill(message, account)
    return ApplyReport(
        account=account,
        stream_seq=message.sequence,
        kind=ReportKind.FILL,
        order_id=trade.order_id,
        exec_id=trade.fill_id,
        revision=trade.revision,
        reason="",
        venue_ns=trade.time_ns,
        symbol=trade.symbol,
        side=trade.side,
        quantity=trade.quantity,
        price=trade.price,
        fee=trade.fee,
        liquidity=trade.liquidity,
    )


def _execution(message: Message, account: str) -> ApplyReport:
    execution = messages.decode(messages.Execution, message.data)
    same_account(execution.account, account)
    kind = _KINDS.get(execution.kind)
    if kind is None:
        raise BadMessage(f"kind {execution.kind[:LONGEST_ID]!r} is not known")
    order_id = read_identifier("order_id", execution.order_id)
    if not order_id:
        raise BadMessage("order_id is empty")
    stamp = execution.timestamp
    return ApplyReport(
        account=account,
        stream_seq=message.sequence,
        kind=kind,
        order_id=order_id,
        exec_id=read_identifier("exec_id", execution.exec_id),
        revision=execution.revision,
        reason=execution.reason[:_LONGEST_REASON],
        venue_ns=message.time_ns if stamp is None else read_time_ns(stamp),
        symbol=execution.symbol,
        side=None,
        quantity=ZERO,
        price=ZERO,
        fee=ZERO,
        liquidity="",
    )
