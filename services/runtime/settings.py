"""Settings: one YAML file a service, overridden by environment variables, checked strictly before anything
starts.

The file is `<folder>/<service>/config.yaml`, the folder is `TRADE2026_CONFIG_DIR` or the one that is shipped.
A variable `TRADE2026_<SERVICE>__<SECTION>__<KEY>` replaces one key; variables are text, so they are parsed as
the key's type. In a file a value has to have its key's type already: `port: "8103"` is an error. Numbers with
a point become `Decimal` from their text, never through a binary float.
"""

import os
import re
from collections.abc import Mapping
from decimal import Decimal
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal, Self, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

PREFIX: Final = "TRADE2026_"
SERVICES: Final = frozenset({"risk", "oms", "live_gateway", "market_data"})
"""Whose variables the environment may hold."""
CONFIG_DIR_VARIABLE: Final = "TRADE2026_CONFIG_DIR"
_INTEGER: Final = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_VARIABLE: Final = re.compile(rf"{PREFIX}([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*)__.+")
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class SettingsError(Exception):
    """A setting that is missing, unknown or of the wrong type; the message names each key and where it
    stands."""


def _whole_to_decimal(value: object) -> object:
    return Decimal(value) if type(value) is int else value


def _number_to_float(value: object) -> object:
    return float(value) if type(value) is int or type(value) is Decimal else value


def _list_to_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


Number = Annotated[Decimal, BeforeValidator(_whole_to_decimal)]
"""An exact number; `100000` and `25.0` are both fine in YAML."""

Duration = Annotated[float, BeforeValidator(_number_to_float), Field(ge=0, allow_inf_nan=False)]
"""A span of time in the unit that the key's name ends with (`_sec`, `_ms`); never used in money
arithmetic."""

PositiveDuration = Annotated[float, BeforeValidator(_number_to_float), Field(gt=0, allow_inf_nan=False)]
"""Like `Duration`, but zero is refused: an interval or a timeout."""

Port = Annotated[int, Field(ge=0, le=65535)]
"""A TCP port; 0 lets the system choose one, which only tests with a single worker can use."""

Names = Annotated[tuple[str, ...], BeforeValidator(_list_to_tuple)]
"""A YAML list of strings, kept as a tuple."""

as_tuple: Final = BeforeValidator(_list_to_tuple)
"""For other lists: `Annotated[tuple[Literal["a", "b"], ...], as_tuple]`."""


class Section(BaseModel):
    """Base of every settings model: unknown keys are errors, nothing is coerced, nothing changes
    afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class ServiceSettings(Section):
    """Section `service`. A service's own model repeats `name` and `port` to give them its defaults."""

    name: str = Field(min_length=1)
    """Name in logs and metrics."""
    host: str = "127.0.0.1"
    """Address that REST, gRPC and metrics listen on. Callers are not authenticated, so only loopback is
    taken."""
    port: Port
    """TCP port of REST and `/health`."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Lowest level that is written."""
    workers: int = Field(default=4, ge=1, le=64)
    """Processes that share the ports, under one supervisor."""
    grpc_port: Port | None = None
    """TCP port of gRPC; null: the service has none."""
    grpc_engine: Literal["grpcio", "native"] = "grpcio"
    """Which gRPC server answers: grpcio's, or a faster one for trusted clients (docs/decisions.md)."""
    native_trusted_clients: bool = False
    """Whether the native engine may listen off loopback. It believes the length that a client announces, so
    every client that can reach it has to be trusted; it has no TLS."""
    grpc_certificate: str = ""
    """PEM file of the certificate by which gRPC proves what host it is, followed by those that lead to an
    authority; empty: gRPC is not encrypted."""
    grpc_key: str = ""
    """PEM file of the certificate's private key."""
    grpc_max_in_flight: int = Field(default=20_000, ge=1)
    """gRPC calls that may be open in one worker; more are refused with RESOURCE_EXHAUSTED."""
    stop_grace_sec: PositiveDuration = 20.0
    """Seconds a worker has to finish what it accepted after SIGTERM, before it is killed."""

    @field_validator("host")
    @classmethod
    def _loopback_only(cls, host: str) -> str:
        if host not in _LOOPBACK:
            raise ValueError("callers are not authenticated: only a loopback address is allowed")
        return host

    @model_validator(mode="after")
    def _certificate_is_whole(self) -> Self:
        if bool(self.grpc_certificate) != bool(self.grpc_key):
            raise ValueError("grpc_certificate and grpc_key go together: set both, or none")
        if self.grpc_certificate and self.grpc_engine == "native":
            raise ValueError("grpc_engine native has no TLS: use grpcio, or leave grpc_certificate empty")
        return self

    @model_validator(mode="after")
    def _native_among_friends(self) -> Self:
        if self.grpc_engine == "native" and self.host not in _LOOPBACK and not self.native_trusted_clients:
            raise ValueError(
                "grpc_engine native off loopback serves trusted clients only: set native_trusted_clients, "
                "or use grpcio"
            )
        return self


