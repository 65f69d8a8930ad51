"""Looks at orders, positions and fills; nothing here changes anything.

Orders and positions come from the ledger: they are as new as the last commit. Ended orders leave it after a
while and are found in QuestDB. Fills come from the fill store, and lag by its flush interval.
"""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import psycopg

from services.ledger.account import Account
from services.ledger.errors import LedgerUnavailable
from services.ledger.numbers import ZERO
from services.ledger.order import TERMINAL, Order, OrderState, Side
from services.ledger.reading import OrderPage
from services.oms.cancel import order_not_found, read_order_id
from services.oms.wire import (
    SIDES,
    STATE_NAMES,
    STATES,
    TYPES,
    number_text,
    order_message,
    positions_message,
)
from services.order_request import SYMBOL, read_account, read_client_order_id
from services.questdb.order_archive import OrderArchive
from services.questdb.order_fold import LoggedOrder
from services.questdb.queries import (
    BadPageToken,
    FillFilter,
    StoredFill,
    TableSuspended,
    list_fills,
    logged_orders,
)
from services.runtime.clock import Clock
from services.runtime.connections import QuestdbPool
from services.runtime.errors import InvalidArgument, Unavailable
from services.runtime.ids import created_ms
from trade2026.oms.v1 import order_pb2

LARGEST_PAGE: Final = 1_000
DEFAULT_PAGE: Final = 100
SCANNED: Final = 5_000
"""Orders that one call looks at for those of the wanted state; the page token goes on from there."""
CLOCK_DIFFERENCE_SEC: Final = 60.0
"""By how much this machine's clock and the one that made an order id may differ, at most, for the id alone to
tell that an order cannot have left the ledger."""
_STORE_ERRORS: Final = (psycopg.Error, TimeoutError, OSError, TableSuspended)
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

    def __init__(
        self, ledger: Ledger, questdb: QuestdbPool, archive: OrderArchive, kept_sec: float, clock: Clock
    ) -> None:
        """The ledger keeps every order for `kept_sec` after its end, hence after its beginning, at least."""
        self._ledger = ledger
        self._questdb = questdb
        self._archive = archive
        self._young_ms = round((kept_sec - CLOCK_DIFFERENCE_SEC) * 1000)
        self._clock = clock

    async def order(self, order_id: str) -> order_pb2.Order:
        """One order. Raises `NotFound`, `InvalidArgument` and `Unavailable`."""
        account = read_order_id(order_id)
        try:
            order = await self._ledger.order(order_id)
        except LedgerUnavailable:
            raise _ledger_unavailable() from None
        if order is not None:
            return order_message(order)
        if self._is_young(order_id):
            # Were there such an order, the ledger would still know it.
            raise order_not_found(order_id)
        try:
            stored = await self._archive.find(order_id)
            if stored is not None:
                return order_message(stored)
            logged = (await logged_orders(self._questdb, [order_id])).get(order_id)
        except _STORE_ERRORS:
            raise Unavailable(
                f"order {order_id} is not known to the ledger, and the log of orders does not answer now",
                reason="ORDERS_LOG_UNAVAILABLE",
            ) from None
        if logged is None:
            raise order_not_found(order_id)
        return logged_order_message(logged, account)

    def _is_young(self, order_id: str) -> bool:
        """Whether an order of this id cannot have left the ledger, so that the table needs no look.

        When in doubt it is False: orders leave by the clock of Valkey, ids are made by that of any worker. An
        id of the future shows that the clocks differ.
        """
        age_ms = self._clock.now_ns() // 1_000_000 - created_ms(order_id)
        return 0 <= age_ms < self._young_ms

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
        if client_order_id:
            found = None if token else await self._by_client_id(account, client_order_id)
            if found is not None and state in (None, _state_of(found)):
                response.orders.append(found)
            return response
        orders, response.next_page_token = await self._page(account, state, page_size, token)
        response.orders.extend(order_message(order) for order in orders)
        return response

    async def _by_client_id(self, account: str, client_order_id: str) -> order_pb2.Order | None:
        try:
            holder = await self._ledger.order_by_client_id(account, client_order_id)
        except LedgerUnavailable:
            raise _ledger_unavailable() from None
        if holder is None:
            return None
        # Of an order that has left the ledger only the outcome is there.
        return await self.order(holder.order_id)

    async def _page(
        self, account: str, state: OrderState | None, page_size: int, token: str
    ) -> tuple[list[Order], str]:
        """A page of orders by id from the highest down, out of the ledger and the table of those that have
        left it; the token that goes on from there.

        The ledger is looked at first: what leaves it meanwhile is in the table already.
        """
        try:
            held, ledger_end = await self._scan(account, state, page_size, token)
        except LedgerUnavailable:
            raise _ledger_unavailable() from None
        if state is not None and state not in TERMINAL:
            return held, ledger_end
        if len(held) == page_size and self._is_young(held[-1].order_id):
            return held, held[-1].order_id
        limit = page_size + 1
        try:
            left = await self._archive.page(account, state, token, limit)
        except _STORE_ERRORS:
            raise Unavailable(
                "the table of ended orders does not answer now; working orders can be listed by their state",
                reason="ORDERS_LOG_UNAVAILABLE",
            ) from None
        # Each of the two was looked through down to some id: below the higher one, orders may be missing.
        end = max(ledger_end, left[-1].order_id if len(left) == limit else "")
        merged = {order.order_id: order for order in (*left, *held) if order.order_id >= end}
        page = [merged[order_id] for order_id in sorted(merged, reverse=True)[:page_size]]
        if len(merged) > page_size:
            return page, page[-1].order_id
        return page, end

    async def _scan(
        self, account: str, state: OrderState | None, page_size: int, token: str
    ) -> tuple[list[Order], str]:
        """Up to `page_size` orders of the ledger in `state` below `token`, and the id down to which the
        ledger was looked through; empty: to its end."""
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


def _state_of(message: order_pb2.Order) -> OrderState | None:
    name = STATE_NAMES.get(message.state)
    return None if name is None else OrderState(name)


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


def logged_order_message(order: LoggedOrder, account: str) -> order_pb2.Order:
    """An order as the log of orders tells it: without fees, reason and the time of its last change."""
    message = order_pb2.Order(
        order_id=order.order_id,
        account=account,
        symbol=order.symbol,
        side=_SIDES_BY_NAME.get(order.side, 0),
        type=_TYPES_BY_NAME.get(order.type, 0),
    )
    if order.client_order_id:
        message.client_order_id = order.client_order_id
    if order.state is not None:
        message.state = STATES[order.state]
    if order.quantity is not None:
        message.quantity.value = number_text(order.quantity)
        open_quantity = ZERO if order.ended else order.quantity - order.cumulative
        message.leaves_quantity.value = number_text(max(ZERO, open_quantity))
    if order.price is not None:
        message.price.value = number_text(order.price)
    message.cumulative_quantity.value = number_text(order.cumulative)
    message.create_time.FromMilliseconds(created_ms(order.order_id))
    return message


_TYPES_BY_NAME: Final[Mapping[str, Any]] = {kind.value: number for kind, number in TYPES.items()}
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
