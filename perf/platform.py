"""A whole platform to measure: `trade2026 up` on free ports, with data of its own under build/perf."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx
import psycopg
import redis

from perf.certificates import Identity, identity
from perf.load import ROOT
from perf.scrape import Metrics, scrape
from services.runtime.local_stack import Durability, PartFailed, StackProcess

WORK: Final = ROOT / "build" / "perf"
"""Data of measured servers: on the disk of the working copy, because /tmp may be memory."""

PARTS: Final = ("risk", "oms", "live-gateway", "market-data", "valkey", "nats", "questdb")

PATIENT_SEC: Final = 2.0
"""A deadline of reservations that no order of a load misses."""
RISK_DEADLINE: Final = "TRADE2026_OMS__RISK_SERVICE__TIMEOUT_SEC"
RAISED_LIMITS: Final = {
    "TRADE2026_RISK__RISK_CHECKS__ALLOW_SHORT": "true",
    "TRADE2026_RISK__RISK_CHECKS__INITIAL_BUYING_POWER_USD": "1000000000000",
    "TRADE2026_RISK__RISK_CHECKS__MAX_ORDER_SIZE_USD": "1000000000",
    "TRADE2026_RISK__RISK_CHECKS__MAX_ORDER_SIZE_SHARES": "1000000000",
    "TRADE2026_RISK__RISK_CHECKS__MAX_POSITION_SIZE_USD": "1000000000000",
    "TRADE2026_RISK__RISK_CHECKS__MAX_CONCENTRATION_PCT": "1000",
    "TRADE2026_RISK__RISK_CHECKS__MAX_PORTFOLIO_VAR_USD": "1000000000000",
    "TRADE2026_OMS__ORDER_MANAGEMENT__MAX_OPEN_ORDERS_PER_ACCOUNT": "1000000",
}
"""Limits that let every order of the cases pass."""

_PARTITIONS: Final = 16


def _encrypted(files: Identity) -> dict[str, str]:
    services = {
        f"TRADE2026_{service}__SERVICE__{name}": str(file)
        for service in ("RISK", "OMS")
        for name, file in (("GRPC_CERTIFICATE", files.certificate), ("GRPC_KEY", files.key))
    }
    return {**services, "TRADE2026_OMS__RISK_SERVICE__GRPC_AUTHORITIES": str(files.authorities)}


class Platform:
    """A running platform. A context manager: started and healthy inside, gone with its data afterwards.

    Must be entered in the main thread.
    """

    def __init__(
        self,
        *,
        workers: int = 1,
        profile: Durability = Durability.PROCESS,
        engine: str = "grpcio",
        raised: bool = True,
        patience_sec: float | None = None,
        tls: bool = False,
        variables: Mapping[str, str] | None = None,
        keep: bool = False,
    ) -> None:
        """`raised`: with limits that let every order pass. `patience_sec`: deadline of a reservation instead
        of the documented 5 ms, so that a busy machine gives orders that are filled and not denials. `tls`:
        gRPC is encrypted, between oms and risk too. `keep` leaves data and logs where they are at the end."""
        WORK.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="platform-", dir=WORK))
        self.workers = workers
        self.profile = profile
        self.engine = engine
        self.patience_sec = patience_sec
        self._identity = identity(self.folder / "identity") if tls else None
        self._keep = keep
        engines = {} if engine == "grpcio" else {
            f"TRADE2026_{service}__SERVICE__GRPC_ENGINE": engine for service in ("RISK", "OMS")
        }  # fmt: skip
        self._variables = {
            # The accounting of a run counts the orders in the stream.
            "TRADE2026_LIVE_GATEWAY__STORE__ORDERS_KEPT": str(1 << 40),
            **(RAISED_LIMITS if raised else {}),
            **({} if patience_sec is None else {RISK_DEADLINE: str(patience_sec)}),
            **engines,
            **({} if self._identity is None else _encrypted(self._identity)),
            **(variables or {}),
        }
        self.stack = self._new_stack()

    @property
    def setting(self) -> str:
        """What every table says of it."""
        workers = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        patience = "" if self.patience_sec is None else f", timeout_sec {self.patience_sec:g}"
        tls = "" if self._identity is None else ", TLS"
        return f"{self.engine}, {workers}, {self.profile.value}{tls}{patience}"

    @property
    def authorities(self) -> Path | None:
        """PEM file by which a gRPC client knows the services; None: gRPC is not encrypted."""
        return None if self._identity is None else self._identity.authorities

    def _new_stack(self) -> StackProcess:
        return StackProcess(
            self.folder, workers=self.workers, durability=self.profile, variables=self._variables
        )

    def __enter__(self) -> Self:
        try:
            for again in (True, True, False):
                try:
                    self.stack.__enter__()
                    break
                except PartFailed as failed:
                    # Ports are found free before they are taken: another platform may be quicker.
                    if not again or "is taken by" not in str(failed):
                        raise
                    self.stack = self._new_stack()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.stop()
        self._remove()

    def _remove(self) -> None:
        if not self._keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def rest(self, service: str, path: str) -> str:
        """URL of a REST call."""
        return f"http://{self.stack.address(service, 'rest')}{path}"

    def grpc(self, service: str) -> str:
        """`host:port` of the gRPC side of a service."""
        return self.stack.address(service, "grpc")

    def pids(self) -> dict[str, int]:
        """Process ids of the parts that run."""
        found = {part: self.stack.part_pid(part) for part in PARTS}
        return {part: pid for part, pid in found.items() if pid is not None}

    def metrics(self, service: str) -> Metrics:
        """What a service has counted so far."""
        return scrape(self.stack.address(service, "metrics"))

    def submissions(self) -> Counter[str]:
        """Orders so far by what the client was told, as oms counts it: `submitted`, or why not."""
        told: Counter[str] = Counter()
        for (name, labels), number in self.metrics("oms").samples.items():
            if name == "oms_submissions_total":
                given = dict(labels)
                told[given["reason"] or given["outcome"]] += int(number)
        return told

    def get(self, service: str, path: str) -> Any:
        """JSON answer of a GET. Raises `httpx.HTTPError` when it is not 200."""
        return httpx.get(self.rest(service, path), timeout=10).raise_for_status().json()

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Rows of a QuestDB statement; none when it gives none, or its table does not exist yet."""
        host, port = self.stack.address("questdb", "pg").split(":")
        where = f"host={host} port={port} user=admin password=quest dbname=qdb"
        with psycopg.connect(where, autocommit=True) as connection:
            try:
                answer = connection.execute(statement.encode())
                return answer.fetchall() if answer.description else []
            except psycopg.DatabaseError as error:
                if "table does not exist" in str(error):
                    return []
                raise

    def valkey(self, db: int = 0) -> redis.Redis:
        """A client of the platform's Valkey."""
        host, port = self.stack.address("valkey", "redis").split(":")
        return redis.Redis(host=host, port=int(port), db=db, decode_responses=True)

    def unsettled(self) -> int:
        """Open orders, and commits that are not yet carried to LEDGER."""
        with self.valkey() as valkey, valkey.pipeline(transaction=False) as pipeline:
            for partition in range(_PARTITIONS):
                pipeline.zcard(f"deadline:{{p{partition}}}")
                pipeline.xlen(f"outbox:{{p{partition}}}")
            return int(sum(pipeline.execute()))

    def settle(self, within_sec: float) -> tuple[float, int]:
        """Waits until every order has ended and all its events are told.

        Returns the seconds that it took and what was left when `within_sec` were over.
        """
        begin = time.monotonic()
        while True:
            left = self.unsettled()
            waited = time.monotonic() - begin
            if not left or waited > within_sec:
                return waited, left
            time.sleep(0.02)
