"""`trade2026.oms.v1.ReconciliationService`: decode, call, encode."""

from decimal import Decimal
from typing import Any, Final

from services.ledger.commands import AdjustPosition
from services.ledger.errors import CommitUnknown, LedgerUnavailable
from services.oms.reconciliation.comparison import Compared, Key, OrderPair
from services.oms.reconciliation.reconciler import (
    NothingToRepair,
    PriceMissing,
    Reconciler,
    RepairOrder,
    Report,
)
from services.oms.reconciliation.sources import SourceUnavailable
from services.oms.wire import STATES, number_text
from services.order_request import SYMBOL, read_account, read_positive
from services.runtime.clock import Clock
from services.runtime.errors import FailedPrecondition, InvalidArgument, Unavailable
from trade2026.oms.v1 import reconciliation_service_pb2 as pb
from trade2026.oms.v1 import reconciliation_service_pb2_grpc

LONGEST_REASON: Final = 512
LONGEST_NAME: Final = 128
RETRY_AFTER_SEC: Final = 1.0


class ReconciliationService(reconciliation_service_pb2_grpc.ReconciliationServiceServicer):
    """For gRPC and REST alike."""

    def __init__(self, clock: Clock) -> None:
        """Answers UNAVAILABLE until `attach`."""
        self._clock = clock
        self._reconciler: Reconciler | None = None

    def attach(self, reconciler: Reconciler) -> None:
        """Begins to serve."""
        self._reconciler = reconciler

    async def Reconcile(self, request: pb.ReconcileRequest, context: Any) -> pb.ReconcileResponse:
        account = read_account(request.account) if request.account else ""
        if request.symbol and not SYMBOL.fullmatch(request.symbol):
            raise InvalidArgument("symbol", "must be 1 to 32 upper-case letters or digits")
        repair = _read_repair(request) if request.HasField("repair") else None
        reconciler = self._reconciler
        if reconciler is None:
            raise Unavailable("oms is starting; nothing was done", reason="NOT_READY")
        try:
            if repair is None:
                return self._response(await reconciler.compare(account, request.symbol))
            booked = await reconciler.repair(account, request.symbol, repair)
        except SourceUnavailable as error:
            name = error.source.upper().replace(" ", "_")
            raise Unavailable(
                f"nothing can be compared: {error}",
                reason=f"{name}_UNAVAILABLE",
                retry_after_sec=RETRY_AFTER_SEC,
            ) from None
        except NothingToRepair as error:
            raise FailedPrecondition(str(error), reason="NOTHING_TO_REPAIR") from None
        except PriceMissing as error:
            raise InvalidArgument("repair.price", f"is required: {error}") from None
        except LedgerUnavailable:
            raise Unavailable("the account cannot be changed now; nothing was done") from None
        except CommitUnknown:
            raise Unavailable(
                "whether the correction was booked is not known; ask again",
                reason="OUTCOME_UNKNOWN",
                retry_after_sec=RETRY_AFTER_SEC,
            ) from None
        response = self._response(Report(1, 0))
        _fill_adjustment(response.adjustment, booked)
        return response

    def _response(self, report: Report) -> pb.ReconcileResponse:
        response = pb.ReconcileResponse(compared=report.compared, orders_compared=report.orders_compared)
        response.time.FromNanoseconds(self._clock.now_ns())
        for key, one in sorted(report.positions.items()):
            _fill_break(response.breaks.add(), key, one)
        for order_id, pair in sorted(report.orders.items()):
            _fill_order_break(response.order_breaks.add(), order_id, pair)
        return response


def _read_repair(request: pb.ReconcileRequest) -> RepairOrder:
    asked = request.repair
    if not request.account:
        raise InvalidArgument("account", "is required for a repair")
    if not request.symbol:
        raise InvalidArgument("symbol", "is required for a repair")
    if asked.kind not in (pb.REPAIR_KIND_TO_VENUE, pb.REPAIR_KIND_ACCEPT):
        raise InvalidArgument("repair.kind", "must be to_venue or accept")
    to_venue = asked.kind == pb.REPAIR_KIND_TO_VENUE
    price: Decimal | None = None
    if asked.HasField("price"):
        if not to_venue:
            raise InvalidArgument("repair.price", "must not be given for accept: nothing is booked")
        price = read_positive("repair.price", asked.price.value)
    return RepairOrder(
        to_venue,
        price,
        _read_text("repair.reason", asked.reason, LONGEST_REASON),
        _read_text("repair.requested_by", asked.requested_by, LONGEST_NAME),
    )


def _read_text(field: str, text: str, longest: int) -> str:
    if not 1 <= len(text) <= longest or not text.isprintable():
        raise InvalidArgument(field, f"must be 1 to {longest} printable characters")
    return text


def _fill_break(message: pb.Break, key: Key, one: Compared) -> None:
    message.account, message.symbol = key
    message.ledger.value = number_text(one.ledger)
    message.fill_store.value = number_text(one.fill_store)
    message.venue.value = number_text(one.venue)
    message.sequence = one.sequence


def _fill_order_break(message: pb.OrderBreak, order_id: str, pair: OrderPair) -> None:
    message.account, message.order_id = pair.account, order_id
    if pair.ledger is not None:
        message.ledger_state = STATES[pair.ledger.state]
        message.ledger_cumulative_quantity.value = number_text(pair.ledger.cumulative)
    if pair.venue is not None:
        message.venue_state = STATES[pair.venue.state]
        message.venue_cumulative_quantity.value = number_text(pair.venue.cumulative)


def _fill_adjustment(message: pb.Adjustment, booked: AdjustPosition) -> None:
    message.adjustment_id = booked.adjustment_id
    message.account, message.symbol = booked.account, booked.symbol
    message.quantity.value = number_text(booked.quantity)
    if booked.quantity:
        message.price.value = number_text(booked.price)
