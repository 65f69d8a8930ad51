"""Our partition of an account is the one under which NATS stores its reports."""

from __future__ import annotations

import nats

from services.ledger.partition import PARTITIONS, partition_of
from services.runtime.ids import new_ulid
from services.runtime.local_stack import NatsServer
from services.runtime.streams import EXECUTIONS, ensure_streams


async def test_nats_stores_every_account_under_our_partition(empty_nats: NatsServer) -> None:
    client = await nats.connect(empty_nats.url)
    js = client.jetstream()
    await ensure_streams(js, (EXECUTIONS,))
    accounts = ["a", "test_account", "A-_9", "x" * 64, *(f"test_account_{i}" for i in range(100))]
    accounts += [new_ulid() for _ in range(100)]
    seen = set()
    for account in accounts:
        ack = await js.publish(f"fills.{account}", b"{}")
        message = await js.get_msg(EXECUTIONS, ack.seq)
        assert message.subject == f"{partition_of(account)}.fills.{account}"
        seen.add(partition_of(account))
    assert seen == set(range(PARTITIONS))
    await client.close()
