"""Fixtures of every test: the real servers, started once a run and only when a test asks for one.

A server that is not installed or does not start fails the tests that need it, by its name; none is skipped.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import nats
import psycopg
import pytest
import redis
from hypothesis import HealthCheck, settings

from services.runtime.local_stack import NatsServer, QuestDbServer, ValkeyServer, free_ports
from services.runtime.local_stack.part import Part
from tests.support import unique_account

# No deadline an example: on a busy machine it fails for reasons of the machine.
settings.register_profile(
    "default", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", parent=settings.get_profile("default"), max_examples=5_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose the seed of the run's random tests, so that the header can print it."""
    if config.getoption("--hypothesis-seed") is None:
        config.option.hypothesis_seed = str(random.getrandbits(32))


def pytest_report_header(config: pytest.Config) -> str:
    seed = config.getoption("--hypothesis-seed")
    return f"hypothesis seed: {seed} (run again with --hypothesis-seed={seed})"


@pytest.fixture(scope="session")
def _valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with ValkeyServer(tmp_path_factory.mktemp("valkey"), free_ports(1)[0]) as server:
        yield server


@pytest.fixture(scope="session")
def _nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    port, monitor_port = free_ports(2)
    with NatsServer(tmp_path_factory.mktemp("nats"), port, monitor_port) as server:
        yield server


@pytest.fixture(scope="session")
def _questdb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuestDbServer]:
    http_port, pg_port, health_port = free_ports(3)
    with QuestDbServer(tmp_path_factory.mktemp("questdb"), http_port, pg_port, health_port) as server:
        yield server


def _running(server: Part) -> None:
    """Undo what an earlier test did to a shared server: it may have paused, stopped or killed it."""
    server.resume()
    if not server.running:
        server.start()
    server.wait_healthy()


@pytest.fixture
def valkey_server(_valkey: ValkeyServer) -> ValkeyServer:
    """A running Valkey; a test may kill, pause and restart it. It holds what earlier tests left."""
    _running(_valkey)
    return _valkey


@pytest.fixture
def nats_server(_nats: NatsServer) -> NatsServer:
    """A running JetStream; a test may kill, pause and restart it. It holds what earlier tests left."""
    _running(_nats)
    return _nats


@pytest.fixture
def questdb_server(_questdb: QuestDbServer) -> QuestDbServer:
    """A running QuestDB; a test may kill, pause and restart it. It holds what earlier tests left."""
    _running(_questdb)
    return _questdb


@pytest.fixture
def empty_valkey(valkey_server: ValkeyServer) -> ValkeyServer:
    """A running Valkey without a key in any database and without a function."""
    with redis.Redis.from_url(valkey_server.url) as client:
        client.flushall()
        client.function_flush("SYNC")
    return valkey_server


@pytest.fixture
async def empty_nats(nats_server: NatsServer) -> NatsServer:
    """A running NATS without a stream, key-value buckets included."""
    client = await nats.connect(nats_server.url)
    try:
        jetstream = client.jetstream()
        for stream in await jetstream.streams_info():
            assert stream.config.name is not None
            await jetstream.delete_stream(stream.config.name)
    finally:
        await client.close()
    return nats_server


@pytest.fixture
def empty_questdb(questdb_server: QuestDbServer) -> QuestDbServer:
    """A running QuestDB without a table of ours."""
    with psycopg.connect(questdb_server.pg_url, autocommit=True) as connection:
        connection.execute("DROP ALL TABLES")
    return questdb_server


@pytest.fixture
def account() -> str:
    """An account name that no other test uses."""
    return unique_account()
