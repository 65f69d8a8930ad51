"""Looks at orders, positions and fills; nothing here changes anything.

Orders and positions come from the ledger: they are as new as the last commit. Fills come from the fill store,
and lag by its flush interval.
"""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import psycopg

from services.ledger.account import Account
from services.ledger.errors import LedgerUnavailable
from services.ledger.order import TERMINAL, Order, OrderState, Side
from services.ledger.reading import OrderPage
from services.oms.cancel import order_not_found, read_order_id
from services.oms.wire import SIDES, STATE_NAMES, number_text, order_message, positions_message
from services.order_request import SYMBOL, read_account, read_client_order_id
from services.questdb.queries import BadPageToken, FillFilter, StoredFill, list_fills
from services.runtime.connections import QuestdbPool
from services.runtime.errors import InvalidArgument, Unavailable
from trade2026.oms.v1 import order_pb2

LARGEST_PAGE: Final = 1_000
DEFAULT_PAGE: Final = 100
SCANNED: Final = 5_000
"""Orders that one call looks at for those of the wanted state; the page token goes on from there."""
_FIRST_SECOND: Final = 0
_LAST_SECOND: Final = 9_000_000_000


class Ledger(Protocol):
    """What queries need of the account ledger."""

    async def account(self, account: str, *, fresh: bool = False) -> Account | None: ...

    async def order(self, order_id: str) -> Order | None: ...

    async def orders(
        self, account: str, *, page_size: int = 100, page_token: str = "", open_only: bool = False
    ) -> OrderPage: ...

    async def order_by_client_id(self, account: str, client_order_id: str) -> Order | None: ...


class Queries:
    """Answers questions; one a worker."""

    def __init__(self, ledger: Ledger, questdb: QuestdbPool) -> None:
        self._ledger = ledger
        self._questdb = questdb

    async def order(self, order_id: str) -> order_pb2.Order:
        """One order. Raises `NotFound`, `InvalidArgument` and `Unavailable`."""
        read_order_id(order_id)
        try:
            order = await self._ledger.order(order_id)
        except LedgerUnavailable:
            raise _ledger_unavailable() from None
        if order is None:
            raise order_not_found(order_id)
        return order_message(order)

    async def orders(self, request: order_pb2.ListOrdersRequest) -> order_pb2.ListOrdersResponse:
        """A page of an account's orders, newest first."""
        account = read_account(request.account)
        state = _read_state(request.state)
        client_order_id = read_client_order_id(request.client_order_id)
        page_size = read_page_size(request.page_size)
        token = request.page_token
        if token and read_token_account(token) != account:
            raise InvalidArgument("page_token", "is not one of this list")
        response = order_pb2.ListOrdersResponse()
        try:
            if client_order_id:
                found = await self._ledger.order_by_client_id(account, client_order_id)
                orders = [found] if found is not None and state in (None, found.state) and not token else []
                token = ""
            else:
                orders, token = await self._scan(account, state, page_size, token)
        except LedgerUnavailable:
            raise _ledger_unavailable() from None
        response.orders.extend(order_message(order) for order in orders)
        response.next_page_token = token
        return response

    async def _scan(
        self, account: str, state: OrderState | None, page_size: int, token: str
    ) -> tuple[list[Order], str]:
        """Up to `page_size` orders in `state` after `token`, and the token that goes on from there."""
        found: list[Order] = []
        looked_at = 0
        open_only = state is not None and state not in TERMINAL
        while True:
            page = await self._ledger.orders(
                account, page_size=page_size, page_token=token, open_only=open_only
            )
            looked_at += len(page.orders)
            for order in page.orders:
                if state in (None, order.state):
                    found.append(order)
                    if len(found) == page_size:
                        last = order is page.orders[-1] and not page.next_page_token
                        return found, "" if last else order.order_id
            token = page.next_page_token
            if not token or looked_at >= SCANNED:
                return found, token
            await asyncio.sleep(0)

    async def positions(self, request: order_pb2.GetPositionsRequest) -> order_pb2.GetPositionsResponse:
        """Positions by symbol; none for an unknown account."""
        account = read_account(request.account)
        try:
            return positions_message(await self._ledger.account(account))
        except LedgerUnavailable:
            raise _ledger_unavailable() from None

    async def fills(self, request: order_pb2.ListFillsRequest) -> order_pb2.ListFillsResponse:
        """A page of stored fills, newest first."""
        wanted = FillFilter(
            account=read_account(request.account),
            symbol=_read_symbol(request.symbol),
            order_id=_read_text("order_id", request.order_id),
            start=_read_time("start_time", request.start_time) if request.HasField("start_time") else None,
            end=_read_time("end_time", request.end_time) if request.HasField("end_time") else None,
        )
        page_size = read_page_size(request.page_size)
        try:
            page = await list_fills(self._questdb, wanted, page_size, request.page_token)
        except BadPageToken as error:
            raise InvalidArgument("page_token", str(error)) from None
        except (psycopg.Error, TimeoutError, OSError):
            raise Unavailable("the fill store does not answer now", reason="FILL_STORE_UNAVAILABLE") from None
        response = order_pb2.ListFillsResponse(next_page_token=page.next_page_token)
        response.fills.extend(_fill_message(fill) for fill in page.fills)
        return response


def read_page_size(size: int) -> int:
    """The page size asked for, or the default for 0. Raises `InvalidArgument`."""
    if size > LARGEST_PAGE:
        raise InvalidArgument("page_size", f"must be 1 to {LARGEST_PAGE}")
    return size or DEFAULT_PAGE


def read_token_account(token: str) -> str:
    """The account inside a page token of orders, which is an order id; empty when it is none."""
    account, _, rest = token.rpartition("-")
    return account if len(rest) == 26 and rest.isascii() and rest.isalnum() else ""


def _read_state(value: int) -> OrderState | None:
    if not value:
        return None
    name = STATE_NAMES.get(value)
    if name is None:
        raise InvalidArgument("state", "must be a known state")
    return OrderState(name)


def _read_symbol(symbol: str) -> str:
    if symbol and not SYMBOL.fullmatch(symbol):
        raise InvalidArgument("symbol", "must be 1 to 32 upper-case letters or digits")
    return symbol


def _read_text(field: str, text: str) -> str:
    if len(text) > 128 or not (text.isascii() and (not text or text.isprintable())):
        raise InvalidArgument(field, "must be at most 128 printable characters")
    return text


def _read_time(field: str, time: Any) -> datetime:
    if not _FIRST_SECOND <= time.seconds <= _LAST_SECOND or not 0 <= time.nanos < 1_000_000_000:
        raise InvalidArgument(field, "must be a time between 1970 and 2255")
    return datetime.fromtimestamp(time.seconds, UTC).replace(microsecond=time.nanos // 1000)


_SIDES_BY_NAME: Final[Mapping[str, Any]] = {side.value: SIDES[side] for side in Side}


def _fill_message(fill: StoredFill) -> order_pb2.Fill:
    message = order_pb2.Fill(
        fill_id=fill.fill_id,
        order_id=fill.order_id,
        account=fill.account,
        symbol=fill.symbol,
        side=_SIDES_BY_NAME[fill.side],
        liquidity=fill.liquidity or "",
    )
    message.quantity.value = number_text(fill.quantity)
    message.price.value = number_text(fill.price)
    message.fee.value = number_text(fill.fee)
    message.time.FromDatetime(fill.time)
    return message


def _ledger_unavailable() -> Unavailable:
    return Unavailable("the account ledger cannot be read now", reason="LEDGER_UNAVAILABLE")
