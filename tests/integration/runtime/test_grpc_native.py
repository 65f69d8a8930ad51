"""The faults of the native engine's package, and what stands guard against each (see `grpc_native`)."""

import asyncio
import contextvars
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Self

import grpc
import pytest

from services.runtime.admission import Admission
from services.runtime.grpc_native import Limits, NativeEngine
from tests.support import eventually

SERVICE = "test.v1.Test"
MIB = 1 << 20
STALLED = 12

Behaviour = Callable[[Any, Any], Any]


class Server:
    """An engine with the methods `Unary` and `Stream`, whose messages are bytes."""

    def __init__(self, engine: NativeEngine, port: int, admission: Admission) -> None:
        self.engine = engine
        self.port = port
        self.admission = admission

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"


@asynccontextmanager
async def serving(
    unary: Behaviour | None = None, stream: Behaviour | None = None, limit: int = 1000
) -> AsyncIterator[Server]:
    admission = Admission(limit)
    engine = NativeEngine(Limits(4 * MIB, 32 * MIB, 30_000, 10_000), admission, reuse_port=False)
    handlers = {}
    if unary is not None:
        handlers["Unary"] = grpc.unary_unary_rpc_method_handler(unary, bytes, bytes_of)
    if stream is not None:
        handlers["Stream"] = grpc.unary_stream_rpc_method_handler(stream, bytes, bytes_of)
    engine.add_registered_method_handlers(SERVICE, handlers)
    port = engine.add_insecure_port("127.0.0.1:0")
    await engine.start()
    try:
        yield Server(engine, port, admission)
    finally:
        await asyncio.wait_for(engine.stop(0), 10)


def bytes_of(message: Any) -> bytes:
    """A serializer that takes bytes only, as a message's takes its own kind only."""
    if not isinstance(message, bytes):
        raise TypeError(f"not bytes but {type(message).__name__}")
    return message


def unary(channel: Any, method: str = "Unary") -> Any:
    return channel.unary_unary(f"/{SERVICE}/{method}")


def stream(channel: Any) -> Any:
    return channel.unary_stream(f"/{SERVICE}/Stream")


@asynccontextmanager
async def channel_to(server: "Server | Relay") -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(server.target) as channel:
        yield channel


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


