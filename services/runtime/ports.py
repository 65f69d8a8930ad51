"""Claiming TCP ports before workers start: a foreign holder is named instead of being shared with."""

import errno
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.runtime.settings import ServiceConfig

METRICS_KEY: Final = "monitoring.metrics_port"
"""The port of the supervisor itself; the others are the workers'."""


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
    wanted.append((METRICS_KEY, metrics))
    return [PortClaim(key, service.host, port) for key, port in wanted if port]


def check_free(claims: Sequence[PortClaim]) -> None:
    """Binds every port alone for a moment. Raises `PortTaken`, naming the holder, and for a port claimed
    twice."""
    by_port: dict[int, PortClaim] = {}
    for claim in claims:
        other = by_port.setdefault(claim.port, claim)
        if other is not claim:
            raise PortTaken(f"{claim.key} and {other.key} are the same port {claim.port}")
        try:
            # Without SO_REUSEPORT: the bind also fails beside a listener that would share its port.
            with _bound(claim, socket.SO_REUSEADDR) as alone:
                alone.listen(1)
        except OSError as error:
            raise PortTaken(f"{claim.key}: {_why(claim, error)}") from None


def hold(claims: Sequence[PortClaim]) -> list[socket.socket]:
    """Keeps ports that several workers share reserved: bound with SO_REUSEPORT, never listening."""
    return [_reserve(claim) for claim in claims]


def _reserve(claim: PortClaim) -> socket.socket:
    try:
        # Without SO_REUSEADDR: beside a socket that has it and does not listen, everybody may bind.
        return _bound(claim, socket.SO_REUSEPORT)
    except OSError:
        # Closed connections of an earlier run linger on the port. Reserved against fewer, but not refused.
        return _bound(claim, socket.SO_REUSEPORT, socket.SO_REUSEADDR)


def _bound(claim: PortClaim, *options: int) -> socket.socket:
    one = socket.socket(socket.AF_INET6 if ":" in claim.host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        for option in options:
            one.setsockopt(socket.SOL_SOCKET, option, 1)
        one.bind((claim.host, claim.port))
    except BaseException:
        one.close()
        raise
    return one


def _why(claim: PortClaim, error: OSError) -> str:
    if error.errno != errno.EADDRINUSE:
        return f"{claim.host}:{claim.port} cannot be used: {error.strerror}"
    # Imported here: a supervisor that finds its ports free needs neither.
    from services.runtime.local_stack.ports import port_holder

    return f"port {claim.port} is taken by {port_holder(claim.port)}"
