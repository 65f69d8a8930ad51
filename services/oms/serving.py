"""The ports of a worker: REST and gRPC on the same servicers."""

import asyncio
from typing import Final

from gateway_http import create_app, local
from services.oms.reconciliation.servicer import ReconciliationService
from services.oms.servicer import OrderService
from services.oms.settings import OmsSettings
from services.oms.steps import Step
from services.runtime.admission import Admission
from services.runtime.grpc_engine import GrpcService, Taking, open_server
from services.runtime.health import HealthBoard
from services.runtime.http_server import serve
from services.runtime.service import WorkerContext
from trade2026.oms.v1 import (
    order_service_pb2,
    order_service_pb2_grpc,
    reconciliation_service_pb2,
    reconciliation_service_pb2_grpc,
)

_ORDERS: Final = order_service_pb2.DESCRIPTOR.services_by_name["OrderService"]
_RECONCILIATION: Final = reconciliation_service_pb2.DESCRIPTOR.services_by_name["ReconciliationService"]


async def open_ports(
    context: WorkerContext[OmsSettings],
    orders: OrderService,
    reconciliation: ReconciliationService,
    board: HealthBoard,
    grace_sec: float,
) -> Step:
    """Opens REST and gRPC; the step that closes them answers the open calls first, within `grace_sec`.

    Raises `OSError` when a port is taken.
    """
    settings = context.settings.service
    admission = Admission(settings.grpc_max_in_flight)
    app = create_app(
        [local(_ORDERS, orders), local(_RECONCILIATION, reconciliation)],
        title="oms",
        health=board.body,
        admission=admission,
    )
    grpc_server = await open_server(
        settings,
        [
            GrpcService(
                _ORDERS.full_name,
                order_service_pb2_grpc.add_OrderServiceServicer_to_server,
                orders,
                ahead={
                    "SubmitOrder": Taking(door=orders.refusal),
                    "CancelOrder": Taking(),
                    "ReplaceOrder": Taking(),
                },
            ),
            GrpcService(
                _RECONCILIATION.full_name,
                reconciliation_service_pb2_grpc.add_ReconciliationServiceServicer_to_server,
                reconciliation,
            ),
        ],
        board,
        workers=context.workers,
        admission=admission,
    )
    http = await serve(
        app,
        settings.host,
        settings.port,
        reuse_port=context.workers > 1,
        direct=app.direct,
        on_failure=context.fail,
    )

    async def close() -> None:
        await asyncio.gather(app.stop(grace_sec), grpc_server.stop(grace_sec))
        await http.stop()

    return close
