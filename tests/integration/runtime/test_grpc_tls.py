"""gRPC with a certificate: who may call, and what a wrong file gets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from perf.certificates import Identity, identity
from services.runtime.grpc_engine import GrpcServer, open_server
from services.runtime.health import HealthBoard
from services.runtime.settings import ServiceSettings, SettingsError
from trade2026.channel import open_blocking_channel, open_channel


def settings(certificate: Path, key: Path) -> ServiceSettings:
    return ServiceSettings(
        name="risk", port=0, grpc_port=0, grpc_certificate=str(certificate), grpc_key=str(key)
    )


@pytest.fixture
def known(tmp_path: Path) -> Identity:
    return identity(tmp_path / "known")


@pytest.fixture
async def server(known: Identity) -> AsyncIterator[GrpcServer]:
    board = HealthBoard(10)
    running = await open_server(settings(known.certificate, known.key), [], board)
    await board.probe_once()
    yield running
    await running.stop(0)


async def status_by(channel: grpc.aio.Channel) -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return int((await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)).status)


async def test_a_client_that_knows_the_authority_is_served(server: GrpcServer, known: Identity) -> None:
    async with open_channel(f"127.0.0.1:{server.port}", authorities=known.authorities) as channel:
        assert await status_by(channel) == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("who", ["plain", "stranger"])
async def test_others_cannot_call(server: GrpcServer, tmp_path: Path, who: str) -> None:
    authorities = identity(tmp_path / "stranger").authorities if who == "stranger" else ""
    async with open_channel(f"127.0.0.1:{server.port}", authorities=authorities) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await status_by(channel)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("wrong", ["missing", "no certificate", "another key"])
async def test_files_that_cannot_be_used_stop_the_start_and_are_named(
    known: Identity, tmp_path: Path, wrong: str
) -> None:
    certificate, key = known.certificate, known.key
    if wrong == "missing":
        key = tmp_path / "nowhere.pem"
    elif wrong == "no certificate":
        certificate = tmp_path / "empty.pem"
        certificate.write_text("")
    else:
        key = identity(tmp_path / "another").key
    with pytest.raises(SettingsError) as caught:
        await open_server(settings(certificate, key), [], HealthBoard(10))
    told = str(caught.value)
    assert f"service.grpc_certificate {certificate}" in told
    assert f"service.grpc_key {key}" in told


def test_a_client_is_told_which_file_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"authorities\.pem"):
        open_blocking_channel("127.0.0.1:1", tmp_path / "authorities.pem")
