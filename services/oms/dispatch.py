"""What oms sends to the venue: new orders, cancels and amendments, through stream ORDERS.

Each message has an id that JetStream recognises, one kind of id for each kind of message: the same id for a
`new` and a `cancel` would make it drop the second as a duplicate.
"""

from collections.abc import Sequence
from decimal import Decimal

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from services import messages
from services.ledger.order import Order, Terms
from services.runtime.clock import Clock
from services.runtime.publisher import PubAck, Publisher
from services.runtime.settings import SettingsError


class Dispatch:
    """Publishes to the venue. Raises `PublishUnknown` and `PublishRefused` as `Publisher` does."""

    def __init__(self, publisher: Publisher, prefix: str, timeout_sec: float, clock: Clock) -> None:
        """Subjects are `<prefix>.<account>.new` and so on; `timeout_sec` bounds the wait for the stream."""
        self._publisher = publisher
        self._prefix = prefix
        self._timeout_sec = timeout_sec
        self._clock = clock

    def new_order(self, order: Order, protection_price: Decimal | None) -> bytes:
        """The message that brings `order` to the venue; the same bytes however often it is sent."""
        return messages.encode(_new(order, protection_price))

    def new_pair(self, first: Order, second: Order) -> bytes:
        """The message that brings two orders of which one cancels the other; sent as one for `first`."""
        sibling = _new(second, second.terms.protection_price)
        return messages.encode(_new(first, first.terms.protection_price, sibling))

    async def send_new(self, order: Order, payload: bytes) -> PubAck:
        """Sends a new order and returns when the stream holds it."""
        return await self._publisher.publish(
            f"{self._prefix}.{order.account}.new",
            payload,
            f"new:{order.order_id}",
            timeout=self._timeout_sec,
        )

    async def send_activated(self, orders: Sequence[Order]) -> None:
        """Sends exits that were activated, those of one pair together; returns when the stream holds them.

        Sending them again is harmless: the stream or the venue recognises them.
        """
        waiting = {order.order_id: order for order in orders}
        for order in orders:
            if waiting.pop(order.order_id, None) is None:
                continue
            linked = order.group.linked if order.group is not None else ()
            sibling = next((waiting.pop(name) for name in linked if name in waiting), None)
            if sibling is None:
                await self.send_new(order, self.new_order(order, order.terms.protection_price))
            else:
                await self.send_new(order, self.new_pair(order, sibling))

    async def send_cancel(self, order: Order) -> PubAck:
        """Sends the last cancel that was requested of `order` and returns when the stream holds it."""
        cancel = messages.CancelOrder(
            order_id=order.order_id,
            account=order.account,
            revision=order.cancels,
            timestamp=messages.timestamp(self._clock.now_ns()),
        )
        return await self._publisher.publish(
            f"{self._prefix}.{order.account}.cancel",
            messages.encode(cancel),
            f"cancel:{order.order_id}:{order.cancels}",
            timeout=self._timeout_sec,
        )

    async def send_replace(self, order: Order, revision: int, terms: Terms) -> PubAck:
        """Sends an amendment of `order` and returns when the stream holds it."""
        amendment = messages.ReplaceOrder(
            order_id=order.order_id,
            account=order.account,
            revision=revision,
            quantity=terms.quantity,
            price=terms.price,
            stop_price=terms.stop_price,
            protection_price=terms.protection_price,
            timestamp=messages.timestamp(self._clock.now_ns()),
        )
        return await self._publisher.publish(
            f"{self._prefix}.{order.account}.replace",
            messages.encode(amendment),
            f"replace:{order.order_id}:{revision}",
            timeout=self._timeout_sec,
        )


def _new(
    order: Order, protection_price: Decimal | None, sibling: messages.NewOrder | None = None
) -> messages.NewOrder:
    terms = order.terms
    return messages.NewOrder(
        order_id=order.order_id,
        client_order_id=order.client_order_id,
        account=order.account,
        symbol=order.symbol,
        side=order.side,
        type=order.order_type,
        quantity=terms.quantity,
        price=terms.price,
        stop_price=terms.stop_price,
        protection_price=protection_price,
        time_in_force=order.time_in_force,
        expire_at=messages.timestamp(order.expire_ns) if order.expire_ns else None,
        timestamp=messages.timestamp(order.created_ns),
        sibling=sibling,
    )


async def check_subjects(js: JetStreamContext, prefix: str) -> None:
    """Raises `SettingsError` when no stream keeps what is published under `prefix`."""
    for kind in ("new", "cancel", "replace"):
        subject = f"{prefix}.account.{kind}"
        try:
            await js.find_stream_name_by_subject(subject)
        except NotFoundError:
            raise SettingsError(
                f"nats.order_subject_prefix: no stream takes {subject}; orders would be lost"
            ) from None
