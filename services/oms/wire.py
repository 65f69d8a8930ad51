"""The contract's messages out of the domain's values. Names on the wire are data: one table an enum."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from services.ledger import events as e
from services.ledger.account import Account, Position
from services.ledger.numbers import average, plain
from services.ledger.order import Order, OrderState, OrderType, Side, TimeInForce
from services.oms.outcomes import Outcome, Submitted
from trade2026.oms.v1 import order_pb2
from trade2026.type.v1 import order_pb2 as type_pb2


def _names(enum: Any, prefix: str) -> dict[int, str]:
    """value → short lower-case name, without `…_UNSPECIFIED`."""
    return {number: name.removeprefix(prefix).lower() for name, number in enum.items() if number}


def _values(enum: Any, prefix: str) -> dict[str, Any]:
    return {name: number for number, name in _names(enum, prefix).items()}


REASON_NAMES: Final[Mapping[int, str]] = _names(type_pb2.DenialReason, "DENIAL_REASON_")
REASONS: Final[Mapping[str, Any]] = _values(type_pb2.DenialReason, "DENIAL_REASON_")
STATE_NAMES: Final[Mapping[int, str]] = _names(type_pb2.OrderState, "ORDER_STATE_")
STATES: Final[Mapping[OrderState, Any]] = {
    state: _values(type_pb2.OrderState, "ORDER_STATE_")[state.value] for state in OrderState
}
SIDES: Final[Mapping[Side, Any]] = {Side.BUY: type_pb2.SIDE_BUY, Side.SELL: type_pb2.SIDE_SELL}
TYPES: Final[Mapping[OrderType, Any]] = {
    kind: _values(type_pb2.OrderType, "ORDER_TYPE_")[kind.value] for kind in OrderType
}
TIMES_IN_FORCE: Final[Mapping[TimeInForce, Any]] = {
    kind: _values(type_pb2.TimeInForce, "TIME_IN_FORCE_")[kind.value]
    for kind in TimeInForce
    if kind is not TimeInForce.TIMEOUT
}


def number_text(number: Decimal) -> str:
    """The exact number in plain notation, without trailing zeros."""
    return str(plain(number))


def submit_response(outcome: Outcome) -> order_pb2.SubmitOrderResponse:
    """The answer to a submission. A reason without a name in the contract is `risk_check_failed`."""
    if isinstance(outcome, Submitted):
        response = order_pb2.SubmitOrderResponse(
            status=order_pb2.SUBMIT_STATUS_SUBMITTED, order_id=outcome.order_id
        )
    else:
        response = order_pb2.SubmitOrderResponse(
            status=order_pb2.SUBMIT_STATUS_REJECTED,
            reason=REASONS.get(outcome.reason, type_pb2.DENIAL_REASON_RISK_CHECK_FAILED),
            message=outcome.message,
        )
    if outcome.client_order_id:
        response.client_order_id = outcome.client_order_id
    return response


def order_message(order: Order) -> order_pb2.Order:
    """An order as it stands."""
    terms = order.terms
    message = order_pb2.Order(
        order_id=order.order_id,
        account=order.account,
        symbol=order.symbol,
        side=SIDES[order.side],
        type=TYPES[order.order_type],
        state=STATES[order.state],
        revision=order.revision,
    )
    if order.client_order_id:
        message.client_order_id = order.client_order_id
    if order.time_in_force is not TimeInForce.TIMEOUT:
        message.time_in_force = TIMES_IN_FORCE[order.time_in_force]
    message.quantity.value = number_text(terms.quantity)
    if terms.price is not None:
        message.price.value = number_text(terms.price)
    if terms.stop_price is not None:
        message.stop_price.value = number_text(terms.stop_price)
    message.cumulative_quantity.value = number_text(order.cumulative)
    message.leaves_quantity.value = number_text(order.leaves)
    if order.cumulative:
        message.average_price.value = number_text(average(order.executed_value, order.cumulative))
    message.fees.value = number_text(order.fees)
    if order.reason:
        message.reason = order.reason
    if order.message:
        message.message = order.message
    message.create_time.FromNanoseconds(order.created_ns)
    message.update_time.FromNanoseconds(order.updated_ns)
    if order.group is not None:
        message.group_id = order.group.group_id
    if order.expire_ns:
        message.expire_time.FromNanoseconds(order.expire_ns)
    return message


def positions_message(account: Account | None) -> order_pb2.GetPositionsResponse:
    """Every symbol that the account traded, or has open orders in; none for an unknown account."""
    response = order_pb2.GetPositionsResponse()
    for symbol, position in account.positions.items() if account is not None else ():
        if position.last_price or position.open_buy or position.open_sell:
            _fill_position(response.positions[symbol], position)
    return response


def _fill_position(message: order_pb2.Position, position: Position) -> None:
    message.quantity.value = number_text(position.quantity)
    if position.quantity:
        message.average_price.value = number_text(average(position.cost, position.quantity))
    if position.last_price:
        message.last_price.value = number_text(position.last_price)
    message.realised_profit.value = number_text(position.realised)
    message.fees.value = number_text(position.fees)
    message.open_buy_quantity.value = number_text(position.open_buy)
    message.open_sell_quantity.value = number_text(position.open_sell)


_EVENT_KINDS: Final[Mapping[type[Any], str]] = {kind: name for name, kind in e.EVENT_TYPES.items()}
_EVENT_STATES: Final[Mapping[type[Any], OrderState]] = {
    e.Acknowledged: OrderState.NEW,
    e.CancelRequested: OrderState.PENDING_CANCEL,
    e.ReplaceRequested: OrderState.PENDING_REPLACE,
}


def execution_event(account: str, event: e.Event, time_ns: int) -> order_pb2.ExecutionEvent:
    """One event of an account for its drop copy; `time_ns` is when it was committed."""
    message = order_pb2.ExecutionEvent(kind=_EVENT_KINDS[type(event)], account=account)
    message.time.FromNanoseconds(time_ns)
    state = event.state if isinstance(event, e.Ended) else _EVENT_STATES.get(type(event))
    if state is not None:
        message.state = STATES[state]
    if isinstance(event, e.Reserved | e.Denied | e.Activated):
        order = event.order
        message.state = STATES[order.state]
        message.order_id = order.order_id
        if order.client_order_id:
            message.client_order_id = order.client_order_id
        if order.reason:
            message.reason = order.reason
        message.order.CopyFrom(order_message(order))
        return message
    message.order_id = getattr(event, "order_id", "")
    reason = event.why if isinstance(event, e.ReportIgnored) else getattr(event, "reason", "")
    if reason:
        message.reason = reason
    if isinstance(event, e.Filled):
        message.fill.CopyFrom(_fill_of(account, event))
    elif isinstance(event, e.ReplaceRequested):
        asked = event.replacement
        message.revision = asked.revision
        message.quantity.value = number_text(asked.terms.quantity)
        if asked.terms.price is not None:
            message.price.value = number_text(asked.terms.price)
        if asked.terms.stop_price is not None:
            message.stop_price.value = number_text(asked.terms.stop_price)
    elif isinstance(event, e.Replaced | e.ReplaceRejected):
        message.revision = event.revision
    return message


def _fill_of(account: str, event: e.Filled) -> order_pb2.Fill:
    fill = order_pb2.Fill(
        fill_id=event.exec_id,
        order_id=event.order_id,
        account=account,
        symbol=event.symbol,
        side=SIDES[event.side],
        liquidity=event.liquidity,
    )
    fill.quantity.value = number_text(event.quantity)
    fill.price.value = number_text(event.price)
    fill.fee.value = number_text(event.fee)
    fill.time.FromNanoseconds(event.venue_ns)
    return fill