class ValkeySettings(Section):
    """Section `valkey`: the service's own data."""

    url: str = "redis://valkey:6379"
    """Address, `redis://host:port`."""
    db: int = Field(default=0, ge=0)
    """Database number."""
    max_connections: int = Field(default=20, ge=1)
    """Connections of one worker to it; callers beyond wait."""


class LedgerSettings(Section):
    """Section `ledger`: the account ledger that risk and oms share."""

    url: str = "redis://valkey:6379"
    """Address of the Valkey that holds the ledger."""
    db: int = Field(default=0, ge=0)
    """Database number."""
    partitions: int = Field(default=16, ge=1, le=1024)
    """Partitions of accounts; fixed for the life of the data."""
    max_connections: int = Field(default=20, ge=1)
    """Connections of one worker to it; callers beyond wait."""


class NatsSettings(Section):
    """Section `nats`. A service with more keys derives from it."""

    url: str = "nats://nats:4222"
    """Address, `nats://host:port`; several are separated by commas."""


class QuestdbSettings(Section):
    """Section `questdb`. A service with more keys derives from it."""

    http_url: Annotated[str, Field(pattern=r"^https?://[^/]+")] = "http://questdb:9000"
    """Address of its HTTP side: rows are written there."""
    pg_url: str = "postgresql://admin:quest@questdb:8812/qdb"
    """Address of its PostgreSQL side."""


class MonitoringSettings(Section):
    """Section `monitoring`. A service's own model repeats `metrics_port` to give it its default."""

    health_check_interval_sec: PositiveDuration = 10.0
    """Seconds between two probes of a dependency (a failing one is probed at least once a second)."""
    metrics_port: Port
    """TCP port of `GET /metrics`, served by the supervisor."""


class ServiceConfig(Section):
    """What the supervisor needs to know of any service; every service's root model derives from it."""

    service: ServiceSettings
    monitoring: MonitoringSettings


S = TypeVar("S", bound=BaseModel)


def load_settings(service: str, model: type[S], environ: Mapping[str, str] | None = None) -> S:
    """Reads the settings of `service` ("risk", "live_gateway"): file, then environment over it.

    `environ` is `os.environ` unless given. Raises `SettingsError`, one line that names every wrong key.
    """
    environ = os.environ if environ is None else environ
    source, text = _read_file(service, environ)
    raw = _parse_file(source, text)
    origin: dict[str, str] = {}
    for variable, path, value in _overrides(service, model, environ):
        _place(raw, path, value, variable)
        origin[".".join(path)] = variable
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(error, source, origin))) from None


def config_file(service: str, environ: Mapping[str, str] | None = None) -> Path | None:
    """The file chosen by `TRADE2026_CONFIG_DIR`, or None when the shipped one counts."""
    folder = (os.environ if environ is None else environ).get(CONFIG_DIR_VARIABLE, "")
    return Path(folder) / service / "config.yaml" if folder else None


def _read_file(service: str, environ: Mapping[str, str]) -> tuple[str, str]:
    chosen = config_file(service, environ)
    try:
        if chosen is not None:
            return str(chosen), chosen.read_text(encoding="utf-8")
        shipped = resources.files("services.config").joinpath("backend", service, "config.yaml")
        return f"config/backend/{service}/config.yaml", shipped.read_text(encoding="utf-8")
    except (OSError, ModuleNotFoundError, UnicodeDecodeError) as error:
        name = str(chosen) if chosen is not None else f"config/backend/{service}/config.yaml"
        raise SettingsError(f"{name}: cannot be read ({type(error).__name__}: {error})") from None


