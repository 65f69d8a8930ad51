"""A bare Python gRPC server with the contracts' messages that does nothing: the floor of a unary call.

python -m perf.floors.grpc_noop PORT grpcio|ahead|native

`ahead` is grpcio's server as the services open it: with many calls requested at a time.
"""
# ruff: noqa: N802 (rpc names are the contract's)

import asyncio
import sys
from typing import Any

import grpc
import uvloop

from services.runtime.grpc_grpcio import GrpcioEngine, always_open
from services.runtime.urgency import Urgency
from trade2026.oms.v1 import order_pb2, order_service_pb2_grpc
from trade2026.risk.v1 import risk_pb2, risk_service_pb2, risk_service_pb2_grpc

_CHECK = f"/{risk_service_pb2.DESCRIPTOR.services_by_name['RiskService'].full_name}/Check"
ORDER_ID = "test_account-01HKQJ00000000000000000000"


class Risk(risk_service_pb2_grpc.RiskServiceServicer):
    """Approves."""

    async def Check(self, request: risk_pb2.CheckRequest, context: Any) -> risk_pb2.CheckResponse:
        return risk_pb2.CheckResponse(approved=True)

    async def BatchCheck(
        self, request: risk_pb2.BatchCheckRequest, context: Any
    ) -> risk_pb2.BatchCheckResponse:
        result = risk_pb2.CheckResult(response=risk_pb2.CheckResponse(approved=True))
        return risk_pb2.BatchCheckResponse(results=[result] * len(request.requests))

    async def Reserve(self, request: risk_pb2.ReserveRequest, context: Any) -> risk_pb2.ReserveResponse:
        return risk_pb2.ReserveResponse(approved=True, order_id=request.order_id)


class Orders(order_service_pb2_grpc.OrderServiceServicer):
    """Submits nothing, and says that it did."""

    async def SubmitOrder(
        self, request: order_pb2.SubmitOrderRequest, context: Any
    ) -> order_pb2.SubmitOrderResponse:
        return order_pb2.SubmitOrderResponse(status=order_pb2.SUBMIT_STATUS_SUBMITTED, order_id=ORDER_ID)

    async def BatchSubmitOrders(
        self, request: order_pb2.BatchSubmitOrdersRequest, context: Any
    ) -> order_pb2.BatchSubmitOrdersResponse:
        one = order_pb2.SubmitOrderResponse(status=order_pb2.SUBMIT_STATUS_SUBMITTED, order_id=ORDER_ID)
        result = order_pb2.SubmitOrderResult(response=one)
        return order_pb2.BatchSubmitOrdersResponse(results=[result] * len(request.requests))


async def serve(port: int, engine: str) -> None:
    server: Any
    if engine == "native":
        import pygrpc_native.aio

        server = pygrpc_native.aio.server()
    elif engine == "ahead":
        server = GrpcioEngine(Urgency(), (("grpc.so_reuseport", 0),))
        server.take_ahead(_CHECK, always_open, makes_way=False)
    else:
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    risk_service_pb2_grpc.add_RiskServiceServicer_to_server(Risk(), server)  # type: ignore[abstract]
    order_service_pb2_grpc.add_OrderServiceServicer_to_server(Orders(), server)  # type: ignore[abstract]
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))
