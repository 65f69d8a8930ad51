"""A service whose only purpose is to be supervised: `python -m tests.integration.runtime.demo_service`."""

import asyncio
import decimal
import os
import time
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from services.runtime.health import HealthBoard
from services.runtime.service import ServiceDefinition, WorkerContext
from services.runtime.settings import (
    MonitoringSettings,
    Port,
    Section,
    ServiceConfig,
    ServiceSettings,
    SettingsError,
)
from services.runtime.telemetry import counter, gauge, get_logger, histogram

_log = get_logger("demo")
_calls = counter("demo_calls", "Calls")
_latency = histogram("demo_latency_ms", "Latency")
_workers = gauge("demo_workers", "Workers that are ready")


class DemoService(ServiceSettings):
    """Section `service`."""

    name: str = "risk"
    workers: int = 1
    stop_grace_sec: float = 5.0


class DemoMonitoring(MonitoringSettings):
    """Section `monitoring`."""

    metrics_port: Port = 0


class DemoBehaviour(Section):
    """Section `demo`: how it misbehaves."""

    start_error: str = ""
    """`settings`, `crash` or `return`: what the start ends with."""
    block_at_start_sec: float = 0
    """Seconds for which the start blocks the event loop."""


class DemoConfig(ServiceConfig):
    """The whole configuration."""

    service: DemoService
    monitoring: DemoMonitoring
    demo: DemoBehaviour = DemoBehaviour()


async def run(context: WorkerContext[DemoConfig]) -> None:
    """Opens REST and gRPC, and does to itself what a caller asks for."""
    from services.runtime.grpc_engine import open_server
    from services.runtime.http_server import serve

    match context.settings.demo.start_error:
        case "settings":
            raise SettingsError("demo.start_error: refused at the start")
        case "crash":
            raise ValueError("boom")
        case "return":
            return
    time.sleep(context.settings.demo.block_at_start_sec)  # noqa: ASYNC251 - it is to block
    board = HealthBoard(10)
    service = context.settings.service
    reuse_port = context.workers > 1
    grpc_server = await open_server(service, [], board, workers=context.workers)
    http = await serve(
        _app(context), service.host, service.port, reuse_port=reuse_port, on_failure=context.fail
    )
    _workers.set(1)
    context.ready()
    await context.stop.wait()
    board.stopping()
    await http.stop()
    await grpc_server.stop(1)
    _log.info("drained")


def _app(context: WorkerContext[DemoConfig]) -> Starlette:
    async def pid(request: Request) -> JSONResponse:
        _calls.inc()
        _latency.observe(1.5)
        precision = decimal.getcontext().prec
        loop = type(asyncio.get_running_loop()).__module__
        return JSONResponse(
            {"pid": os.getpid(), "index": context.index, "precision": precision, "loop": loop}
        )

    async def crash(request: Request) -> JSONResponse:
        os._exit(3)

    async def block(request: Request) -> JSONResponse:
        time.sleep(60)  # noqa: ASYNC251 - it is to block
        return JSONResponse({})

    async def spin(request: Request) -> JSONResponse:
        time.sleep(0.03)  # noqa: ASYNC251 - it is to block
        return JSONResponse({"pid": os.getpid()})

    async def fail(request: Request) -> JSONResponse:
        async def die() -> None:
            raise ValueError("boom")

        context.own(die(), "doomed")
        return JSONResponse({})

    async def slow(request: Request) -> JSONResponse:
        _log.info("slow request")
        await asyncio.sleep(float(request.query_params["sec"]))
        return JSONResponse({"pid": os.getpid()})

    handlers: dict[str, Any] = {"pid": pid, "crash": crash, "block": block, "fail": fail, "slow": slow}
    handlers["spin"] = spin
    return Starlette(routes=[Route(f"/{name}", handler) for name, handler in handlers.items()])


DEFINITION = ServiceDefinition("risk", DemoConfig, "tests.integration.runtime.demo_service:run")

if __name__ == "__main__":
    from services.runtime.supervisor import main

    main(DEFINITION)
