"""Connections and streams of the runtime's tests."""

import uuid
from collections.abc import AsyncIterator

import pytest
from nats.js.api import DiscardPolicy, StorageType, StreamConfig

from services.runtime.local_stack import NatsServer
from services.runtime.nats_client import NatsClient, open_nats


@pytest.fixture
async def nats_client(nats_server: NatsServer) -> AsyncIterator[NatsClient]:
    """A connection as the services open it."""
    client = await open_nats(nats_server.url, "test")
    yield client
    await client.close()


@pytest.fixture
async def stream(nats_client: NatsClient) -> AsyncIterator[str]:
    """A stream of its own for one test; its subjects are `<stream>.>`."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    js = nats_client.jetstream()
    await js.add_stream(
        StreamConfig(name=name, subjects=[f"{name}.>"], storage=StorageType.FILE, discard=DiscardPolicy.NEW)
    )
    yield name
    if nats_client.is_connected:
        await js.delete_stream(name)
