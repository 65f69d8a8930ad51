"""A real gRPC server of each engine, called by real clients."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from google.rpc import code_pb2, error_details_pb2
from grpc._cython import cygrpc  # type: ignore[attr-defined] # the types leave the library's core out
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.runtime.errors import InvalidArgument, NotFound, Unavailable
from services.runtime.grpc_engine import GrpcService, open_server
from services.runtime.health import HealthBoard
from services.runtime.local_stack import free_ports
from services.runtime.settings import SettingsError
from tests.integration.runtime.grpc_server import (
    NOT_SERVING,
    OMS,
    RISK,
    SERVING,
    Oms,
    Risk,
    Running,
    failure,
    raising,
    running,
    settings,
    status_of_call,
)
from tests.support import eventually
from trade2026.oms.v1 import order_pb2
from trade2026.risk.v1 import risk_pb2, risk_service_pb2_grpc


@pytest.fixture
def risk() -> Risk:
    return Risk()  # type: ignore[abstract] # the other methods are not called


@pytest.fixture
def oms() -> Oms:
    return Oms()  # type: ignore[abstract] # the other methods are not called


@pytest.fixture
def board() -> HealthBoard:
    return HealthBoard(10)


@pytest.fixture(params=["grpcio", "native"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def server(engine: str, risk: Risk, oms: Oms, board: HealthBoard) -> AsyncIterator[Running]:
    async with running(engine, risk, oms, board) as one:
        yield one


async def test_a_call_is_answered(server: Running) -> None:
    assert (await server.risk.Check(risk_pb2.CheckRequest())).approved


async def test_a_domain_error_arrives_with_its_code_and_details(server: Running, risk: Risk) -> None:
    risk.behaviour = raising(InvalidArgument("quantity", "must be positive"))
    error = await failure(server.risk.Check(risk_pb2.CheckRequest()))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "quantity: must be positive"
    status = status_of_call(error)
    assert status.code == code_pb2.INVALID_ARGUMENT
    bad_request = error_details_pb2.BadRequest()
    assert any(packed.Unpack(bad_request) for packed in status.details)
    assert bad_request.field_violations[0].field == "quantity"


async def test_an_unexpected_exception_is_internal_without_its_text(
    server: Running, risk: Risk, capsys: pytest.CaptureFixture[str]
) -> None:
    risk.behaviour = raising(KeyError("password=hunter2"))
    error = await failure(server.risk.Check(risk_pb2.CheckRequest()))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert error.details() == "internal error"
    assert "hunter2" not in str(error)
    assert "hunter2" in capsys.readouterr().out  # in the log


async def test_an_unimplemented_method_says_so(server: Running) -> None:
    error = await failure(server.risk.GetLimits(risk_pb2.GetLimitsRequest()))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert error.details() == f"{RISK}/GetLimits is not implemented"


async def test_a_method_that_would_block_the_loop_is_refused_at_the_start(board: HealthBoard) -> None:
    class Blocking(Risk):
        def Check(self, request: Any, context: Any) -> Any:
            return risk_pb2.CheckResponse()

    service = GrpcService(RISK, risk_service_pb2_grpc.add_RiskServiceServicer_to_server, Blocking())  # type: ignore[abstract]
    with pytest.raises(TypeError, match="Check has to be a coroutine function"):
        await open_server(settings(), [service], board)


async def test_a_servicer_may_still_abort_by_itself(server: Running, risk: Risk) -> None:
    async def abort(request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such account")

    risk.behaviour = abort
    error = await failure(server.risk.Check(risk_pb2.CheckRequest()))
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no such account")


async def test_an_error_inside_a_stream_arrives_after_what_was_sent(server: Running, oms: Oms) -> None:
    oms.error = Unavailable("the journal is away")
    call = server.oms.StreamExecutions(order_pb2.StreamExecutionsRequest())
    assert await call.read() == order_pb2.StreamExecutionsResponse()
    error = await failure(call.read())
    assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "the journal is away")


async def test_a_cancelled_stream_makes_room_again(server: Running) -> None:
    call = server.oms.StreamExecutions(order_pb2.StreamExecutionsRequest())
    await call.read()
    assert server.admission.in_flight == 1
    call.cancel()
    await eventually(lambda: server.admission.in_flight == 0)


async def test_a_cancelled_call_makes_room_again(server: Running, risk: Risk) -> None:
    async def hang(request: Any, context: Any) -> None:
        await asyncio.Event().wait()

    risk.behaviour = hang
    call = server.risk.Check(risk_pb2.CheckRequest())
    await eventually(lambda: server.admission.in_flight == 1)
    call.cancel()
    await eventually(lambda: server.admission.in_flight == 0)


async def test_calls_beyond_the_bound_are_refused_early_and_admitted_again_later(
    engine: str, risk: Risk, oms: Oms, board: HealthBoard
) -> None:
    release = asyncio.Event()

    async def wait(request: Any, context: Any) -> None:
        await release.wait()

    risk.behaviour = wait
    async with running(engine, risk, oms, board, limit=2) as server:
        open_calls = [asyncio.ensure_future(server.risk.Check(risk_pb2.CheckRequest())) for _ in range(2)]
        await eventually(lambda: server.admission.in_flight == 2)
        error = await failure(server.risk.Check(risk_pb2.CheckRequest()))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        status = status_of_call(error)
        assert any(packed.Unpack(error_details_pb2.RetryInfo()) for packed in status.details)
        assert server.admission.refused == 1
        # Health is asked by those who decide whether to restart us: it is never refused.
        assert await server.health.Check(health_pb2.HealthCheckRequest())
        release.set()
        assert all(answer.approved for answer in await asyncio.gather(*open_calls))
        assert (await server.risk.Check(risk_pb2.CheckRequest())).approved


async def test_a_burst_beyond_the_library_s_own_bound_is_answered(server: Running) -> None:
    # Left to itself, grpc cancels waiting calls at random from 1,000 on, and all of them from 3,000 on.
    answers = await asyncio.gather(*(server.risk.Check(risk_pb2.CheckRequest()) for _ in range(4_000)))
    assert len(answers) == 4_000
    assert server.admission.in_flight == 0


@pytest.mark.parametrize("service", ["", RISK, OMS])
async def test_health_follows_the_board_under_every_name(
    server: Running, board: HealthBoard, service: str
) -> None:
    async def serving() -> Any:
        return (await server.health.Check(health_pb2.HealthCheckRequest(service=service))).status

    async def is_now(status: int) -> bool:
        return bool(await serving() == status)

    await eventually(lambda: is_now(SERVING))
    board.register("valkey", True)
    await eventually(lambda: is_now(NOT_SERVING))
    board.report("valkey", True)
    await eventually(lambda: is_now(SERVING))
    board.register("questdb", False)
    assert await serving() == SERVING
    board.stopping()
    await eventually(lambda: is_now(NOT_SERVING))


async def test_health_of_an_unknown_service_is_not_found(server: Running) -> None:
    error = await failure(server.health.Check(health_pb2.HealthCheckRequest(service="nobody")))
    assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_health_can_be_watched(server: Running, board: HealthBoard) -> None:
    watch = server.health.Watch(health_pb2.HealthCheckRequest(service=RISK))
    assert (await watch.read()).status == SERVING
    board.stopping()
    assert (await watch.read()).status == NOT_SERVING
    watch.cancel()


async def reflect(server: Running, **question: Any) -> Any:
    make_stub: Any = reflection_pb2_grpc.ServerReflectionStub
    stub = make_stub(server.channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(**question)]))
    async for answer in call:
        return answer
    raise AssertionError("no answer")


async def test_reflection_lists_every_service(server: Running) -> None:
    answer = await reflect(server, list_services="")
    assert {one.name for one in answer.list_services_response.service} == {
        RISK,
        OMS,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


@pytest.mark.parametrize(
    "symbol", [RISK, f"{RISK}.Check", "trade2026.risk.v1.CheckRequest", f"{OMS}.SubmitOrder"]
)
async def test_reflection_finds_services_methods_and_messages(server: Running, symbol: str) -> None:
    answer = await reflect(server, file_containing_symbol=symbol)
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(text)
        for text in answer.file_descriptor_response.file_descriptor_proto
    ]
    assert any(file.package == symbol.rpartition("v1.")[0] + "v1" for file in files)


@pytest.mark.parametrize("symbol", ["nobody", "nobody.v1.Service.Method", ""])
async def test_reflection_does_not_find_what_is_not_there(server: Running, symbol: str) -> None:
    answer = await reflect(server, file_containing_symbol=symbol)
    assert answer.error_response.error_code == code_pb2.NOT_FOUND


async def test_stopping_lets_an_open_call_finish_and_takes_no_new_one(server: Running, risk: Risk) -> None:
    release = asyncio.Event()

    async def wait(request: Any, context: Any) -> None:
        await release.wait()

    risk.behaviour = wait
    call = asyncio.ensure_future(server.risk.Check(risk_pb2.CheckRequest()))
    await eventually(lambda: server.admission.in_flight == 1)
    stopping = asyncio.create_task(server.server.stop(10))

    async def refused() -> bool:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.server.port}") as channel:
            stub = risk_service_pb2_grpc.RiskServiceStub(channel)
            error = await failure(stub.Check(risk_pb2.CheckRequest(), timeout=1))
            return error.code() is grpc.StatusCode.UNAVAILABLE

    await eventually(refused)
    release.set()
    assert (await call).approved
    await asyncio.wait_for(stopping, 5)


async def test_a_taken_port_is_an_error(engine: str, board: HealthBoard) -> None:
    (port,) = free_ports(1)
    chosen = settings(grpc_port=port, grpc_engine=engine)
    first = await open_server(chosen, [], board)
    with pytest.raises(OSError, match="cannot listen"):
        await open_server(chosen, [], board)
    await first.stop(0)


async def test_several_workers_share_a_port(engine: str, board: HealthBoard) -> None:
    (port,) = free_ports(1)
    chosen = settings(grpc_port=port, grpc_engine=engine)
    servers = [await open_server(chosen, [], board, workers=2) for _ in range(2)]
    assert [one.port for one in servers] == [port, port]
    for one in servers:
        await one.stop(0)


async def test_an_engine_that_is_not_installed_is_a_settings_error(
    board: HealthBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "services.runtime.grpc_native", raising=False)
    monkeypatch.setitem(sys.modules, "pygrpc_native", None)
    with pytest.raises(SettingsError, match=r"service\.grpc_engine: native needs pygrpc_native"):
        await open_server(settings(grpc_engine="native"), [], board)


async def test_an_order_that_is_not_found_says_which(server: Running, risk: Risk) -> None:
    risk.behaviour = raising(NotFound("no such order", reason="ORDER_UNKNOWN", metadata={"order_id": "a-1"}))
    status = status_of_call(await failure(server.risk.Check(risk_pb2.CheckRequest())))
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain, dict(info.metadata)) == (
        "ORDER_UNKNOWN",
        "trade2026",
        {"order_id": "a-1"},
    )


@pytest.mark.parametrize("engine", ["grpcio"])
def test_an_answer_after_its_caller_has_gone_is_no_error_of_the_service(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    library = logging.getLogger("grpc._cython.cygrpc")
    for error in (cygrpc.ExecuteBatchError("send"), ValueError("a defect")):
        library.error("raised in core: %s", error, exc_info=error)
    assert [record.getMessage() for record in caplog.records] == ["raised in core: a defect"]
