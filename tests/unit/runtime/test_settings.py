"""Settings: what is read, and every way in which a file or a variable is refused."""

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, field_validator, model_validator

from services.runtime.settings import (
    Duration,
    LedgerSettings,
    MonitoringSettings,
    Names,
    Number,
    Port,
    PositiveDuration,
    Section,
    ServiceConfig,
    ServiceSettings,
    SettingsError,
    ValkeySettings,
    as_tuple,
    load_settings,
)


class DemoService(ServiceSettings):
    name: str = "risk"
    port: Port = 8103


class DemoMonitoring(MonitoringSettings):
    metrics_port: Port = 9103


class Instrument(Section):
    increment: Number


class Limits(Section):
    size: Number = Decimal(100000)
    timeout_sec: PositiveDuration = 0.005
    wait_sec: Duration = 0
    enabled: Annotated[tuple[Literal["a", "b"], ...], as_tuple] = ("a",)
    symbols: Names = ()
    strict: bool = True

    @model_validator(mode="after")
    def _a_is_needed(self) -> "Limits":
        if "a" not in self.enabled:
            raise ValueError("a has to be enabled")
        return self


class Demo(ServiceConfig):
    service: DemoService = DemoService()
    monitoring: DemoMonitoring = DemoMonitoring()
    valkey: ValkeySettings = ValkeySettings()
    ledger: LedgerSettings = LedgerSettings()
    limits: Limits = Limits()
    instruments: dict[str, Instrument] = Field(default_factory=dict)


def load(folder: Path, text: str, **variables: str) -> Demo:
    file = folder / "risk" / "config.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return load_settings("risk", Demo, {"TRADE2026_CONFIG_DIR": str(folder), **variables})


def refusal(folder: Path, text: str, **variables: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(folder, text, **variables)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "") == Demo()


def test_values_of_the_file_are_taken(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        """
        service: {port: 8200, workers: 2, grpc_port: 18103, log_level: DEBUG}
        limits: {enabled: [b, a], symbols: [BTCUSDT], wait_sec: 1, strict: false}
        instruments:
          BTCUSDT: {increment: 0.00000001}
        """,
    )
    assert (settings.service.port, settings.service.workers, settings.service.grpc_port) == (8200, 2, 18103)
    assert settings.limits.enabled == ("b", "a")
    assert settings.limits.symbols == ("BTCUSDT",)
    assert settings.limits.wait_sec == 1.0
    assert settings.limits.strict is False
    assert settings.instruments["BTCUSDT"].increment == Decimal("0.00000001")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("100000", Decimal(100000)),
        ("25.0", Decimal("25.0")),
        ("0.1", Decimal("0.1")),
        ("12345678901234567890.123456789012345678", Decimal("12345678901234567890.123456789012345678")),
        ("1_000.5", Decimal("1000.5")),
        ("1.5e+3", Decimal(1500)),
    ],
)
def test_a_number_keeps_the_exact_value_of_its_text(tmp_path: Path, text: str, number: Decimal) -> None:
    assert load(tmp_path, f"limits: {{size: {text}}}").limits.size == number
    assert load(tmp_path, "", TRADE2026_RISK__LIMITS__SIZE=text).limits.size == number


