"""Valkey, NATS and QuestDB together, for tests and tools that need the servers without the services."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from services.runtime.local_stack.durability import Durability
from services.runtime.local_stack.nats import NatsServer
from services.runtime.local_stack.part import Part
from services.runtime.local_stack.ports import free_ports
from services.runtime.local_stack.questdb import QuestDbServer
from services.runtime.local_stack.valkey import ValkeyServer


class LocalServers:
    """The three servers under one folder, on free ports.

    A context manager starts all of them, waits until they serve, and stops them at its end. Each one can be
    started, stopped, killed, paused and restarted by itself meanwhile; it keeps its ports and its data.
    """

    def __init__(self, folder: Path, durability: Durability = Durability.PROCESS) -> None:
        valkey, nats, monitor, http, pg, health = free_ports(6)
        self.valkey = ValkeyServer(folder / "valkey", valkey)
        self.nats = NatsServer(folder / "nats", nats, monitor, durability)
        self.questdb = QuestDbServer(folder / "questdb", http, pg, health, durability)

    @property
    def all(self) -> Sequence[Part]:
        """The servers in the order of their start."""
        return (self.valkey, self.nats, self.questdb)

    def start(self) -> None:
        """Start all, then wait for all.

        Raises PartUnavailable or PartFailed, which name the server; those that run are stopped first.
        """
        try:
            for server in self.all:
                server.start()
            for server in self.all:
                server.wait_healthy()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop all, in parallel."""
        for server in self.all:
            server.request_stop()
        for server in self.all:
            server.finish_stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
