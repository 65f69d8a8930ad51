"""Leases of clients on the real server: its clock decides, a renewed lease is never forgotten."""

from __future__ import annotations

import redis

from services.ledger.client_leases import Lapsed
from services.ledger.keys import client_leases
from services.ledger.partition import partition_of
from tests.integration.ledger.conftest import OpenLedger
from tests.support import eventually


async def test_lease_that_runs_out_shows_and_one_that_is_renewed_does_not(open_ledger: OpenLedger) -> None:
    leases = (await open_ledger()).client_leases
    partition = partition_of("gone")
    await leases.renew("gone", 0.05)
    await leases.renew("here", 60)

    async def lapsed() -> tuple[Lapsed, ...]:
        return await leases.lapsed(partition)

    (one,) = await eventually(lapsed)
    assert one.account == "gone"
    await leases.renew("gone", 60)
    assert await leases.lapsed(partition) == ()


async def test_lease_never_ends_earlier_by_a_shorter_renewal(
    open_ledger: OpenLedger, raw: redis.Redis
) -> None:
    leases = (await open_ledger()).client_leases
    await leases.renew("acc", 60)
    key = client_leases(partition_of("acc"))
    before = raw.zscore(key, "acc")
    await leases.renew("acc", 1)
    assert raw.zscore(key, "acc") == before


async def test_lease_that_was_renewed_after_the_look_is_not_forgotten(
    open_ledger: OpenLedger, raw: redis.Redis
) -> None:
    leases = (await open_ledger()).client_leases
    partition = partition_of("acc")
    await leases.renew("acc", 0)

    async def lapsed() -> tuple[Lapsed, ...]:
        return await leases.lapsed(partition)

    (seen,) = await eventually(lapsed)
    await leases.renew("acc", 60)
    await leases.forget(partition, seen)
    assert raw.zcard(client_leases(partition)) == 1
    raw.zadd(client_leases(partition), {"acc": int(seen.ended)})
    await leases.forget(partition, seen)
    assert raw.zcard(client_leases(partition)) == 0
