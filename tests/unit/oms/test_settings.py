"""The configuration that callers were promised: every key, its default, and what it refuses."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from google.api import annotations_pb2

from services.oms.settings import CHECK_PATH, OmsSettings
from services.runtime.settings import SettingsError, load_settings
from trade2026.risk.v1 import risk_service_pb2

DOCUMENTED: dict[str, Any] = {
    "service.name": "oms",
    "service.port": 8099,
    "service.log_level": "INFO",
    "service.workers": 4,
    "service.host": "127.0.0.1",
    "service.grpc_port": 18099,
    "service.grpc_engine": "grpcio",
    "service.grpc_certificate": "",
    "service.grpc_key": "",
    "nats.url": "nats://nats:4222",
    "nats.fill_subject": "fills.>",
    "nats.order_subject_prefix": "orders",
    "nats.position_subject_prefix": "positions",
    "valkey.url": "redis://valkey:6379",
    "valkey.db": 5,
    "valkey.max_connections": 20,
    "valkey.position_ttl_sec": 3600,
    "questdb.http_url": "http://questdb:9000",
    "questdb.pg_url": "postgresql://admin:quest@questdb:8812/qdb",
    "questdb.batch_size": 1000,
    "questdb.flush_interval_sec": 10,
    "risk_service.url": "http://risk:8103",
    "risk_service.grpc_target": "",
    "risk_service.grpc_authorities": "",
    "risk_service.timeout_sec": 0.005,
    "risk_service.check_endpoint": "/check",
    "risk_service.enabled": True,
    "risk_service.fail_closed": True,
    "order_management.supported_order_types": ("market", "limit", "stop", "stop_limit"),
    "order_management.max_open_orders_per_account": 1000,
    "order_management.order_timeout_sec": 300,
    "order_management.update_positions_realtime": True,
    "order_management.reconcile_positions_interval_sec": 60,
    "performance.latency_sla_ms": 10,
    "performance.max_latency_ms": 50,
    "monitoring.health_check_interval_sec": 30,
    "monitoring.metrics_port": 9099,
    "ledger.url": "redis://valkey:6379",
    "ledger.db": 0,
    "ledger.partitions": 16,
}


def value_of(settings: OmsSettings, key: str) -> Any:
    value: Any = settings
    for part in key.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize("key", DOCUMENTED)
def test_a_documented_key_has_its_documented_default(key: str) -> None:
    assert value_of(OmsSettings(), key) == DOCUMENTED[key]


def test_the_shipped_file_says_what_the_defaults_say() -> None:
    assert load_settings("oms", OmsSettings, {}) == OmsSettings()


def load(tmp_path: Path, text: str, **variables: str) -> OmsSettings:
    (tmp_path / "oms").mkdir()
    (tmp_path / "oms" / "config.yaml").write_text(text)
    return load_settings("oms", OmsSettings, {"TRADE2026_CONFIG_DIR": str(tmp_path), **variables})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("risk_service: {timout_sec: 1}", "risk_service.timout_sec"),
        ("risk_service: {timeout_sec: fast}", "risk_service.timeout_sec"),
        ("risk_service: {timeout_sec: 0}", "risk_service.timeout_sec"),
        ("risk_service: {check_endpoint: /verify}", "risk_service.check_endpoint"),
        ("risk_service: {url: risk}", "risk_service.url"),
        ("order_management: {supported_order_types: [iceberg]}", "supported_order_types"),
        ("order_management: {supported_order_types: []}", "supported_order_types"),
        ("order_management: {max_open_orders_per_account: 0}", "max_open_orders_per_account"),
        ("nats: {fill_subject: executions.>}", "nats.fill_subject"),
        ("nats: {order_subject_prefix: 'orders.*'}", "nats.order_subject_prefix"),
        ("service: {host: 0.0.0.0}", "service.host"),
        ("service: {port: '8099'}", "service.port"),
        ("unknown: 1", "unknown"),
    ],
)
def test_a_wrong_key_is_named_with_its_file(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(SettingsError) as wrong:
        load(tmp_path, text)
    assert named in str(wrong.value)
    assert "config.yaml" in str(wrong.value)


def test_a_variable_overrides_the_file(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        "order_management: {order_timeout_sec: 5}",
        TRADE2026_OMS__ORDER_MANAGEMENT__ORDER_TIMEOUT_SEC="7.5",
        TRADE2026_OMS__LEDGER__OPENING_CASH_USD="12.50",
    )
    assert settings.order_management.order_timeout_sec == 7.5
    assert settings.ledger.opening_cash_usd == Decimal("12.50")


@pytest.mark.parametrize(
    ("section", "target"),
    [
        ("{}", "risk:18103"),
        ("{url: 'http://10.1.2.3:8103'}", "10.1.2.3:18103"),
        ("{url: 'http://[::1]:8103'}", "[::1]:18103"),
        ("{grpc_target: 'elsewhere:99'}", "elsewhere:99"),
    ],
)
def test_the_grpc_side_of_risk_is_its_host_unless_it_is_named(
    tmp_path: Path, section: str, target: str
) -> None:
    assert load(tmp_path, f"risk_service: {section}").risk_service.target == target


def test_the_check_endpoint_is_the_one_of_the_contract() -> None:
    method = risk_service_pb2.DESCRIPTOR.services_by_name["RiskService"].methods_by_name["Check"]
    assert method.GetOptions().Extensions[annotations_pb2.http].post == CHECK_PATH
