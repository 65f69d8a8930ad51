"""QuestDB's jar: resolved once from the Maven repositories, checked, and kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from services.runtime.local_stack.part import INSTALL_TOOLS, PartUnavailable

VERSION = "9.3.4"
SHA256 = "939bc53ab22f93dbaa6545143a6e7c536d4904c07b7f2d381e8eef10436be062"

_REPORT_EVERY_SEC = 2.0


def resolve() -> Path:
    """Path of the jar, downloaded when the cache does not hold it whole.

    Raises PartUnavailable when it cannot be downloaded or is not the one that was pinned.
    """
    jar = _cache_folder() / f"questdb-{VERSION}.jar"
    if not (jar.exists() and _sha256(jar) == SHA256):
        _download(jar)
    return jar


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trade2026"


def _download(jar: Path) -> None:
    """Fetch aside, check, then move into place: half a jar is never taken for a whole one."""
    try:
        from jgo.maven import MavenContext, PythonResolver
    except ImportError as error:
        raise PartUnavailable(
            f"questdb cannot start: jgo is not installed; install it with: {INSTALL_TOOLS}"
        ) from error
    jar.parent.mkdir(parents=True, exist_ok=True)
    _say(f"questdb: downloading version {VERSION} (once)")
    with tempfile.TemporaryDirectory(dir=jar.parent, prefix="download-") as folder:
        context = MavenContext(
            resolver=PythonResolver(progress_callback=_progress),
            repo_cache=Path(folder),
            local_repos=[],
            timeout=30,
        )
        try:
            component = context.project("org.questdb", "questdb").at_version(VERSION)
            downloaded = Path(component.artifact().resolve())
        except Exception as error:
            # The resolver raises errors of several libraries; each means that there is no jar.
            raise PartUnavailable(
                f"questdb cannot start: its jar could not be downloaded ({error}); "
                "try again when the Maven repositories are reachable"
            ) from error
        found = _sha256(downloaded)
        if found != SHA256:
            raise PartUnavailable(
                f"questdb cannot start: the downloaded jar has the SHA-256 {found}, expected {SHA256}"
            )
        downloaded.replace(jar)


@contextmanager
def _progress(_: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
    received = 0
    reported = time.monotonic()

    def advance(count: int) -> None:
        nonlocal received, reported
        received += count
        if time.monotonic() - reported >= _REPORT_EVERY_SEC:
            reported = time.monotonic()
            _say(f"questdb: {received / 1e6:.0f} of {total_bytes / 1e6:.0f} MB")

    yield advance
    _say(f"questdb: downloaded {received / 1e6:.0f} MB")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
