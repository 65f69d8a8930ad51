"""A stream that fills up is measured, told, and makes the service degraded before it refuses messages."""

from __future__ import annotations

import pytest

from services.runtime.local_stack import NatsServer
from services.runtime.nats_client import open_nats
from services.runtime.stream_watch import StreamFull, StreamWatch
from services.runtime.streams import DEADLETTER, LEDGER, ensure_streams


async def test_a_stream_at_nine_tenths_of_its_bytes_is_told_and_one_with_room_is_not(
    empty_nats: NatsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    client = await open_nats(empty_nats.url, "test")
    try:
        js = client.jetstream()
        await ensure_streams(js, (DEADLETTER, LEDGER))
        config = (await js.stream_info(DEADLETTER)).config
        config.max_bytes = 20_000
        await js.update_stream(config)
        watch = StreamWatch(client, (DEADLETTER, LEDGER, "MISSING"))
        await watch.check()
        for _ in range(10):
            await js.publish("deadletter.orders", b"x" * 1_650)
        await watch.check()
        await watch.check()
        assert capsys.readouterr().out.count("stream fills up") == 1
        await js.publish("deadletter.orders", b"x" * 1_650)
        with pytest.raises(StreamFull, match="DEADLETTER is 9"):
            await watch.check()
        await js.purge_stream(DEADLETTER)
        await watch.check()
        assert "room again" in capsys.readouterr().out
    finally:
        await client.close()
