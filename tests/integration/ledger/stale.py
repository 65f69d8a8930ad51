"""A server that is set back to an earlier copy of its data, or loses all of it."""

from __future__ import annotations

import shutil
from pathlib import Path

from services.runtime.local_stack import ValkeyServer
from services.runtime.local_stack.part import Part
from services.runtime.local_stack.ports import free_ports


class CopiedValkey:
    """A Valkey of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.server = ValkeyServer(folder / "valkey", free_ports(1)[0])
        self._copy = folder / "copy"

    def copy(self) -> None:
        """Keeps what is stored now. The server is stopped for it."""
        copy_data(self.server, self._copy)

    def set_back(self) -> None:
        """What was stored after the copy is lost."""
        set_back(self.server, self._copy)


def copy_data(server: Part, to: Path) -> None:
    """A copy of the server's data as it is now, taken while the server is stopped."""
    server.stop()
    shutil.copytree(server.folder, to)
    server.start()
    server.wait_healthy()


def set_back(server: Part, copy: Path) -> None:
    """The server restarts with the data of an earlier copy."""
    server.kill()
    shutil.rmtree(server.folder)
    shutil.copytree(copy, server.folder)
    server.start()
    server.wait_healthy()


def wipe(server: Part) -> None:
    """The server restarts without its data."""
    server.kill()
    shutil.rmtree(server.folder)
    server.start()
    server.wait_healthy()


def written(server: ValkeyServer) -> int:
    """Bytes of the server's log so far; what it has answered is among them."""
    return _log(server).stat().st_size


def lose_after(server: ValkeyServer, size: int) -> None:
    """The server restarts with the first `size` bytes of its log, as after a crash that came too early."""
    server.kill()
    with _log(server).open("r+b") as file:
        file.truncate(size)
    server.start()
    server.wait_healthy()


def lose_tail(server: ValkeyServer, count: int) -> None:
    """The server restarts without its last `count` bytes of writes."""
    lose_after(server, max(0, written(server) - count))


def _log(server: ValkeyServer) -> Path:
    (newest,) = (server.folder / "appendonlydir").glob("*.incr.aof")
    return newest
