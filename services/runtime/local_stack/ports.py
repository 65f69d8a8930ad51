"""Ports of this machine's loopback: which are free, and who holds one that is not."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Iterable
from pathlib import Path

import psutil

LOOPBACK = "127.0.0.1"

_LOWEST = 20_000
_HIGHEST_OFFSET = 30_000


def _first_ephemeral_port() -> int:
    """Lowest port that the kernel gives to outgoing connections (32768 where it does not say)."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        return 32_768


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind((LOOPBACK, port))
            candidate.listen(1)
        except OSError:
            return False
    return True


class _Claims:
    """Ports that this process has chosen: no other one chooses them before a server listens there.

    One byte of a file stands for a port. The kernel ends the locks of a process that ends, however it does.
    """

    def __init__(self) -> None:
        self._file: int | None = None

    def take(self, port: int) -> bool:
        """Whether the port is free, and chosen by no other process of this user."""
        if not is_free(port):
            return False
        if self._file is None:
            path = Path(tempfile.gettempdir()) / f"trade2026-ports-{os.getuid()}"
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except OSError:
            return False
        return True


_claims = _Claims()


def free_ports(count: int) -> list[int]:
    """Distinct free ports, below the ephemeral range, that no other process gets from here meanwhile.

    A server that is killed and restarted must find its port again. A port of the ephemeral range could
    meanwhile be taken by any outgoing connection; a client that reconnects to it can even reach itself.
    """
    highest = max(_first_ephemeral_port(), _LOWEST + 2_000)
    found: list[int] = []
    for port in random.sample(range(_LOWEST, highest), k=highest - _LOWEST):
        if _claims.take(port):
            found.append(port)
            if len(found) == count:
                return found
    raise OSError(f"fewer than {count} free ports between {_LOWEST} and {highest}")


def free_port_offset(ports: Iterable[int]) -> int:
    """An offset (a multiple of 100, at least 100) that makes every given port a free one."""
    base = list(ports)
    offsets = [offset for offset in range(100, _HIGHEST_OFFSET, 100) if max(base) + offset < 65_536]
    random.shuffle(offsets)
    lowest_ephemeral = _first_ephemeral_port()
    for offset in offsets:
        shifted = [port + offset for port in base]
        if max(shifted) < lowest_ephemeral and all(map(_claims.take, shifted)):
            return offset
    raise OSError(f"no offset makes the ports {', '.join(map(str, base))} free")


def port_holder(port: int) -> str:
    """Who listens on a port, for a person: `pid 4711 (nginx)`, or words when the system does not tell."""
    for connection in psutil.net_connections(kind="tcp"):
        if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
            if connection.pid is None:
                return "a process of another user"
            try:
                return f"pid {connection.pid} ({psutil.Process(connection.pid).name()})"
            except psutil.Error:
                return f"pid {connection.pid}"
    return "a connection that is still open"
