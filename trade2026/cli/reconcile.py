"""`trade2026 reconcile`: ledger, fill store and venue compared, and one position corrected on demand."""

import argparse
import sys
from typing import Any, Final

import grpc

from trade2026.channel import open_blocking_channel
from trade2026.oms.v1 import reconciliation_service_pb2 as pb
from trade2026.oms.v1 import reconciliation_service_pb2_grpc
from trade2026.type.v1 import order_pb2

TIMEOUT_SEC: Final = 120.0
REPAIRS: Final = {"to-venue": pb.REPAIR_KIND_TO_VENUE, "accept": pb.REPAIR_KIND_ACCEPT}
EQUAL: Final = 0
DIFFERENT: Final = 1
FAILED: Final = 2


def run(options: argparse.Namespace) -> int:
    """Prints what differs. Exit status: 0 nothing, 1 something, 2 not compared."""
    request = pb.ReconcileRequest(account=options.account or "", symbol=options.symbol or "")
    if options.repair:
        request.repair.kind = REPAIRS[options.repair]
        request.repair.reason = options.reason or ""
        request.repair.requested_by = options.by or ""
        if options.price:
            request.repair.price.value = options.price
    with open_blocking_channel(options.target, options.authorities) as channel:
        stub = reconciliation_service_pb2_grpc.ReconciliationServiceStub(channel)
        try:
            answer = stub.Reconcile(request, timeout=TIMEOUT_SEC)
        except grpc.RpcError as error:
            call: Any = error
            print(f"{call.code().name}: {call.details()}", file=sys.stderr)
            return FAILED
    print("\n".join(lines(answer)))
    return DIFFERENT if answer.breaks or answer.order_breaks else EQUAL


def lines(answer: pb.ReconcileResponse) -> list[str]:
    """The answer for a person."""
    if answer.HasField("adjustment"):
        booked = answer.adjustment
        price = f" at {booked.price.value}" if booked.HasField("price") else ""
        what = f"{booked.quantity.value}{price} for {booked.account} {booked.symbol}"
        return [f"booked {what}, adjustment {booked.adjustment_id}"]
    found = [
        f"{one.account} {one.symbol}: ledger {one.ledger.value}, fill store {one.fill_store.value},"
        f" venue {one.venue.value} (as of report {one.sequence})"
        for one in answer.breaks
    ]
    found += [
        f"order {one.order_id}: {_state(one.ledger_state, 'not open')} in the ledger,"
        f" {_state(one.venue_state, 'not working')} at the venue"
        for one in answer.order_breaks
    ]
    differ = f"{len(found)} differ" if found else "nothing differs"
    return [
        *found,
        f"{answer.compared} positions and {answer.orders_compared} open orders compared: {differ}",
    ]


def _state(state: "order_pb2.OrderState.ValueType", absent: str) -> str:
    return order_pb2.OrderState.Name(state).removeprefix("ORDER_STATE_").lower() if state else absent
