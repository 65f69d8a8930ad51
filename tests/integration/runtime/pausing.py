"""Freezing a server for certain: SIGSTOP reaches the threads of a busy process only after a moment."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.runtime.local_stack.part import Part


@contextmanager
def frozen(server: Part) -> Iterator[None]:
    """The server runs no more when the block begins, and again when it ends."""
    server.pause()
    try:
        deadline = time.monotonic() + 10
        while not _stopped(server):
            assert time.monotonic() < deadline, "the server did not freeze"
            time.sleep(0.001)
        yield
    finally:
        server.resume()


def _stopped(server: Part) -> bool:
    threads = Path(f"/proc/{server.pid}/task").iterdir()
    return all(thread.joinpath("stat").read_text().rpartition(")")[2].split()[0] == "T" for thread in threads)
