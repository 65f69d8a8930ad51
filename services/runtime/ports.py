"""Claiming TCP ports before workers start: a foreign holder is named instead of being shared with."""

import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from services.runtime.settings import ServiceConfig


@dataclass(frozen=True, slots=True)
class PortClaim:
    """One port that the service needs."""

    key: str
    """The setting that names it."""
    host: str
    port: int


class PortTaken(Exception):
    """A needed port is held by another program; the message names both."""


def claims_of(config: ServiceConfig) -> list[PortClaim]:
    """The ports of a service; ports that the system chooses (0) need no claim."""
    service, metrics = config.service, config.monitoring.metrics_port
    wanted = [("service.port", service.port), ("service.grpc_port", service.grpc_port or 0)]
    wanted.append(("monitoring.metrics_port", metrics))
    return [PortClaim(key, service.host, port) for key, port in wanted if port]


def check_free(claims: Sequence[PortClaim]) -> None:
    """Binds every port alone for a moment. Raises `PortTaken`, naming the holder, and for a port claimed
    twice."""
    by_port: dict[int, PortClaim] = {}
    for claim in claims:
        other = by_port.setdefault(claim.port, claim)
        if other is not claim:
            raise PortTaken(f"{claim.key} and {other.key} are the same port {claim.port}")
        family = socket.AF_INET6 if ":" in claim.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as alone:
            # Without SO_REUSEPORT: the bind also fails beside a listener that would share its port.
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                alone.bind((claim.host, claim.port))
                alone.listen(1)
            except OSError as error:
                raise PortTaken(
                    f"{claim.key}: {claim.host}:{claim.port} cannot be used "
                    f"({error.strerror}){holder(claim.port)}"
                ) from None


def hold(claims: Sequence[PortClaim]) -> list[socket.socket]:
    """Keeps ports that several workers share reserved: bound with SO_REUSEPORT, never listening."""
    held = []
    for claim in claims:
        family = socket.AF_INET6 if ":" in claim.host else socket.AF_INET
        keeper = socket.socket(family, socket.SOCK_STREAM)
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        keeper.bind((claim.host, claim.port))
        held.append(keeper)
    return held


def holder(port: int) -> str:
    """ " - held by process 4711 (nginx: …)", or nothing when it cannot be found out."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr[1] == port:
                if connection.pid is None:
                    return ": held by a process of another user"
                return f": held by process {connection.pid}{_command(connection.pid)}"
    return ""


def _command(pid: int) -> str:
    import psutil

    try:
        process = psutil.Process(pid)
        return f" ({' '.join(process.cmdline())[:120] or process.name()})"
    except psutil.Error:
        return ""
