"""From the engine's decisions to the messages that tell them."""

from services.live_gateway.orders import Decision, Trade
from services.live_gateway.records import Outgoing
from services.messages import VERSION, Execution, Fill, encode, timestamp


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