class Relay:
    """A network between a client and a server, which can be cut without either seeing it."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._open = asyncio.Event()
        self._open.set()
        self._pumps: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._joined, "127.0.0.1", 0)
        self.target = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def cut(self) -> None:
        """Carries nothing from now on."""
        self._open.clear()

    async def _joined(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self._to)
        for one, other in ((reader, other_writer), (other_reader, writer)):
            self._pumps.add(asyncio.create_task(self._pump(one, other)))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await self._open.wait()
                data = await reader.read(1 << 16)
                await self._open.wait()
                if not data:
                    return
                writer.write(data)
                await writer.drain()
        except OSError:
            return
        finally:
            writer.close()


async def endless(request: bytes, context: Any) -> AsyncIterator[bytes]:
    while True:
        yield bytes(MIB)


async def echo(request: bytes, context: Any) -> bytes:
    return request


@pytest.mark.parametrize("result", [None, "text", 7])
async def test_a_result_that_cannot_be_sent_is_answered_internal(result: object) -> None:
    async def unfit(request: bytes, context: Any) -> object:
        return result

    async def unfit_stream(request: bytes, context: Any) -> AsyncIterator[object]:
        yield result

    async with serving(unfit, unfit_stream) as server, channel_to(server) as channel:
        error = await failure(unary(channel)(b"", timeout=5))
        assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "internal error")
        error = await failure(stream(channel)(b"", timeout=5).read())
        assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "internal error")


async def test_metadata_that_cannot_be_sent_is_answered_internal() -> None:
    async def unfit(request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("no spaces", "allowed"),))
        return b""

    async with serving(unfit) as server, channel_to(server) as channel:
        error = await failure(unary(channel)(b"", timeout=5))
        assert error.code() is grpc.StatusCode.INTERNAL


async def test_an_answer_that_is_too_large_is_refused() -> None:
    async def large(request: bytes, context: Any) -> bytes:
        return bytes(33 * MIB)

    async with serving(large) as server, channel_to(server) as channel:
        error = await failure(unary(channel)(b"", timeout=5))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        error = await failure(unary(channel)(bytes(5 * MIB), timeout=5))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_call_cancelled_before_it_began_leaves_no_record() -> None:
    begun = asyncio.Event()

    async def busy(request: bytes, context: Any) -> bytes:
        if request == b"first":
            begun.set()
            time.sleep(0.3)  # noqa: ASYNC251 the loop is meant to stand still
        return request

    def calls(target: str) -> None:
        with grpc.insecure_channel(target) as channel:
            call = unary(channel)
            first = call.future(b"first")
            time.sleep(0.1)
            later = [call.future(b"later") for _ in range(20)]
            time.sleep(0.1)
            for one in later:
                one.cancel()
            assert first.result() == b"first"

    async with serving(busy) as server:
        with ThreadPoolExecutor(1) as threads:
            await asyncio.get_running_loop().run_in_executor(threads, calls, server.target)
        assert begun.is_set()
        await eventually(lambda: not server.engine.calls)


async def test_streams_whose_clients_do_not_read_hold_up_nobody_else() -> None:
    async with serving(echo, endless) as server, channel_to(server) as channel:
        stalled = [stream(channel)(b"") for _ in range(STALLED)]
        await asyncio.gather(*(one.read() for one in stalled))
        await eventually(lambda: len(server.engine.calls) == STALLED)
        async with channel_to(server) as other:
            read = stream(other)(b"")
            for _ in range(20):
                assert len(await asyncio.wait_for(read.read(), 5)) == MIB
            assert await unary(other)(b"hello", timeout=5) == b"hello"
        for one in stalled:
            one.cancel()
        await eventually(lambda: not server.engine.calls)


async def test_a_stream_whose_client_fell_silent_ends_at_its_deadline() -> None:
    async with serving(echo, endless) as server, Relay(server.port) as relay, channel_to(relay) as channel:
        call = stream(channel)(b"", timeout=1)
        await call.read()
        relay.cut()
        began = time.monotonic()
        await eventually(lambda: not server.engine.calls)
        assert time.monotonic() - began < 3
        assert call.cancel() or call.done()


async def test_a_stop_is_not_held_up_by_a_client_that_does_not_read() -> None:
    async with serving(echo, endless) as server, Relay(server.port) as relay, channel_to(relay) as channel:
        calls = [stream(channel)(b"") for _ in range(STALLED)]
        await asyncio.gather(*(one.read() for one in calls))
        relay.cut()
        await asyncio.wait_for(server.engine.stop(0.2), 3)
        for one in calls:
            one.cancel()


async def test_a_stop_answers_running_calls_and_begins_no_new_one() -> None:
    release = asyncio.Event()
    begun: list[bytes] = []

    async def wait(request: bytes, context: Any) -> bytes:
        begun.append(request)
        await release.wait()
        return bytes(MIB >> 2)

    async with serving(wait) as server, channel_to(server) as channel:
        running = [asyncio.ensure_future(unary(channel)(b"running")) for _ in range(20)]
        await eventually(lambda: len(begun) == 20)
        stopping = asyncio.create_task(server.engine.stop(10))
        await eventually(lambda: server.engine.stopping)
        error = await failure(unary(channel)(b"new", timeout=5))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        release.set()
        assert {len(answer) for answer in await asyncio.gather(*running)} == {MIB >> 2}
        await asyncio.wait_for(stopping, 5)
        assert b"new" not in begun


async def test_calls_that_outlast_the_grace_are_told() -> None:
    async def forever(request: bytes, context: Any) -> bytes:
        await asyncio.Event().wait()
        return b""

    async with serving(forever, endless) as server, channel_to(server) as channel:
        call = asyncio.ensure_future(unary(channel)(b""))
        await eventually(lambda: len(server.engine.calls) == 1)
        await asyncio.wait_for(server.engine.stop(0.1), 5)
        error = await failure(call)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert error.details() == "the server stopped before the call was done"


async def test_calls_that_wait_for_the_loop_are_bounded() -> None:
    async def busy(request: bytes, context: Any) -> bytes:
        if request == b"first":
            time.sleep(0.5)  # noqa: ASYNC251 the loop is meant to stand still
        return request

    def calls(target: str) -> list[grpc.StatusCode]:
        with grpc.insecure_channel(target) as channel:
            call = unary(channel)
            first = call.future(b"first")
            time.sleep(0.1)
            later = [call.future(b"later") for _ in range(60)]
            codes = [one.code() for one in later]
            assert first.code() is grpc.StatusCode.OK
            return codes

    async with serving(busy, limit=8) as server:
        with ThreadPoolExecutor(1) as threads:
            codes = await asyncio.get_running_loop().run_in_executor(threads, calls, server.target)
        assert 1 <= codes.count(grpc.StatusCode.OK) <= 8
        assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert server.admission.refused == codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED)


async def test_a_call_whose_deadline_passed_while_it_waited_is_not_begun() -> None:
    begun = []

    async def busy(request: bytes, context: Any) -> bytes:
        begun.append(request)
        if request == b"first":
            time.sleep(0.5)  # noqa: ASYNC251 the loop is meant to stand still
        return request

    def calls(target: str) -> grpc.StatusCode:
        with grpc.insecure_channel(target) as channel:
            call = unary(channel)
            first = call.future(b"first")
            time.sleep(0.1)
            late = call.future(b"late", timeout=0.2)
            assert first.code() is grpc.StatusCode.OK
            code: grpc.StatusCode = late.code()
            return code

    async with serving(busy) as server:
        with ThreadPoolExecutor(1) as threads:
            code = await asyncio.get_running_loop().run_in_executor(threads, calls, server.target)
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        await eventually(lambda: not server.engine.calls)
        assert begun == [b"first"]


async def test_a_handler_is_cancelled_at_the_deadline_and_knows_it() -> None:
    ended: list[tuple[float, bool]] = []

    async def slow(request: bytes, context: Any) -> bytes:
        remaining = context.time_remaining()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append((remaining, context.cancelled()))
        return b""

    async with serving(slow) as server, channel_to(server) as channel:
        error = await failure(unary(channel)(b"", timeout=0.3))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await eventually(lambda: len(ended) == 1)
        assert 0 < ended[0][0] <= 0.31  # a client rounds its deadline up by as much as 1 % for the wire
        assert ended[0][1]


async def test_metadata_goes_both_ways() -> None:
    seen: list[Any] = []

    async def meta(request: bytes, context: Any) -> bytes:
        seen.append((dict(context.invocation_metadata()), context.peer(), context.time_remaining()))
        await context.send_initial_metadata((("first", "1"),))
        context.set_trailing_metadata((("last-bin", b"\x00\xff"),))
        return request

    async with serving(meta) as server, channel_to(server) as channel:
        call = unary(channel)(b"x", metadata=(("mine", "yes"), ("raw-bin", b"\x01\xfe")))
        assert await call == b"x"
        assert dict(await call.initial_metadata())["first"] == "1"
        assert dict(await call.trailing_metadata())["last-bin"] == b"\x00\xff"
        metadata, peer, remaining = seen[0]
        assert (metadata["mine"], metadata["raw-bin"], remaining) == ("yes", b"\x01\xfe", None)
        assert peer.startswith("ipv4:127.0.0.1:")


async def test_handlers_run_in_the_context_of_the_start() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")

    async def read(request: bytes, context: Any) -> bytes:
        return variable.get().encode()

    variable.set("start")
    async with serving(read) as server, channel_to(server) as channel:
        assert await unary(channel)(b"", timeout=5) == b"start"


async def test_gzip_is_read_and_deflate_is_refused_by_name() -> None:
    async with serving(echo) as server, channel_to(server) as channel:
        body = bytes(10_000)
        assert await unary(channel)(body, compression=grpc.Compression.Gzip, timeout=5) == body
        error = await failure(unary(channel)(body, compression=grpc.Compression.Deflate, timeout=5))
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "deflate" in str(error.details())


async def test_an_unknown_method_is_unimplemented() -> None:
    async with serving(echo) as server, channel_to(server) as channel:
        error = await failure(unary(channel, "Nothing")(b"", timeout=5))
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
