"""What `make perf` measures on a platform: checks, reservations, and orders by every way in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from perf import requests as r
from perf.floors.servers import Floor, Floors
from perf.load import CONNECTIONS, Load, grpc_load, http_load
from perf.measure import Case, Drive
from perf.platform import Platform

IN_FLIGHT: Final = 64
CHECKS_A_BATCH: Final = 100
ORDERS_A_BATCH: Final = 20
ORDER_RATE: Final = 1000
"""Orders a second of the documented load."""
RESERVE_ACCOUNTS: Final = tuple(f"reserve_account_{i}" for i in range(10))

_SETTLE_SEC: Final = 60.0


def grpc(
    address: str,
    call: str,
    data: object,
    *,
    in_flight: int = IN_FLIGHT,
    rate: int = 0,
    connections: int = 1,
    authorities: Path | None = None,
) -> Drive:
    """A load by the gRPC tool."""

    def drive(run: int, seconds: float) -> Load:
        given = data(run) if callable(data) else data
        return grpc_load(
            address,
            call,
            given,
            seconds=seconds,
            concurrency=in_flight,
            rate=rate,
            connections=connections,
            authorities=authorities,
        )

    return drive


def http(
    url: str,
    bodies: Sequence[object],
    *,
    in_flight: int = IN_FLIGHT,
    rate: int = 0,
    count_answers: bool = False,
    connections: int = CONNECTIONS,
) -> Drive:
    """A load by the HTTP tool."""
    targets = [r.target(url, body) for body in bodies]

    def drive(run: int, seconds: float) -> Load:
        return http_load(
            targets,
            seconds=seconds,
            rate=rate,
            workers=in_flight,
            connections=connections,
            count_answers=count_answers,
        )

    return drive


def checks(platform: Platform, floors: Floors) -> list[Case]:
    """Dry checks."""
    risk, floor = platform.grpc("risk"), floors[f"{platform.engine} no-op"]
    starlette = floors["Starlette no-op"]
    one = r.message(r.check_body())
    batch = {"requests": [r.message(r.check_body(f"test_account_{i}")) for i in range(CHECKS_A_BATCH)]}
    body = [r.check_body(f"test_account_{i}") for i in range(100)]
    fast = 5000 if platform.engine == "native" else 1000
    pids = _pids(platform, "risk", "valkey")

    def unary(name: str, **load: Any) -> Case:
        return Case(
            name=name,
            group="check",
            setting=platform.setting,
            drive=grpc(risk, r.CHECK, one, authorities=platform.authorities, **load),
            pids=pids,
            floor=grpc(floor.address, r.CHECK, one, **load),
            floor_name=floor.name,
            floor_pids=floor.pids,
        )

    def rest(name: str, **load: Any) -> Case:
        return Case(
            name=name,
            group="check",
            setting=platform.setting,
            drive=http(platform.rest("risk", "/check"), body, **load),
            pids=pids,
            floor=http(f"http://{starlette.address}/check", body, **load),
            floor_name=starlette.name,
            floor_pids=starlette.pids,
        )

    return [
        unary(f"Check, unary, {IN_FLIGHT} in flight", connections=4),
        unary("Check, unary, one in flight", in_flight=1),
        unary(f"Check, unary, {fast:,}/s", rate=fast),
        Case(
            name=f"BatchCheck of {CHECKS_A_BATCH}, 8 in flight",
            group="check",
            setting=platform.setting,
            drive=grpc(risk, r.BATCH_CHECK, batch, in_flight=8, authorities=platform.authorities),
            pids=pids,
            floor=grpc(floor.address, r.BATCH_CHECK, batch, in_flight=8),
            floor_name=floor.name,
            floor_pids=floor.pids,
            items=CHECKS_A_BATCH,
        ),
        rest(f"REST /check, {IN_FLIGHT} in flight"),
        rest("REST /check, one in flight", in_flight=1),
        rest("REST /check, 8,000/s", rate=8000),
    ]


def reservations(platform: Platform, floors: Floors) -> list[Case]:
    """Reservations, which nothing follows: the sweeper gives them up later."""
    risk, floor = platform.grpc("risk"), floors[f"{platform.engine} no-op"]

    def unary(name: str, offset: int, **load: Any) -> Case:
        def messages(run: int) -> list[dict[str, Any]]:
            return r.reservations(offset + run, RESERVE_ACCOUNTS)

        return Case(
            name=name,
            group="reserve",
            setting=platform.setting,
            drive=grpc(risk, r.RESERVE, messages, authorities=platform.authorities, **load),
            pids=_pids(platform, "risk", "valkey"),
            floor=grpc(floor.address, r.RESERVE, messages, **load),
            floor_name=floor.name,
            floor_pids=floor.pids,
        )

    return [
        unary(f"Reserve, unary, {IN_FLIGHT} in flight", 0, connections=4),
        unary("Reserve, unary, one in flight", 1000, in_flight=1),
    ]


def orders(platform: Platform, floors: Floors, rate: int = ORDER_RATE) -> list[Case]:
    """The documented load of orders by REST, by unary gRPC and by batches, at a named rate."""
    engine, starlette = floors[f"{platform.engine} no-op"], floors["Starlette no-op"]
    bodies = [r.order_body(number) for number in range(r.CYCLE)]
    oms = platform.grpc("oms")

    def settle() -> tuple[float, int]:
        return platform.settle(_SETTLE_SEC)

    def case(name: str, drive: Drive, floor_drive: Drive, floor: Floor, items: int = 1) -> Case:
        return Case(
            name=name,
            group="orders",
            setting=platform.setting,
            drive=drive,
            pids=platform.pids(),
            floor=floor_drive,
            floor_name=floor.name,
            floor_pids=floor.pids,
            settle=settle,
            outcomes=platform.submissions,
            items=items,
        )

    batched = r.batches(ORDERS_A_BATCH)
    batch_rate = rate // ORDERS_A_BATCH
    return [
        case(
            f"orders by REST, {rate:,}/s",
            http(platform.rest("oms", "/orders"), bodies, rate=rate),
            http(f"http://{starlette.address}/orders", bodies, rate=rate),
            starlette,
        ),
        case(
            f"orders by gRPC batches of {ORDERS_A_BATCH}, {rate:,}/s",
            grpc(oms, r.BATCH_SUBMIT, batched, rate=batch_rate, authorities=platform.authorities),
            grpc(engine.address, r.BATCH_SUBMIT, batched, rate=batch_rate),
            engine,
            ORDERS_A_BATCH,
        ),
        case(
            f"orders by unary gRPC, {rate:,}/s",
            grpc(oms, r.SUBMIT, r.orders(), rate=rate, authorities=platform.authorities),
            grpc(engine.address, r.SUBMIT, r.orders(), rate=rate),
            engine,
        ),
        case(
            "orders by REST, one in flight",
            http(platform.rest("oms", "/orders"), bodies, in_flight=1),
            http(f"http://{starlette.address}/orders", bodies, in_flight=1),
            starlette,
        ),
        case(
            "orders by REST, 16 in flight",
            http(platform.rest("oms", "/orders"), bodies, in_flight=16),
            http(f"http://{starlette.address}/orders", bodies, in_flight=16),
            starlette,
        ),
    ]


def _pids(platform: Platform, *parts: str) -> Mapping[str, int]:
    return {part: pid for part, pid in platform.pids().items() if part in parts}
