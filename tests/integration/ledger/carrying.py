"""A relay with everything around it, and the reader that folds what it carried."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import nats
from nats.aio.client import Client as NatsClient
from nats.js import JetStreamContext

from services.ledger.codec import decode_commits
from services.ledger.connection import Endpoint
from services.ledger.journal import FoldedAccount, Journal
from services.ledger.journal_tail import LedgerTail
from services.ledger.ledger import Ledger
from services.ledger.order import Order
from services.ledger.positions import Positions
from services.ledger.relay import Relay, RelayOptions
from services.runtime.nats_client import open_nats
from services.runtime.publisher import PubAck, Publisher, PublishUnknown

PROJECTION_DB = 5


@dataclass
class Carrier:
    """A running relay."""

    relay: Relay
    client: NatsClient
    js: JetStreamContext
    activated: list[Order]
    """What was sent to the venue, as often as it was."""


class _Deaf:
    """Does not hear the acknowledgements of one account."""

    def __init__(self, publisher: Publisher, account: str) -> None:
        self._publisher = publisher
        self._account = account

    async def publish(self, subject: str, payload: bytes, msg_id: str, timeout: float = 5.0) -> PubAck:
        ack = await self._publisher.publish(subject, payload, msg_id, timeout)
        if subject.endswith(f".{self._account}"):
            raise PublishUnknown("not heard")
        return ack


@contextlib.asynccontextmanager
async def carrier(
    valkey_url: str, nats_url: str, *, unpublishable: str = "", **options: object
) -> AsyncIterator[Carrier]:
    """A relay that owns every partition, for the time of a block.

    Messages of the account `unpublishable` are stored, but their acknowledgements never come.
    """
    client = await open_nats(nats_url, "relay")
    publisher = Publisher(client)
    await publisher.start()
    positions = Positions(client, Endpoint.parse(valkey_url, PROJECTION_DB))
    await positions.open()
    activated: list[Order] = []

    async def activate(orders: Sequence[Order]) -> None:
        activated.extend(orders)

    relay = Relay(
        RelayOptions(url=valkey_url, **options),  # type: ignore[arg-type]
        _Deaf(publisher, unpublishable) if unpublishable else publisher,
        positions,
        activate,
        LedgerTail(client),
    )
    await relay.open()
    stop = asyncio.Event()
    running = asyncio.create_task(relay.run(stop))
    try:
        for partition in range(16):
            await relay.acquired(partition, 1)
        yield Carrier(relay, client, client.jetstream(), activated)
    finally:
        stop.set()
        await running
        await relay.close()
        await positions.close()
        await publisher.close()
        with contextlib.suppress(OSError):
            await client.close()


async def folded_journal(nats_url: str) -> Journal:
    """The fold of everything in LEDGER, read from its beginning."""
    client = await nats.connect(nats_url)
    try:
        js = client.jetstream()
        last = (await js.stream_info("LEDGER")).state.last_seq
        journal = Journal()
        for sequence in range(1, last + 1):
            message = await js.get_msg("LEDGER", sequence, direct=True)
            assert message.data is not None
            for commit in decode_commits(message.data):
                journal.apply(commit)
        return journal
    finally:
        await client.close()


async def stored_state(ledger: Ledger, account: str) -> FoldedAccount:
    """An account and all its orders as they are stored now."""
    state = await ledger.account(account, fresh=True)
    assert state is not None
    stored = FoldedAccount(state)
    token = ""
    while True:
        page = await ledger.orders(account, page_size=500, page_token=token)
        stored.orders.update({order.order_id: order for order in page.orders})
        token = page.next_page_token
        if not token:
            return stored
