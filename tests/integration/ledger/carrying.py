"""A relay with everything around it, and the reader that folds what it carried."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import nats
from nats.aio.client import Client as NatsClient
from nats.js import JetStreamContext

from services.ledger.codec import decode_commits
from services.ledger.connection import Endpoint
from services.ledger.journal import FoldedAccount, Journal
from services.ledger.ledger import Ledger
from services.ledger.positions import Positions
from services.ledger.relay import Relay, RelayOptions
from services.runtime.clock import SystemClock
from services.runtime.connections import open_nats
from services.runtime.publisher import Publisher

PROJECTION_DB = 5


@dataclass
class Carrier:
    """A running relay."""

    relay: Relay
    client: NatsClient
    js: JetStreamContext


@contextlib.asynccontextmanager
async def carrier(
    valkey_url: str, nats_url: str, partitions: range | None = range(16), **options: object
) -> AsyncIterator[Carrier]:
    """A relay that owns `partitions` (None: none yet), for the time of a block."""
    client = await open_nats(nats_url, "relay")
    publisher = Publisher(client)
    await publisher.start()
    positions = Positions(client, Endpoint.parse(valkey_url, PROJECTION_DB))
    await positions.open()
    relay = Relay(RelayOptions(url=valkey_url, **options), publisher, positions, SystemClock())  # type: ignore[arg-type]
    await relay.open()
    stop = asyncio.Event()
    running = asyncio.create_task(relay.run(stop))
    try:
        for partition in partitions or ():
            await relay.acquired(partition, 1)
        yield Carrier(relay, client, client.jetstream())
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