class _ExactLoader(yaml.SafeLoader):
    """YAML with exact decimals, and without the duplicate keys of which plain YAML silently keeps the
    last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(
                    problem=f"key {key!r} is not text", problem_mark=key_node.start_mark
                )
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key!r} stands twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _exact_number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Decimal:
    text = loader.construct_scalar(node)
    try:
        number = Decimal(str(text).replace("_", ""))
    except ArithmeticError:
        number = Decimal("NaN")
    if not number.is_finite():
        raise yaml.MarkedYAMLError(problem=f"{text} is not a finite number", problem_mark=node.start_mark)
    return number


def _decimal_integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    if not _INTEGER.fullmatch(text):
        # YAML 1.1 reads 010 as 8 and 1:30 as 90.
        raise yaml.MarkedYAMLError(problem=f"write {text} in decimal digits", problem_mark=node.start_mark)
    return int(text)


_ExactLoader.add_constructor("tag:yaml.org,2002:float", _exact_number)
_ExactLoader.add_constructor("tag:yaml.org,2002:int", _decimal_integer)


def _parse_file(source: str, text: str) -> dict[str, Any]:
    try:
        raw = yaml.load(text, _ExactLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        raise SettingsError(f"{source}{line}: {getattr(error, 'problem', None) or error}") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise SettingsError(f"{source}: the top level has to be a mapping of sections")
    return raw


def _overrides(
    service: str, model: type[BaseModel], environ: Mapping[str, str]
) -> list[tuple[str, tuple[str, ...], object]]:
    """The environment's (variable, path of the key, parsed value), sorted so that errors are stable."""
    prefix = f"{PREFIX}{service.upper()}__"
    _refuse_unknown_services(service, environ)
    found = []
    for variable in sorted(name for name in environ if name.startswith(prefix)):
        path = tuple(part.lower() for part in variable[len(prefix) :].split("__"))
        found.append((variable, path, _parse_variable(variable, path, model, environ[variable])))
    return found


def _refuse_unknown_services(service: str, environ: Mapping[str, str]) -> None:
    """A mistyped service name would make its variable silently count for nobody."""
    named = {match[1].lower(): name for name in environ if (match := _VARIABLE.fullmatch(name))}
    unknown = named.keys() - {service} - SERVICES
    if unknown:
        variable = min(named[name] for name in unknown)
        raise SettingsError(f"{variable}: there is no such service")


def _parse_variable(variable: str, path: tuple[str, ...], model: type[BaseModel], text: str) -> object:
    section: type[BaseModel] = model
    for part in path[:-1]:
        nested = _section_of(section.model_fields[part].annotation) if part in section.model_fields else None
        if nested is None:
            raise SettingsError(f"{variable}: there is no section {'.'.join(path[:-1])}")
        section = nested
    field = section.model_fields.get(path[-1])
    if field is None:
        raise SettingsError(f"{variable}: there is no key {'.'.join(path)}")
    if _section_of(field.annotation) is not None:
        raise SettingsError(f"{variable}: {'.'.join(path)} is a section; name one of its keys")
    if _is_collection(field.annotation):
        try:
            return yaml.load(text, _ExactLoader)
        except yaml.YAMLError as error:
            raise SettingsError(f"{variable}: {getattr(error, 'problem', None) or error}") from None
    if text == "" and type(None) in get_args(field.annotation):
        return None
    annotation: Any = field.annotation
    for constraint in field.metadata:
        annotation = Annotated[annotation, constraint]
    try:
        return TypeAdapter(annotation).validate_strings(text)
    except ValidationError as error:
        raise SettingsError(f"{variable}: {_sentence(error.errors()[0]['msg'])}, not {text!r}") from None


def _section_of(annotation: object) -> type[BaseModel] | None:
    candidates = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _is_collection(annotation: object) -> bool:
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return any(_is_collection(part) for part in get_args(annotation))
    return (origin or annotation) in (list, tuple, dict, set, frozenset, Mapping)


def _place(raw: dict[str, Any], path: tuple[str, ...], value: object, variable: str) -> None:
    section = raw
    for part in path[:-1]:
        nested = section.setdefault(part, {})
        if nested is None:
            nested = section[part] = {}
        if not isinstance(nested, dict):
            raise SettingsError(f"{variable}: {part} is not a section in the file")
        section = nested
    section[path[-1]] = value


def _explain(error: ValidationError, source: str, origin: Mapping[str, str]) -> list[str]:
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        place = next(
            (variable for name, variable in origin.items() if key == name or key.startswith(f"{name}.")),
            source,
        )
        if problem["type"] == "extra_forbidden":
            what = "unknown key"
        elif problem["type"] == "missing":
            what = "missing key"
        elif problem["type"] == "value_error":
            what = str(problem["ctx"]["error"])
        else:
            what = f"{_sentence(problem['msg'])}, not {problem['input']!r}"
        lines.append(f"{place}: {key}: {what}" if key else f"{place}: {what}")
    return lines


def _sentence(message: str) -> str:
    return message.removeprefix("Input ").removeprefix("Value error, ")
