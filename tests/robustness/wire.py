"""How callers speak to oms: one request each, its answer as a caller understands it. No repetition here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final, Self

import grpc
import httpx

from tests.robustness.history import (
    Answer,
    Copied,
    CopiedFill,
    CopiedOrder,
    CopiedTerms,
    GroupIntent,
    Intent,
    Told,
)
from trade2026.client import CHANNEL_OPTIONS, exact, new_order
from trade2026.oms.v1 import order_pb2, order_service_pb2_grpc
from trade2026.type.v1 import order_pb2 as type_pb2

CALL_TIMEOUT_SEC: Final = 3.0

_NO_OUTCOME: Final = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
)
_DETAILS_KEY: Final = "grpc-status-details-bin"


def _short(enum: Any, number: int, prefix: str) -> str:
    return str(enum.Name(number)).removeprefix(prefix).lower() if number else ""


def _state(number: int) -> str:
    return _short(type_pb2.OrderState, number, "ORDER_STATE_")


def _side(number: int) -> str:
    return _short(type_pb2.Side, number, "SIDE_")


def _failed(error: grpc.aio.AioRpcError) -> Answer:
    code, detail = error.code(), f"{error.code().name}: {error.details()}"
    if code in _NO_OUTCOME:
        return Answer(Told.UNKNOWN, detail=detail)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Answer(Told.NOTHING_DONE, detail=detail)
    if code is grpc.StatusCode.ALREADY_EXISTS:
        return Answer(Told.CONFLICT, detail=detail)
    said_by_oms = any(key == _DETAILS_KEY for key, _ in error.trailing_metadata() or ())
    # A broken connection may show as INTERNAL or UNKNOWN; then it carries no words of the service.
    return Answer(Told.ERROR if said_by_oms else Told.UNKNOWN, detail=detail)


def _answered(response: order_pb2.SubmitOrderResponse) -> Answer:
    if response.status == order_pb2.SUBMIT_STATUS_SUBMITTED:
        return Answer(Told.SUBMITTED, response.order_id)
    if response.status == order_pb2.SUBMIT_STATUS_REJECTED:
        reason = _short(type_pb2.DenialReason, response.reason, "DENIAL_REASON_")
        return Answer(Told.REJECTED, response.order_id, reason, response.message)
    return Answer(Told.ERROR, detail=f"status {response.status}")


def _of_batch(result: order_pb2.SubmitOrderResult) -> Answer:
    if result.HasField("response"):
        return _answered(result.response)
    return _by_code(result.error.code, result.error.message)


def _of_group(group: GroupIntent, answers: list[Answer]) -> list[Answer]:
    if len(answers) == len(group.orders):
        return answers
    return [Answer(Told.ERROR, detail=f"{len(answers)} outcomes: {answers}")] * len(group.orders)


_CODES: Final = {4: Told.UNKNOWN, 14: Told.UNKNOWN, 1: Told.UNKNOWN, 8: Told.NOTHING_DONE, 6: Told.CONFLICT}


def _by_code(code: int, detail: str) -> Answer:
    return Answer(_CODES.get(code, Told.ERROR), detail=f"{code}: {detail}")


def _request(intent: Intent) -> order_pb2.SubmitOrderRequest:
    return new_order(
        intent.account,
        intent.symbol,
        intent.side,  # type: ignore[arg-type]
        intent.quantity,
        price=intent.price,
        type=intent.type,  # type: ignore[arg-type]
        stop_price=intent.stop_price,
        client_order_id=intent.client_order_id,
    )


class Grpc:
    """A channel of its own."""

    def __init__(self, target: str) -> None:
        self._channel = grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)
        self.stub: Any = order_service_pb2_grpc.OrderServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def submit(self, intent: Intent) -> Answer:
        try:
            return _answered(await self.stub.SubmitOrder(_request(intent), timeout=CALL_TIMEOUT_SEC))
        except grpc.aio.AioRpcError as error:
            return _failed(error)

    async def submit_all(self, intents: Sequence[Intent]) -> list[Answer]:
        request = order_pb2.BatchSubmitOrdersRequest(requests=map(_request, intents))
        try:
            answer = await self.stub.BatchSubmitOrders(request, timeout=CALL_TIMEOUT_SEC)
        except grpc.aio.AioRpcError as error:
            return [_failed(error)] * len(intents)
        return [_of_batch(result) for result in answer.results]

    async def submit_group(self, group: GroupIntent) -> list[Answer]:
        """An answer an order; the same for each when there is none from the service."""
        request = order_pb2.SubmitOrderGroupRequest(
            kind=order_pb2.GroupKind.Value(f"GROUP_KIND_{group.kind.upper()}"),
            orders=map(_request, group.orders),
        )
        try:
            answer = await self.stub.SubmitOrderGroup(request, timeout=CALL_TIMEOUT_SEC)
        except grpc.aio.AioRpcError as error:
            return [_failed(error)] * len(group.orders)
        return _of_group(group, [_answered(response) for response in answer.orders])

    async def cancel(self, order_id: str) -> tuple[str, str]:
        try:
            await self.stub.CancelOrder(
                order_pb2.CancelOrderRequest(order_id=order_id), timeout=CALL_TIMEOUT_SEC
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                return "ended", ""
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return "missing", str(error.details())
            failed = _failed(error)
            return "error" if failed.told is Told.ERROR else "unknown", failed.detail
        return "asked", ""

    async def cancel_all(self, account: str, symbol: str) -> list[str]:
        """Orders for which a cancel is on its way; none when there is no answer."""
        request = order_pb2.CancelAllOrdersRequest(account=account, symbol=symbol)
        try:
            answer = await self.stub.CancelAllOrders(request, timeout=CALL_TIMEOUT_SEC)
        except grpc.aio.AioRpcError:
            return []
        return list(answer.order_ids)

    async def amend(self, order_id: str, quantity: Decimal, price: Decimal | None) -> tuple[str, str]:
        request = order_pb2.ReplaceOrderRequest(order_id=order_id, quantity=exact(quantity))
        if price is not None:
            request.price.CopyFrom(exact(price))
        try:
            await self.stub.ReplaceOrder(request, timeout=CALL_TIMEOUT_SEC)
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ABORTED):
                return "refused", str(error.details())
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return "missing", str(error.details())
            failed = _failed(error)
            return "error" if failed.told in (Told.ERROR, Told.CONFLICT) else "unknown", failed.detail
        return "asked", ""

    async def look(self, order_id: str) -> tuple[str, Decimal] | None:
        """State and executed quantity; an empty state for NOT_FOUND, None for no answer."""
        try:
            answer = await self.stub.GetOrder(order_pb2.GetOrderRequest(order_id=order_id), timeout=2.0)
        except grpc.aio.AioRpcError as error:
            return ("", Decimal(0)) if error.code() is grpc.StatusCode.NOT_FOUND else None
        return _state(answer.order.state), Decimal(answer.order.cumulative_quantity.value or 0)


class Rest:
    """A pool of connections of its own."""

    def __init__(self, root: str) -> None:
        self._client = httpx.AsyncClient(base_url=root, timeout=CALL_TIMEOUT_SEC)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def _call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """HTTP status and JSON; status 0 when no whole answer came."""
        try:
            content = None if body is None else json.dumps(body)
            headers = {"content-type": "application/json"}
            response = await self._client.request(method, path, content=content, headers=headers)
            return response.status_code, json.loads(response.text, parse_float=Decimal)
        except (httpx.TransportError, ValueError) as error:
            return 0, {"message": repr(error), "code": 14}

    async def submit(self, intent: Intent) -> Answer:
        status, answer = await self._call("POST", "/orders", _body(intent))
        if status == 200:
            return _of_json(answer)
        return _by_code(answer.get("code", 13), str(answer.get("message")))

    async def submit_all(self, intents: Sequence[Intent]) -> list[Answer]:
        body = {"requests": [_body(intent) for intent in intents]}
        status, answer = await self._call("POST", "/orders:batch", body)
        if status != 200:
            return [_by_code(answer.get("code", 13), str(answer.get("message")))] * len(intents)
        return [
            _of_json(result["response"])
            if "response" in result
            else _by_code(result["error"]["code"], result["error"]["message"])
            for result in answer["results"]
        ]

    async def submit_group(self, group: GroupIntent) -> list[Answer]:
        body = {"kind": group.kind, "orders": [_body(intent) for intent in group.orders]}
        status, answer = await self._call("POST", "/orders:group", body)
        if status != 200:
            return [_by_code(answer.get("code", 13), str(answer.get("message")))] * len(group.orders)
        return _of_group(group, [_of_json(response) for response in answer["orders"]])

    async def cancel(self, order_id: str) -> tuple[str, str]:
        status, answer = await self._call("DELETE", f"/orders/{order_id}")
        if status == 200:
            return "asked", ""
        detail = str(answer.get("message"))
        return _CANCELED.get(answer.get("code", 13), "error"), detail

    async def amend(self, order_id: str, quantity: Decimal, price: Decimal | None) -> tuple[str, str]:
        body = {"quantity": float(quantity)} | ({} if price is None else {"price": float(price)})
        status, answer = await self._call("PATCH", f"/orders/{order_id}", body)
        if status == 200:
            return "asked", ""
        return _AMENDED.get(answer.get("code", 13), "error"), str(answer.get("message"))


_CANCELED: Final = {9: "ended", 5: "missing", 1: "unknown", 4: "unknown", 8: "unknown", 14: "unknown"}


_AMENDED: Final = {**_CANCELED, 9: "refused", 10: "refused"}


def _of_json(answer: Any) -> Answer:
    if answer["status"] == "submitted":
        return Answer(Told.SUBMITTED, answer["order_id"])
    return Answer(Told.REJECTED, answer.get("order_id", ""), answer["reason"], answer.get("message", ""))


def _body(intent: Intent) -> dict[str, Any]:
    numbers = {"quantity": intent.quantity, "price": intent.price, "stop_price": intent.stop_price}
    return {
        "account": intent.account,
        "symbol": intent.symbol,
        "side": intent.side,
        "type": intent.type,
        **({"client_order_id": intent.client_order_id} if intent.client_order_id else {}),
        # At most eight digits: their shortest float text is the number itself.
        **{name: float(number) for name, number in numbers.items() if number is not None},
    }


def copied(message: order_pb2.StreamExecutionsResponse) -> Copied:
    """An event of a gRPC drop copy."""
    event = message.event
    fill, order = None, None
    if event.HasField("fill"):
        its = event.fill
        quantity, price = Decimal(its.quantity.value), Decimal(its.price.value)
        fill = CopiedFill(its.fill_id, its.symbol, _side(its.side), quantity, price)
    if event.HasField("order"):
        whole = event.order
        order = CopiedOrder(
            whole.client_order_id,
            whole.symbol,
            _side(whole.side),
            _short(type_pb2.OrderType, whole.type, "ORDER_TYPE_"),
            Decimal(whole.quantity.value),
            Decimal(whole.price.value) if whole.HasField("price") else None,
            Decimal(whole.stop_price.value) if whole.HasField("stop_price") else None,
            whole.group_id,
        )
    terms = None
    if event.HasField("quantity"):
        terms = CopiedTerms(
            Decimal(event.quantity.value),
            Decimal(event.price.value) if event.HasField("price") else None,
            Decimal(event.stop_price.value) if event.HasField("stop_price") else None,
        )
    return Copied(
        message.sequence,
        event.kind,
        event.order_id,
        _state(event.state),
        event.reason,
        fill,
        order,
        event.revision,
        terms,
    )


def copied_json(message: Any) -> Copied:
    """The same of a REST drop copy."""
    event = message["event"]
    fill, order = None, None
    if (its := event.get("fill")) is not None:
        quantity, price = Decimal(its["quantity"]), Decimal(its["price"])
        fill = CopiedFill(its["fill_id"], its["symbol"], its["side"], quantity, price)
    if (whole := event.get("order")) is not None:
        order = CopiedOrder(
            whole.get("client_order_id", ""),
            whole["symbol"],
            whole["side"],
            whole["type"],
            Decimal(whole["quantity"]),
            Decimal(whole["price"]) if "price" in whole else None,
            Decimal(whole["stop_price"]) if "stop_price" in whole else None,
            whole.get("group_id", ""),
        )
    terms = None
    if "quantity" in event:
        prices = (Decimal(event[name]) if name in event else None for name in ("price", "stop_price"))
        terms = CopiedTerms(Decimal(event["quantity"]), *prices)
    return Copied(
        int(message["sequence"]),
        event["kind"],
        event.get("order_id", ""),
        event.get("state", ""),
        event.get("reason", ""),
        fill,
        order,
        int(event.get("revision", 0)),
        terms,
    )
