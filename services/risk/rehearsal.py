"""The way of a reservation, gone before the first order comes, so that it does not pay for what happens once.

The first evaluations and commits of a process take several times as long as later ones: longer than an order
has. A rehearsal reads a request, evaluates it on an account that does not exist and sends a commit that the
ledger refuses. It leaves nothing behind, and is neither counted nor logged.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from services.instruments import Instrument
from services.ledger.errors import LedgerError
from services.risk.encode import reserve_response
from services.risk.engine import RiskEngine
from services.risk.reserve_request import read_reservation
from services.runtime.clock import Clock
from services.runtime.errors import ServiceError
from services.runtime.ids import new_order_id
from services.runtime.telemetry import get_logger
from trade2026.risk.v1 import risk_pb2
from trade2026.type.v1 import order_pb2

TIMES: Final = 50
"""For each instrument: the interpreter has specialised what it runs by then."""
_ACCOUNT: Final = "rehearsal"
_POLL_SEC: Final = 0.05

_log = get_logger("risk.rehearsal")


async def rehearse(engine: RiskEngine, instruments: Mapping[str, Instrument], clock: Clock) -> None:
    """Rehearses for every instrument once there is a mark: without one the checks end early."""
    while not any(engine.market.now().quote(symbol) for symbol in instruments):
        await asyncio.sleep(_POLL_SEC)
    try:
        for instrument in instruments.values():
            for _ in range(TIMES):
                await _once(engine, instruments, instrument, clock.now_ns())
    except LedgerError as error:
        _log.debug("rehearsal ended early", error=f"{type(error).__name__}: {error}")
    except Exception as error:
        _log.error("rehearsal failed", exc_info=error)


async def _once(
    engine: RiskEngine, instruments: Mapping[str, Instrument], instrument: Instrument, now_ns: int
) -> None:
    order_id = new_order_id(_ACCOUNT)
    request = risk_pb2.ReserveRequest(
        account=_ACCOUNT,
        symbol=instrument.symbol,
        side=order_pb2.SIDE_BUY,
        type=order_pb2.ORDER_TYPE_MARKET,
        order_id=order_id,
        max_open_orders=1,
    )
    request.quantity.value = str(instrument.quantity_increment)
    try:
        reserve_response(await engine.rehearse(read_reservation(request, instruments, now_ns)), order_id)
    except ServiceError as error:
        _log.warning("rehearsal failed", symbol=instrument.symbol, error=str(error))
