"""Errors of a servicer as REST callers see them, whether it runs here or behind gRPC."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import grpc
import httpx
import pytest

from gateway_http import create_app, endpoints, local, remote
from services.runtime.errors import (
    AlreadyExists,
    Conflict,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    ServiceError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from services.runtime.http_server import serve
from services.runtime.rpc_status import DETAILS_KEY, abort_with, status_of
from tests.contract.gateway_http.conftest import RISK, Served
from tests.contract.gateway_http.servicers import Bound, risk_servicer
from trade2026.risk.v1 import risk_pb2, risk_service_pb2_grpc

SECRET = "password=hunter2"

pytestmark = pytest.mark.asyncio(loop_scope="module")


def fails_with(error: Exception) -> Any:
    """Over gRPC the engine maps exceptions; here the servicer does it itself, by the same table."""

    async def behaviour(_: Any, context: Any) -> Any:
        await abort_with(context, error)

    return behaviour


@pytest.mark.parametrize(
    ("error", "http_status", "code"),
    [
        (InvalidArgument("quantity", "must be above 0"), 400, 3),
        (DeadlineExceeded("late"), 504, 4),
        (NotFound("no such order"), 404, 5),
        (AlreadyExists("other payload"), 409, 6),
        (PermissionDenied("not yours"), 403, 7),
        (ResourceExhausted("too much"), 429, 8),
        (FailedPrecondition("ended"), 400, 9),
        (Conflict("version"), 409, 10),
        (Unimplemented("not here"), 501, 12),
        (ServiceError("broken"), 500, 13),
        (Unavailable("later", metadata={"order_id": "a-1"}, retry_after_sec=1.2), 503, 14),
        (Unauthenticated("who?"), 401, 16),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_an_error_has_its_status_and_its_details(
    served: Served, error: ServiceError, http_status: int, code: int
) -> None:
    served.risk.behaviour = fails_with(error)
    answer = await served.client.post("/check", content="{}")
    assert answer.status_code == http_status
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert (body["code"], body["message"]) == (code, error.message)
    assert body["details"][0] == {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": error.reason,
        "domain": "trade2026",
        "metadata": dict(error.metadata),
    }
    if isinstance(error, Unavailable):
        assert body["details"][1] == {
            "@type": "type.googleapis.com/google.rpc.RetryInfo",
            "retry_delay": "1.200s",
        }
        assert answer.headers["retry-after"] == "2"
    if isinstance(error, InvalidArgument):
        assert body["details"][1]["field_violations"][0]["field"] == "quantity"
    assert ("www-authenticate" in answer.headers) == (http_status == 401)
    assert ("retry-after" in answer.headers) == (error.retry_after_sec > 0)


async def test_an_error_that_a_servicer_in_this_process_raises_is_mapped_by_the_table(
    in_process: Served,
) -> None:
    async def behaviour(_: Any, __: Any) -> Any:
        raise NotFound("no such account")

    in_process.risk.behaviour = behaviour
    answer = await in_process.client.post("/check", content="{}")
    assert (answer.status_code, answer.json()["message"]) == (404, "no such account")


async def test_an_unexpected_exception_is_logged_and_its_text_is_not_told(served: Served) -> None:
    async def behaviour(_: Any, __: Any) -> Any:
        raise RuntimeError(SECRET)

    served.risk.behaviour = behaviour
    answer = await served.client.post("/check", content="{}")
    assert answer.status_code == 500
    assert answer.json()["message"] == "internal error"
    assert SECRET not in answer.text


async def test_an_answer_that_cannot_be_written_is_an_internal_error(in_process: Served) -> None:
    async def nothing(_: Any, __: Any) -> Any:
        return None

    async def no_number(_: Any, __: Any) -> Any:
        response = risk_pb2.CheckResponse()
        response.explanation.controls.add().value.value = SECRET
        return response

    for behaviour in (nothing, no_number):
        in_process.risk.behaviour = behaviour
        answer = await in_process.client.post("/check", content="{}")
        assert answer.status_code == 500
        assert SECRET not in answer.text


async def test_a_cancelled_error_that_escapes_a_servicer_is_an_internal_error(in_process: Served) -> None:
    async def behaviour(_: Any, __: Any) -> Any:
        raise asyncio.CancelledError

    in_process.risk.behaviour = behaviour
    assert (await in_process.client.post("/check", content="{}")).status_code == 500


async def test_a_method_that_the_servicer_lacks_is_unimplemented(served: Served) -> None:
    answer = await served.client.get("/accounts/a/risk")
    assert answer.status_code == 501
    assert answer.json()["code"] == 12


async def test_every_way_to_abort_ends_in_the_same_answer(served: Served) -> None:
    status = status_of(NotFound("gone", reason="GONE"))
    trailing = ((DETAILS_KEY, status.SerializeToString()),)

    async def abort(_: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.NOT_FOUND, "gone", trailing)

    async def abort_with_status(_: Any, context: Any) -> Any:
        rich = SimpleNamespace(code=grpc.StatusCode.NOT_FOUND, details="gone", trailing_metadata=trailing)
        await context.abort_with_status(rich)

    async def trailing_before(_: Any, context: Any) -> Any:
        context.set_trailing_metadata(trailing)
        await context.abort(grpc.StatusCode.NOT_FOUND, "gone")

    async def set_and_return(_: Any, context: Any) -> Any:
        context.set_trailing_metadata(trailing)
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details("gone")
        return risk_pb2.CheckResponse()

    for behaviour in (abort, abort_with_status, trailing_before, set_and_return):
        if behaviour is abort_with_status and served.remote:
            continue  # grpc.aio does not implement it
        served.risk.behaviour = behaviour
        answer = await served.client.post("/check", content="{}")
        assert answer.status_code == 404, behaviour
        assert answer.json()["details"][0]["reason"] == "GONE", behaviour


async def test_an_abort_without_details_keeps_its_message(served: Served) -> None:
    async def behaviour(_: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the order has ended")

    served.risk.behaviour = behaviour
    answer = await served.client.post("/check", content="{}")
    assert (answer.status_code, answer.json()) == (
        400,
        {"code": 9, "message": "the order has ended", "details": []},
    )


async def test_a_server_that_cannot_be_reached_is_unavailable_without_its_address() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        app = create_app([remote(RISK, channel)], title="test", health=lambda: (200, {}))
        http = await serve(app, "127.0.0.1", 0)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{http.port}") as client:
            answer = await client.post("/check", content="{}")
        await http.stop()
    assert answer.status_code == 503
    assert answer.json() == {"code": 14, "message": "the service cannot be reached", "details": []}


async def test_a_remote_call_that_takes_too_long_is_a_deadline() -> None:
    async def never(_: Any, __: Any) -> Any:
        await asyncio.Event().wait()

    servicer = risk_servicer()
    servicer.behaviour = never
    server = grpc.aio.server()
    risk_service_pb2_grpc.add_RiskServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        app = create_app([remote(RISK, channel, timeout_sec=0.05)], title="test", health=lambda: (200, {}))
        http = await serve(app, "127.0.0.1", 0)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{http.port}") as client:
            answer = await client.post("/check", content="{}")
        await http.stop()
    await server.stop(None)
    assert (answer.status_code, answer.json()["message"]) == (504, "the service did not answer in time")


async def test_a_call_over_the_bound_is_refused_and_the_bound_is_given_back() -> None:
    servicer, bound, release = risk_servicer(), Bound(1), asyncio.Event()

    async def waiting(_: Any, __: Any) -> Any:
        await release.wait()
        return risk_pb2.CheckResponse(approved=True)

    servicer.behaviour = waiting
    app = create_app([local(RISK, servicer)], title="test", health=lambda: (200, {}), admission=bound)
    http = await serve(app, "127.0.0.1", 0)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{http.port}") as client:
        first = asyncio.create_task(client.post("/check", content="{}"))
        while bound.in_flight == 0:
            await asyncio.sleep(0)
        second = await client.post("/check", content="{}")
        assert (second.status_code, second.headers["retry-after"]) == (429, "1")
        release.set()
        assert (await first).status_code == 200
        assert (await client.post("/check", content="{}")).status_code == 200
        assert bound.in_flight == 0
    await http.stop()


async def connected(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which a call has begun, with half of its body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"PATCH /accounts/a/limits HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{")
    await writer.drain()
    return reader, writer


async def test_calls_whose_bodies_come_late_are_bounded_as_all_others() -> None:
    servicer, bound, release = risk_servicer(), Bound(2), asyncio.Event()
    most = 0

    async def waiting(_: Any, __: Any) -> Any:
        nonlocal most
        most = max(most, bound.in_flight)
        await release.wait()
        return risk_pb2.UpdateLimitsResponse()

    app = create_app([local(RISK, servicer)], title="test", health=lambda: (200, {}), admission=bound)
    http = await serve(app, "127.0.0.1", 0)
    async with asyncio.timeout(10), httpx.AsyncClient(base_url=f"http://127.0.0.1:{http.port}") as client:
        begun = [await connected(http.port) for _ in range(6)]
        # A later request that is answered shows that the halves were read.
        assert (await client.post("/check", content="{}")).status_code == 200
        servicer.behaviour = waiting
        for _, writer in begun:
            writer.write(b"}")
        heads = [asyncio.create_task(reader.readline()) for reader, _ in begun]
        while sum(head.done() for head in heads) < 4:
            await asyncio.sleep(0.01)
        assert {head.result() for head in heads if head.done()} == {b"HTTP/1.1 429 Too Many Requests\r\n"}
        release.set()
        assert sorted([await head for head in heads])[:2] == [b"HTTP/1.1 200 OK\r\n"] * 2
        assert most == 2
        while bound.in_flight:
            await asyncio.sleep(0.01)
        for _, writer in begun:
            writer.close()
    await http.stop()


async def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "BODY_WITHIN_SEC", 0.05)
    servicer = risk_servicer()
    app = create_app([local(RISK, servicer)], title="test", health=lambda: (200, {}))
    http = await serve(app, "127.0.0.1", 0)
    async with asyncio.timeout(10):
        reader, writer = await connected(http.port)
        answer = (await reader.read()).decode()  # to the end: the connection is closed
        writer.close()
    assert answer.startswith("HTTP/1.1 408 ")
    assert "BODY_TOO_SLOW" in answer
    assert servicer.requests == []
    await http.stop()