@pytest.mark.parametrize(
    ("text", "key", "what"),
    [
        ("valkey: {urll: x}", "valkey.urll", "unknown key"),
        ("valkeyy: {}", "valkeyy", "unknown key"),
        ("service: {port: '8103'}", "service.port", "should be a valid integer, not '8103'"),
        ("service: {port: true}", "service.port", "should be a valid integer, not True"),
        ("service: {port: 70000}", "service.port", "should be less than or equal to 65535"),
        ("service: {workers: 0}", "service.workers", "should be greater than or equal to 1"),
        ("service: {workers: 2.0}", "service.workers", "should be a valid integer"),
        (
            "service: {log_level: info}",
            "service.log_level",
            "should be 'DEBUG', 'INFO', 'WARNING' or 'ERROR'",
        ),
        ("service: {name: 5}", "service.name", "should be a valid string"),
        ("service: {host: 0.0.0.0}", "service.host", "only a loopback address"),
        ("limits: {size: '5'}", "limits.size", "not '5'"),
        ("limits: {size: true}", "limits.size", "not True"),
        ("limits: {timeout_sec: 0}", "limits.timeout_sec", "should be greater than 0"),
        ("limits: {timeout_sec: -0.5}", "limits.timeout_sec", "should be greater than 0"),
        ("limits: {strict: 1}", "limits.strict", "should be a valid boolean"),
        ("limits: {enabled: [a, c]}", "limits.enabled.1", "should be 'a' or 'b', not 'c'"),
        ("limits: {enabled: a}", "limits.enabled", "should be a valid tuple"),
        ("limits: {enabled: [b]}", "limits", "a has to be enabled"),
        ("instruments: {BTCUSDT: {}}", "instruments.BTCUSDT.increment", "missing key"),
        ("limits: 5", "limits", "not 5"),
    ],
)
def test_a_wrong_key_of_the_file_is_named_with_the_file(
    tmp_path: Path, text: str, key: str, what: str
) -> None:
    message = refusal(tmp_path, text)
    assert message.startswith(f"{tmp_path}/risk/config.yaml: {key}: ")
    assert what in message


def test_every_wrong_key_is_named_at_once(tmp_path: Path) -> None:
    message = refusal(tmp_path, "service: {port: x}\nledger: {url: 5, dbb: 1}")
    assert all(key in message for key in ("service.port", "ledger.url", "ledger.dbb"))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("service: {port: 1, port: 2}", "key 'port' stands twice"),
        ("service: {}\nservice: {}", ":2: key 'service' stands twice"),
        ("limits: {size: .inf}", "not a finite number"),
        ("limits: {size: .nan}", "not a finite number"),
        ("service: {port: 010}", "write 010 in decimal digits"),
        ("service: {port: 1:30}", "write 1:30 in decimal digits"),
        ("service: {port: 0x10}", "write 0x10 in decimal digits"),
        ("8103: {}", "key 8103 is not text"),
        ("- a", "mapping of sections"),
        ("service: [", "expected"),
        ("a: !!python/object:os.system {}", "could not determine a constructor"),
    ],
)
def test_a_file_that_yaml_would_misread_is_refused(tmp_path: Path, text: str, what: str) -> None:
    message = refusal(tmp_path, text)
    assert message.startswith(f"{tmp_path}/risk/config.yaml")
    assert what in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"{tmp_path}/risk/config.yaml: cannot be read"):
        load_settings("risk", Demo, {"TRADE2026_CONFIG_DIR": str(tmp_path)})


def test_variables_replace_single_keys_and_are_parsed_as_their_type(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        "valkey: {url: 'redis://a:1', db: 4}",
        TRADE2026_RISK__VALKEY__URL="redis://b:2",
        TRADE2026_RISK__SERVICE__PORT="8200",
        TRADE2026_RISK__SERVICE__GRPC_PORT="18200",
        TRADE2026_RISK__LIMITS__TIMEOUT_SEC="0.25",
        TRADE2026_RISK__LIMITS__STRICT="false",
        TRADE2026_RISK__LIMITS__ENABLED="[a, b]",
        TRADE2026_RISK__INSTRUMENTS="{BTCUSDT: {increment: 0.01}}",
        TRADE2026_OMS__VALKEY__URL="redis://c:3",
        TRADE2026_WORKER_INDEX="0",
        HOME="/",
    )
    assert (settings.valkey.url, settings.valkey.db) == ("redis://b:2", 4)
    assert (settings.service.port, settings.service.grpc_port) == (8200, 18200)
    assert (settings.limits.timeout_sec, settings.limits.strict) == (0.25, False)
    assert settings.limits.enabled == ("a", "b")
    assert settings.instruments == {"BTCUSDT": Instrument(increment=Decimal("0.01"))}


def test_an_empty_variable_is_null_where_null_is_allowed(tmp_path: Path) -> None:
    assert (
        load(tmp_path, "service: {grpc_port: 1}", TRADE2026_RISK__SERVICE__GRPC_PORT="").service.grpc_port
        is None
    )


