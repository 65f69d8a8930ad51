"""Opening a ledger: which server and which data it takes, and what it keeps beside accounts."""

from __future__ import annotations

from decimal import Decimal

import pytest
import redis

from services.ledger.continuity import NoJournal
from services.ledger.errors import ForeignLedger, LedgerUnavailable, UnsafeValkey
from services.ledger.ledger import Ledger, LedgerOptions
from services.ledger.registry import MemoryAccountRegistry
from services.runtime.clock import SystemClock
from tests.integration.ledger.conftest import OpenLedger
from tests.unit.ledger.making import (
    make_order,
    reserve,
)


async def test_new_opening_cash_holds_for_accounts_opened_from_then_on(open_ledger: OpenLedger) -> None:
    ledger = await open_ledger()
    await ledger.execute(reserve(make_order("acc1")))
    ledger.set_opening_cash(Decimal(7))
    await ledger.execute(reserve(make_order("acc2")))
    accounts = [await ledger.account(name) for name in ("acc1", "acc2")]
    assert [account and account.cash for account in accounts] == [100_000, 7]


@pytest.mark.parametrize(
    ("name", "value"), [("maxmemory-policy", "allkeys-lru"), ("appendfsync", "everysec")]
)
async def test_unsafe_server_is_refused_by_name_of_the_setting(
    open_ledger: OpenLedger, raw: redis.Redis, name: str, value: str
) -> None:
    before = raw.config_get(name)[name]
    raw.config_set(name, value)
    try:
        with pytest.raises(UnsafeValkey, match=name):
            await open_ledger()
        await open_ledger(allow_unsafe=True)
    finally:
        raw.config_set(name, str(before))


async def test_workers_see_the_same_identity_and_refuse_another_layout(open_ledger: OpenLedger) -> None:
    one, two = await open_ledger(), await open_ledger()
    assert one.identity == two.identity != ""
    with pytest.raises(ForeignLedger, match="16 partitions"):
        await open_ledger(partitions=8)


async def test_stream_that_began_anew_is_refused(open_ledger: OpenLedger) -> None:
    ledger = await open_ledger()
    await ledger.bind_stream("EXECUTIONS", "2026-01-01T00:00:00Z")
    await ledger.bind_stream("EXECUTIONS", "2026-01-01T00:00:00Z")
    with pytest.raises(ForeignLedger, match="EXECUTIONS"):
        await ledger.bind_stream("EXECUTIONS", "2026-02-02T00:00:00Z")


async def test_checkpoint_is_kept_by_partition(open_ledger: OpenLedger) -> None:
    ledger = await open_ledger()
    assert await ledger.checkpoint(3) == 0
    await ledger.set_checkpoint(3, 17, ledger.life)
    assert (await ledger.checkpoint(3), await ledger.checkpoint(4)) == (17, 0)


async def test_unreachable_server_is_named_at_the_start() -> None:
    with pytest.raises(LedgerUnavailable):
        await Ledger.open(
            LedgerOptions(url="redis://127.0.0.1:1"), MemoryAccountRegistry(), NoJournal(), SystemClock()
        )
