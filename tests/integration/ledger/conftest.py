"""Ledgers on the real Valkey, closed at the end of each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis

from services.ledger.continuity import NoJournal
from services.ledger.ledger import Ledger, LedgerOptions
from services.ledger.registry import AccountRegistry, MemoryAccountRegistry
from services.runtime.clock import SystemClock
from services.runtime.local_stack import ValkeyServer
from tests.integration.ledger.carrying import PROJECTION_DB

OpenLedger = Callable[..., Awaitable[Ledger]]


@pytest.fixture
def registry() -> MemoryAccountRegistry:
    return MemoryAccountRegistry()


@pytest.fixture
async def open_ledger(
    empty_valkey: ValkeyServer, registry: MemoryAccountRegistry
) -> AsyncIterator[OpenLedger]:
    """Opens workers on one Valkey and one registry; options and another registry by keyword."""
    opened: list[Ledger] = []

    async def open_one(*, with_registry: AccountRegistry | None = None, **options: Any) -> Ledger:
        settings = replace(LedgerOptions(url=empty_valkey.url), **options)
        ledger = await Ledger.open(settings, with_registry or registry, NoJournal(), SystemClock())
        opened.append(ledger)
        return ledger

    yield open_one
    for ledger in opened:
        await ledger.close()


@pytest.fixture
def raw(empty_valkey: ValkeyServer) -> Iterator[redis.Redis]:
    """A plain client, to look at what is stored and to do damage."""
    with redis.Redis.from_url(empty_valkey.url) as client:
        yield client


@pytest.fixture
def projection(empty_valkey: ValkeyServer) -> Iterator[redis.Redis]:
    """A plain client of the database that the relay shows positions in."""
    with redis.Redis.from_url(empty_valkey.url, db=PROJECTION_DB, decode_responses=True) as client:
        yield client
