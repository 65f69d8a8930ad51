"""The parts of the platform on one machine, as a table: where they listen, what they are told."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

from services.runtime.local_stack import nats, questdb, valkey
from services.runtime.local_stack.durability import Durability
from services.runtime.local_stack.part import Health, Part, http_get, loopback, not_ready


@dataclass(frozen=True, slots=True)
class StackOptions:
    """What the operator chose."""

    data: Path
    """Folder of all data and logs."""

    port_offset: int = 0
    """Added to every port."""

    workers: int = 1
    """Processes of each service that scales."""

    durability: Durability = Durability.PROCESS


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """One service: `settings` are its configuration keys with a template over the addresses of all parts."""

    name: str
    module: str
    stage: int
    """Services of a stage start together, when those of the stages before are healthy."""

    rest_port: int
    metrics_port: int
    grpc_port: int | None
    scales: bool
    """Whether it has `service.workers`."""

    niceness: int
    """As of `Part`."""

    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def ports(self) -> Mapping[str, int]:
        """Its ports by protocol."""
        ports = {"rest": self.rest_port, "metrics": self.metrics_port}
        return {"grpc": self.grpc_port, **ports} if self.grpc_port is not None else ports


_VALKEY = "redis://{valkey[redis]}"
_NATS = "nats://{nats[nats]}"
_QUESTDB_HTTP = "http://{questdb[http]}"
_QUESTDB_PG = "postgresql://admin:quest@{questdb[pg]}/qdb"

SERVICES: Sequence[ServiceSpec] = (
    ServiceSpec(
        name="market-data",
        module="services.market_data",
        stage=1,
        rest_port=8096,
        metrics_port=9096,
        grpc_port=None,
        scales=False,
        niceness=8,
        settings={"NATS__URL": _NATS, "QUESTDB__HTTP_URL": _QUESTDB_HTTP, "QUESTDB__PG_URL": _QUESTDB_PG},
    ),
    ServiceSpec(
        name="live-gateway",
        module="services.live_gateway",
        stage=1,
        rest_port=8095,
        metrics_port=9095,
        grpc_port=None,
        scales=False,
        niceness=8,
        settings={
            "NATS__URL": _NATS,
            "STORE__PATH": "{folder}/venue.db",
            "STORE__DURABILITY": "{durability}",
        },
    ),
    ServiceSpec(
        name="risk",
        module="services.risk",
        stage=2,
        rest_port=8103,
        metrics_port=9103,
        grpc_port=18103,
        scales=True,
        niceness=0,
        settings={
            "VALKEY__URL": _VALKEY,
            "LEDGER__URL": _VALKEY,
            "NATS__URL": _NATS,
            "QUESTDB__HTTP_URL": _QUESTDB_HTTP,
            "QUESTDB__PG_URL": _QUESTDB_PG,
        },
    ),
    ServiceSpec(
        name="oms",
        module="services.oms",
        stage=3,
        rest_port=8099,
        metrics_port=9099,
        grpc_port=18099,
        scales=True,
        niceness=5,
        settings={
            "VALKEY__URL": _VALKEY,
            "LEDGER__URL": _VALKEY,
            "NATS__URL": _NATS,
            "QUESTDB__HTTP_URL": _QUESTDB_HTTP,
            "QUESTDB__PG_URL": _QUESTDB_PG,
            "RISK_SERVICE__URL": "http://{risk[rest]}",
            "RISK_SERVICE__GRPC_TARGET": "{risk[grpc]}",
        },
    ),
)

SERVER_PORTS: Mapping[str, Mapping[str, int]] = {
    "valkey": {"redis": valkey.DEFAULT_PORT},
    "nats": {"nats": nats.DEFAULT_PORT, "monitor": nats.DEFAULT_MONITOR_PORT},
    "questdb": {
        "http": questdb.DEFAULT_HTTP_PORT,
        "pg": questdb.DEFAULT_PG_PORT,
        "health": questdb.DEFAULT_HEALTH_PORT,
    },
}

PORTS: Mapping[str, Mapping[str, int]] = {
    **SERVER_PORTS,
    **{service.name: service.ports for service in SERVICES},
}
"""Every part's ports by protocol, before an offset."""


