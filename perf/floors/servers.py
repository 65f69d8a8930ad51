"""Starts the servers that do nothing, and finds out when they answer."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from perf.load import ROOT, tool
from services.runtime.local_stack import free_ports
from services.runtime.supervisor import GRPC_CORE

_START_SEC: Final = 30.0


@dataclass(slots=True)
class Floor:
    """One running server."""

    name: str
    address: str
    process: subprocess.Popen[bytes]

    @property
    def pids(self) -> dict[str, int]:
        """For `Watch`."""
        return {self.name: self.process.pid}


@dataclass(slots=True)
class Floors:
    """A no-op server on each gRPC engine (grpcio's as the library opens it and as the services do), in Go,
    and on Starlette: what a call costs when nothing is done.

    A context manager. They idle while something else is measured, so that both can be measured in turn.
    """

    running: dict[str, Floor] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Floor:
        return self.running[name]

    def __enter__(self) -> Self:
        commands = {
            "grpcio no-op": ("-m", "perf.floors.grpc_noop", "{port}", "grpcio"),
            "grpcio no-op, requesting ahead": ("-m", "perf.floors.grpc_noop", "{port}", "ahead"),
            "native no-op": ("-m", "perf.floors.grpc_noop", "{port}", "native"),
            "Starlette no-op": ("-m", "perf.floors.http_noop", "{port}"),
        }
        try:
            for (name, arguments), port in zip(commands.items(), free_ports(len(commands)), strict=True):
                self._start(name, port, [sys.executable, *(part.format(port=port) for part in arguments)])
            (port,) = free_ports(1)
            self._start("Go no-op", port, [tool("go-noop"), str(port)])
            for floor in self.running.values():
                _wait(floor)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self, name: str, port: int, command: Sequence[str]) -> None:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**GRPC_CORE, **os.environ}, stdin=subprocess.DEVNULL
        )
        self.running[name] = Floor(name, f"127.0.0.1:{port}", process)

    def _stop(self) -> None:
        for floor in self.running.values():
            floor.process.terminate()
        for floor in self.running.values():
            floor.process.wait()


def _wait(floor: Floor) -> None:
    host, port = floor.address.split(":")
    deadline = time.monotonic() + _START_SEC
    while True:
        if floor.process.poll() is not None:
            raise RuntimeError(f"{floor.name} ended with status {floor.process.returncode}")
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{floor.name} does not answer") from None
            time.sleep(0.05)
        else:
            return