@pytest.mark.parametrize(
    ("variable", "value", "what"),
    [
        ("TRADE2026_RISK__VALKEY__URLL", "x", "there is no key valkey.urll"),
        ("TRADE2026_RISK__VALKEYY__URL", "x", "there is no section valkeyy"),
        ("TRADE2026_RISK__SERVICE", "{}", "service is a section; name one of its keys"),
        ("TRADE2026_RISK__SERVICE__PORT__X", "1", "there is no section service.port"),
        ("TRADE2026_RISK__SERVICE__PORT", "eight", "should be a valid integer"),
        ("TRADE2026_RISK__SERVICE__PORT", "", "should be a valid integer"),
        ("TRADE2026_RISK__SERVICE__PORT", "70000", "less than or equal to 65535"),
        ("TRADE2026_RISK__SERVICE__HOST", "0.0.0.0", "only a loopback address"),
        ("TRADE2026_RISK__LIMITS__SIZE", "nan", "finite"),
        ("TRADE2026_RISK__LIMITS__SIZE", "1,5", "should be a valid decimal"),
        ("TRADE2026_RISK__LIMITS__WAIT_SEC", "inf", "finite"),
        ("TRADE2026_RISK__LIMITS__ENABLED", "[c]", "limits.enabled.0"),
        ("TRADE2026_RISK__LIMITS__ENABLED", "[", "expected"),
        ("TRADE2026_RSIK__SERVICE__PORT", "1", "there is no such service"),
    ],
)
def test_a_wrong_variable_is_named(tmp_path: Path, variable: str, value: str, what: str) -> None:
    message = refusal(tmp_path, "", **{variable: value})
    assert message.startswith(f"{variable}: ")
    assert what in message


def test_settings_never_change_after_they_are_read(tmp_path: Path) -> None:
    settings = load(tmp_path, "")
    with pytest.raises(ValueError, match="frozen"):
        settings.service.port = 1


@pytest.mark.parametrize("model", [ServiceSettings, ValkeySettings, LedgerSettings, MonitoringSettings])
def test_every_shared_key_says_what_it_means(model: type[Section]) -> None:
    assert all(field.description for field in model.model_fields.values())


class Reachable(DemoService):
    """A service whose callers are authenticated: any address is taken."""

    @field_validator("host")
    @classmethod
    def _loopback_only(cls, host: str) -> str:
        return host


class ReachableDemo(ServiceConfig):
    service: Reachable = Reachable()
    monitoring: DemoMonitoring = DemoMonitoring()


def reachable(tmp_path: Path, service: str) -> Reachable:
    folder = tmp_path / "risk"
    folder.mkdir()
    (folder / "config.yaml").write_text(f"service: {service}")
    return load_settings("risk", ReachableDemo, {"TRADE2026_CONFIG_DIR": str(tmp_path)}).service


def test_the_native_engine_off_loopback_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"service: grpc_engine native off loopback .* native_trusted_clients"
    ):
        reachable(tmp_path, "{host: 10.0.0.1, grpc_engine: native}")


@pytest.mark.parametrize(
    "service",
    [
        "{host: 10.0.0.1, grpc_engine: native, native_trusted_clients: true}",
        "{host: 10.0.0.1}",
        "{grpc_engine: native}",
    ],
)
def test_the_native_engine_is_taken_on_loopback_and_for_trusted_clients(tmp_path: Path, service: str) -> None:
    assert reachable(tmp_path, service).workers == 4


def test_native_trusted_clients_has_to_be_a_truth_value(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="native_trusted_clients"):
        reachable(tmp_path, "{native_trusted_clients: maybe}")


@pytest.mark.parametrize(
    ("service", "told"),
    [
        ("{grpc_certificate: a.pem}", "grpc_certificate and grpc_key go together"),
        ("{grpc_key: a.pem}", "grpc_certificate and grpc_key go together"),
        ("{grpc_certificate: a.pem, grpc_key: b.pem, grpc_engine: native}", "native has no TLS"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_refused(tmp_path: Path, service: str, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        reachable(tmp_path, service)
