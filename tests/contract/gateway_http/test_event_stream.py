"""Server streams as server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from gateway_http.calls import OpenCalls
from gateway_http.codec import Codec
from gateway_http.event_stream import StreamEndpoint
from gateway_http.http_rules import rules_of
from gateway_http.request_binding import RequestBinding
from gateway_http.targets import local
from tests.contract.gateway_http.conftest import ORDERS, Served
from tests.contract.gateway_http.servicers import OrderServicer, event, order_servicer
from trade2026.oms.v1 import order_service_pb2_grpc

pytestmark = pytest.mark.asyncio(loop_scope="module")


def parse(text: str) -> list[dict[str, str]]:
    """The events of a stream, by the rules of its specification."""
    events = []
    for block in text.split("\n\n")[:-1]:
        fields: dict[str, str] = {}
        for line in block.split("\n"):
            name, _, value = line.partition(": ")
            assert name not in fields
            fields[name] = value
        events.append(fields)
    return events


async def test_a_stream_is_a_list_of_events(served: Served) -> None:
    answer = await served.client.get("/executions?account=a")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["cache-control"] == "no-store"
    events = parse(answer.text)
    assert [(one["id"], one["event"]) for one in events] == [
        ("1", "event"),
        ("2", "event"),
        ("3", "event"),
        ("3", "heartbeat"),
    ]
    assert json.loads(events[0]["data"]) == {
        "sequence": 1,
        "event": {"kind": "opened", "account": "a", "order_id": "", "revision": 0},
    }
    assert events[3]["data"] == '{"sequence":3,"heartbeat":{"time":"2024-01-10T00:00:00Z"}}'


async def test_a_client_that_comes_back_goes_on_where_it_was(served: Served) -> None:
    first = parse((await served.client.get("/executions?account=a&live_only=true")).text)
    again = await served.client.get(
        "/executions?account=a&live_only=true", headers={"Last-Event-ID": first[1]["id"]}
    )
    assert [one["id"] for one in parse(again.text)][:3] == ["3", "4", "5"]
    request = served.orders.requests[1]
    assert (request.after_sequence, request.live_only) == (2, False)


async def test_a_heartbeat_before_the_first_event_has_no_id(served: Served) -> None:
    async def only_heartbeat(_: Any, __: Any) -> AsyncIterator[Any]:
        beat = event(0)
        beat.heartbeat.SetInParent()
        yield beat

    served.orders.events = only_heartbeat
    assert parse((await served.client.get("/executions?account=a")).text) == [
        {"event": "heartbeat", "data": '{"sequence":0,"heartbeat":{}}'}
    ]


async def test_an_event_is_sent_when_it_happens(served: Served) -> None:
    happened: asyncio.Queue[int] = asyncio.Queue()

    async def as_told(_: Any, __: Any) -> AsyncIterator[Any]:
        while True:
            yield event(await happened.get())

    served.orders.events = as_told
    async with asyncio.timeout(10), served.client.stream("GET", "/executions?account=a") as response:
        lines = response.aiter_lines()
        for number in (1, 2, 3):
            happened.put_nowait(number)
            assert await anext(lines) == f"id: {number}"
            while await anext(lines):
                pass
    async with asyncio.timeout(5):
        await served.orders.streams_ended.wait()


async def test_a_silent_stream_begins_all_the_same_and_ends_with_its_client(served: Served) -> None:
    async def silent(_: Any, __: Any) -> AsyncIterator[Any]:
        await asyncio.Event().wait()
        yield

    served.orders.events = silent
    async with asyncio.timeout(10):
        async with served.client.stream("GET", "/executions?account=a") as response:
            assert response.status_code == 200
            assert not served.orders.streams_ended.is_set()
        await served.orders.streams_ended.wait()


async def test_an_error_before_the_first_event_is_a_plain_answer(served: Served) -> None:
    answer = await served.client.get("/executions")
    assert answer.status_code == 400
    assert answer.json() == {"code": 3, "message": "account is required", "details": []}


async def test_an_error_later_is_an_event_and_the_end(served: Served) -> None:
    async def breaks(_: Any, context: Any) -> AsyncIterator[Any]:
        yield event(1)
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too slow")

    served.orders.events = breaks
    events = parse((await served.client.get("/executions?account=a")).text)
    assert [one.get("event") for one in events] == ["event", "error"]
    assert json.loads(events[1]["data"]) == {"code": 8, "message": "too slow", "details": []}
    assert "id" not in events[1]


async def test_an_exception_in_a_stream_is_not_told(in_process: Served) -> None:
    async def breaks(_: Any, __: Any) -> AsyncIterator[Any]:
        yield event(1)
        raise RuntimeError("password")

    in_process.orders.events = breaks
    answer = await in_process.client.get("/executions?account=a")
    assert json.loads(parse(answer.text)[1]["data"])["message"] == "internal error"
    assert "password" not in answer.text


async def test_headers_are_metadata_of_the_stream(served: Served) -> None:
    await served.client.get("/executions?account=a", headers={"Authorization": "Bearer x"})
    assert served.orders.metadata[0]["authorization"] == "Bearer x"


async def test_a_method_that_the_servicer_lacks_is_unimplemented(in_process: Served) -> None:
    base: Any = order_service_pb2_grpc.OrderServiceServicer
    in_process.orders.events = lambda request, context: base.StreamExecutions(
        in_process.orders, request, context
    )
    answer = await in_process.client.get("/executions?account=a")
    assert answer.status_code == 501


def stream_endpoint(servicer: OrderServicer, stall_sec: float = 30) -> StreamEndpoint:
    codec, method = Codec(), ORDERS.methods_by_name["StreamExecutions"]
    (rule,) = rules_of(method)
    return StreamEndpoint(
        codec,
        method,
        rule,
        RequestBinding(codec, method, rule),
        local(ORDERS, servicer).target.stream(method),
        OpenCalls(None),
        stall_sec=stall_sec,
    )


SCOPE = {"type": "http", "query_string": b"account=a", "headers": []}


async def test_a_client_that_takes_nothing_is_given_up() -> None:
    servicer = order_servicer()

    async def endless(_: Any, __: Any) -> AsyncIterator[Any]:
        number = 0
        while True:
            number += 1
            yield event(number)

    servicer.events = endless
    taken = 0

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        nonlocal taken
        taken += 1
        if taken == 5:
            await asyncio.Event().wait()

    async with asyncio.timeout(5):
        await stream_endpoint(servicer, stall_sec=0.05)({}, SCOPE, receive, send)
        await servicer.streams_ended.wait()
    assert taken == 5


async def deaf_and_silent(_: Any, __: Any) -> AsyncIterator[Any]:
    """Loses one cancellation, as `asyncio.wait_for` of Python 3.11 does when the answer comes with it."""
    yield event(1)
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    await asyncio.Event().wait()


async def deaf_and_talking(_: Any, __: Any) -> AsyncIterator[Any]:
    """Loses every cancellation."""
    number = 0
    while True:
        number += 1
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.01)
        yield event(number)


@pytest.mark.parametrize("events", [deaf_and_silent, deaf_and_talking])
async def test_a_stream_ends_with_its_client_although_a_cancellation_was_lost(events: Any) -> None:
    servicer = order_servicer()
    servicer.events = events
    told, left = asyncio.Event(), asyncio.Event()
    sent_to_nobody: list[Any] = []

    async def receive() -> Any:
        await told.wait()
        left.set()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if left.is_set():
            sent_to_nobody.append(message)
        elif message["type"] == "http.response.body":
            told.set()

    async with asyncio.timeout(5):
        await stream_endpoint(servicer)({}, SCOPE, receive, send)
    assert servicer.streams_ended.is_set()
    assert sent_to_nobody == []


async def test_a_stop_ends_a_stream_although_a_cancellation_was_lost() -> None:
    calls = OpenCalls(None)

    async def lost_once() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    stream = asyncio.create_task(lost_once())
    calls.own_stream(stream)
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await calls.stop(30)
    assert stream.cancelled()


@pytest.mark.parametrize("clients", [20])
async def test_streams_do_not_disturb_each_other(in_process: Served, clients: int) -> None:
    async def one(number: int) -> list[str]:
        answer = await in_process.client.get(f"/executions?account=a&after_sequence={number}")
        return [event_["id"] for event_ in parse(answer.text)]

    found = await asyncio.gather(*(one(number) for number in range(clients)))
    assert found == [[str(n + 1), str(n + 2), str(n + 3), str(n + 3)] for n in range(clients)]