class ServicePart(Part):
    """One of our services: `python -m services.<module>`, configured by environment variables."""

    stop_timeout_sec = 20.0
    start_timeout_sec = 60.0

    def __init__(
        self, spec: ServiceSpec, options: StackOptions, addresses: Mapping[str, Mapping[str, str]]
    ) -> None:
        super().__init__(
            spec.name, options.data / spec.name, addresses[spec.name], log_path(options.data, spec.name)
        )
        self.spec = spec
        self.niceness = spec.niceness
        prefix = "TRADE2026_" + spec.module.rpartition(".")[2].upper()
        settings = {"SERVICE__PORT": str(spec.rest_port + options.port_offset)}
        settings["MONITORING__METRICS_PORT"] = str(spec.metrics_port + options.port_offset)
        if spec.grpc_port is not None:
            settings["SERVICE__GRPC_PORT"] = str(spec.grpc_port + options.port_offset)
        if spec.scales:
            settings["SERVICE__WORKERS"] = str(options.workers)
        for key, template in spec.settings.items():
            settings[key] = template.format(folder=self.folder, durability=options.durability, **addresses)
        self._environment = {f"{prefix}__{key}": value for key, value in settings.items()}

    def command(self) -> Sequence[str]:
        # -P: the data folder that it runs in is no place to import from.
        return [sys.executable, "-P", "-m", self.spec.module]

    def environment(self) -> Mapping[str, str]:
        return self._environment

    def probe(self) -> Health:
        try:
            status, body = http_get(self.addresses["rest"], "/health")
            answer = json.loads(body)
        except (OSError, HTTPException, ValueError) as error:
            return not_ready(str(error))
        named = answer.get("missing") or answer.get("degraded") or ""
        detail = f"{answer.get('status')}: {', '.join(named)}" if named else str(answer.get("status"))
        return Health(ready=status == 200, healthy=answer.get("status") == "healthy", detail=detail)


def log_path(data: Path, name: str) -> Path:
    """Where a part (or `stack`, the supervisor in the background) logs."""
    return data / "logs" / f"{name}.log"


def addresses(port_offset: int) -> Mapping[str, Mapping[str, str]]:
    """Every part's addresses by protocol."""
    return {
        name: {protocol: loopback(port + port_offset) for protocol, port in ports.items()}
        for name, ports in PORTS.items()
    }


def assemble(options: StackOptions) -> Sequence[Sequence[Part]]:
    """All parts, not started, in stages: each stage needs the ones before it."""
    data, offset = options.data, options.port_offset
    where = addresses(offset)
    servers: list[Part] = [
        valkey.ValkeyServer(data / "valkey", valkey.DEFAULT_PORT + offset, log_path(data, "valkey")),
        nats.NatsServer(
            data / "nats",
            nats.DEFAULT_PORT + offset,
            nats.DEFAULT_MONITOR_PORT + offset,
            options.durability,
            log_path(data, "nats"),
        ),
        questdb.QuestDbServer(
            data / "questdb",
            questdb.DEFAULT_HTTP_PORT + offset,
            questdb.DEFAULT_PG_PORT + offset,
            questdb.DEFAULT_HEALTH_PORT + offset,
            options.durability,
            log_path(data, "questdb"),
        ),
    ]
    services = [spec for spec in SERVICES if _is_installed(spec.module)]
    stages = sorted({spec.stage for spec in services})
    return [
        servers,
        *(
            [ServicePart(spec, options, where) for spec in services if spec.stage == stage]
            for stage in stages
        ),
    ]


def _is_installed(module: str) -> bool:
    spec = importlib.util.find_spec(module)
    folders = spec.submodule_search_locations if spec is not None else None
    return any((Path(folder) / "__main__.py").exists() for folder in folders or ())
