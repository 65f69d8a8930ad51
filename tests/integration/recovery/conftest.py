"""A ledger with its relay and journal, whose Valkey can lose what it holds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis

from services.ledger import keys
from services.ledger.errors import LedgerUnavailable
from services.ledger.journal import differences
from services.ledger.journal_tail import LedgerTail
from services.ledger.ledger import Ledger, LedgerOptions
from services.ledger.registry import KvAccountRegistry
from services.recovery.rebuild import Rebuilt, rebuild
from services.recovery.site import Site, Where, open_site
from services.recovery.verify import verify
from services.runtime.clock import SystemClock
from services.runtime.local_stack import NatsServer
from services.runtime.nats_client import NatsClient, open_nats
from services.runtime.streams import ACCOUNTS_BUCKET, EXECUTIONS, LEDGER, ensure_bucket, ensure_streams
from tests.integration.ledger.carrying import PROJECTION_DB, folded_journal, stored_state
from tests.integration.ledger.stale import CopiedValkey, copy_data
from tests.support import eventually


class Scene:
    """The parts, and what the tests do with them."""

    def __init__(self, valkey: CopiedValkey, nats: NatsServer, client: NatsClient, ledger: Ledger) -> None:
        self.valkey = valkey
        self.nats = nats
        self.client = client
        self.ledger = ledger
        self.where = Where(
            valkey.server.url,
            0,
            16,
            valkey.server.url,
            PROJECTION_DB,
            nats.url,
            "postgresql://127.0.0.1:1/qdb",
            "http://127.0.0.1:1",
        )

    @asynccontextmanager
    async def site(self) -> AsyncIterator[Site]:
        async with open_site(self.where) as site:
            yield site

    async def rebuild(self) -> Rebuilt:
        async with self.site() as site:
            return await rebuild(site, SystemClock(), lambda _: None)

    async def verified(self) -> list[str]:
        """The differences that `verify` finds."""
        async with self.site() as site:
            return (await verify(site, lambda _: None)).differences

    async def carried(self) -> None:
        """Returns when every commit is in LEDGER."""
        with redis.Redis.from_url(self.valkey.server.url) as raw:
            await eventually(lambda: all(raw.xlen(keys.outbox(p)) == 0 for p in range(16)))

    async def usable(self) -> None:
        """Returns when the ledger takes commands."""

        async def checked() -> bool:
            try:
                await self.ledger.check()
            except LedgerUnavailable as error:
                raise AssertionError(str(error)) from error
            return True

        await eventually(checked, within_sec=10)

    async def copy_journal(self, to: Path) -> None:
        """Copies what NATS stores; returns when the ledger has it again, started anew."""
        server = self.client.server_id
        copy_data(self.nats, to)
        # Until the loop has seen the end of the old connection, the ledger still takes itself for usable.
        await eventually(lambda: self.client.server_id != server, within_sec=10)
        await self.usable()

    async def denied(self, why: str = "older than its journal") -> None:
        """Returns when the ledger knows that its store is behind, or whatever `why` says."""

        async def refused() -> bool:
            try:
                await self.ledger.check()
            except LedgerUnavailable as error:
                return why in str(error)
            return False

        await eventually(refused, within_sec=10)

    async def as_in_the_journal(self, *accounts: str) -> None:
        """The stored accounts are what LEDGER folds to."""
        journal = await folded_journal(self.nats.url)
        for account in accounts:
            assert differences(journal.accounts[account], await stored_state(self.ledger, account)) == []

    def keys(self) -> dict[str, int]:
        """Every key of the ledger's accounts, with the number of its members where it has such."""
        found = {}
        with redis.Redis.from_url(self.valkey.server.url, decode_responses=True) as raw:
            for key in raw.scan_iter("*{p*"):
                if key.partition(":")[0] in ("proven", "relayed", "checkpoint", "outbox"):
                    continue
                kind = raw.type(key)
                sizes = {"zset": raw.zcard, "list": raw.llen, "hash": raw.hlen}
                found[key] = sizes[kind](key) if kind in sizes else 0
        return found


@pytest.fixture
async def scene(tmp_path: Path, empty_nats: NatsServer) -> AsyncIterator[Scene]:
    valkey = CopiedValkey(tmp_path)
    valkey.server.start()
    valkey.server.wait_healthy()
    client = await open_nats(empty_nats.url, "test")
    await ensure_streams(client.jetstream(), (LEDGER, EXECUTIONS))
    registry = KvAccountRegistry(await ensure_bucket(client.jetstream(), ACCOUNTS_BUCKET))
    ledger = await Ledger.open(
        LedgerOptions(url=valkey.server.url), registry, LedgerTail(client), SystemClock()
    )
    yield Scene(valkey, empty_nats, client, ledger)
    await ledger.close()
    await client.close()
    valkey.server.stop()
