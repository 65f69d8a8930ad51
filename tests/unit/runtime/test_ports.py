"""Claims on ports: who holds one is named, and shared ports stay reserved."""

import os
import random
import socket
import subprocess
import sys

import pytest

from services.runtime.local_stack import free_ports
from services.runtime.ports import PortClaim, PortTaken, check_free, claims_of, hold
from services.runtime.settings import MonitoringSettings, ServiceConfig, ServiceSettings

HOST = "127.0.0.1"


def listener(port: int, reuse_port: bool = False) -> socket.socket:
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        one.bind((HOST, port))
        one.listen(1)
    except OSError:
        one.close()
        raise
    return one


@pytest.mark.parametrize("reuse_port", [False, True])
def test_a_foreign_holder_is_named_even_if_it_would_share(reuse_port: bool) -> None:
    (port,) = free_ports(1)
    with listener(port, reuse_port), pytest.raises(PortTaken) as caught:
        check_free([PortClaim("service.port", HOST, port)])
    assert f"service.port: port {port} is taken by pid {os.getpid()}" in str(caught.value)


def test_free_ports_can_be_used_after_the_check() -> None:
    ports = free_ports(2)
    check_free([PortClaim(str(port), HOST, port) for port in ports])
    for port in ports:
        listener(port).close()


def test_a_port_named_by_two_keys_is_refused() -> None:
    (port,) = free_ports(1)
    with pytest.raises(PortTaken, match=r"service\.grpc_port and service\.port are the same port"):
        check_free([PortClaim("service.port", HOST, port), PortClaim("service.grpc_port", HOST, port)])


def test_a_held_port_can_be_shared_by_workers_but_not_taken_alone() -> None:
    (port,) = free_ports(1)
    kept = hold([PortClaim("service.port", HOST, port)])
    try:
        with pytest.raises(OSError, match="in use"):
            listener(port)
        with listener(port, reuse_port=True), listener(port, reuse_port=True):
            pass
    finally:
        for keeper in kept:
            keeper.close()


def test_a_held_port_takes_no_connection_for_itself() -> None:
    (port,) = free_ports(1)
    kept = hold([PortClaim("service.port", HOST, port)])
    try:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, port), timeout=1)
    finally:
        for keeper in kept:
            keeper.close()


def test_a_service_claims_its_three_ports_and_none_that_the_system_chooses() -> None:
    config = ServiceConfig(
        service=ServiceSettings(name="risk", port=8103, grpc_port=18103),
        monitoring=MonitoringSettings(metrics_port=9103),
    )
    assert [(claim.key, claim.port) for claim in claims_of(config)] == [
        ("service.port", 8103),
        ("service.grpc_port", 18103),
        ("monitoring.metrics_port", 9103),
    ]
    small = ServiceConfig(
        service=ServiceSettings(name="risk", port=8103), monitoring=MonitoringSettings(metrics_port=0)
    )
    assert [claim.port for claim in claims_of(small)] == [8103]


def test_two_processes_never_choose_the_same_port(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = (
        "from services.runtime.local_stack import ports; print(ports.free_ports(1)[0], flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", chosen], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        theirs = int(other.stdout.readline())
        monkeypatch.setattr(random, "sample", lambda ports, k: [theirs])
        with pytest.raises(OSError, match="fewer than 1 free ports"):
            free_ports(1)
        other.stdin.close()
    assert free_ports(1) == [theirs]
