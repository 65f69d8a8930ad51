"""Every key of risk's configuration: its default, what it changes, and what it refuses."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from services.ledger.account import Account
from services.ledger.order import Order
from services.risk.bootstrap import ledger_options, may_cache
from services.risk.checks import Returns, evaluate
from services.risk.settings import RiskSettings
from services.runtime.settings import SettingsError, load_settings
from tests.unit.risk.making import BTC, DAY, Board, D, account, buy, sell

DOCUMENTED = {
    "service.name": "risk",
    "service.host": "127.0.0.1",
    "service.port": 8103,
    "service.grpc_port": 18103,
    "service.grpc_engine": "grpcio",
    "service.grpc_certificate": "",
    "service.grpc_key": "",
    "service.log_level": "INFO",
    "service.workers": 4,
    "valkey.url": "redis://valkey:6379",
    "valkey.db": 4,
    "valkey.max_connections": 20,
    "valkey.position_cache_ttl_sec": 300,
    "ledger.db": 0,
    "ledger.partitions": 16,
    "questdb.http_url": "http://questdb:9000",
    "questdb.pg_url": "postgresql://admin:quest@questdb:8812/qdb",
    "nats.url": "nats://nats:4222",
    "risk_checks.enabled": (
        "position_limit",
        "order_size_limit",
        "buying_power",
        "var_limit",
        "concentration_limit",
        "short_restriction",
    ),
    "risk_checks.max_order_size_usd": D(100_000),
    "risk_checks.max_order_size_shares": D(10_000),
    "risk_checks.max_position_size_usd": D(1_000_000),
    "risk_checks.max_concentration_pct": D("25.0"),
    "risk_checks.max_portfolio_var_usd": D(50_000),
    "risk_checks.var_confidence_level": D("0.99"),
    "risk_checks.var_lookback_days": 30,
    "risk_checks.initial_buying_power_usd": D(100_000),
    "risk_checks.margin_requirement_pct": D("50.0"),
    "risk_checks.allow_short": False,
    "marks.max_age_sec": 60,
    "marks.fallback": "deny",
    "price_collar.max_deviation_pct": D(20),
    "performance.latency_sla_ms": 1.5,
    "performance.cache_positions": True,
    "performance.cache_limits": True,
    "performance.async_var_calculation": False,
    "monitoring.health_check_interval_sec": 10,
    "monitoring.latency_alert_threshold_ms": 2.0,
    "monitoring.metrics_port": 9103,
}


def settings(**variables: object) -> RiskSettings:
    """The shipped settings with some keys replaced: `risk_checks__allow_short="true"`."""
    return load_settings(
        "risk",
        RiskSettings,
        {f"TRADE2026_RISK__{key.upper()}": str(value) for key, value in variables.items()},
    )


def value_of(model: RiskSettings, key: str) -> Any:
    value: Any = model
    for part in key.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize("key", DOCUMENTED)
def test_shipped_file_and_bare_defaults_are_the_documented_ones(key: str) -> None:
    assert value_of(settings(), key) == DOCUMENTED[key]
    assert value_of(RiskSettings(), key) == DOCUMENTED[key]


def test_shipped_file_says_every_default() -> None:
    assert settings() == RiskSettings()


def test_known_instruments_are_the_three_replayed_ones() -> None:
    found = {one.symbol: (one.price_increment, one.quantity_increment) for one in settings().instruments}
    assert found == {
        "BTCUSDT": (D("0.01"), D("0.00001")),
        "ETHUSDT": (D("0.01"), D("0.0001")),
        "SOLUSDT": (D("0.01"), D("0.01")),
    }


def reason(model: RiskSettings, state: Account, order: Order, market: Board | None = None) -> str:
    return evaluate(state, order, market or Board(), model.policy()).reason


# key, value, an order that the default takes and the value denies (or the other way), and the reason
EFFECTS: list[tuple[str, str, Account, Order, str, str]] = [
    ("risk_checks__max_order_size_usd", "99", account(), buy(1), "", "order_size_limit"),
    ("risk_checks__max_order_size_shares", "0.5", account(), buy(1), "", "order_size_limit"),
    ("risk_checks__max_position_size_usd", "99", account(), buy(1), "", "position_limit"),
    ("risk_checks__max_concentration_pct", "0.001", account(), buy(1), "", "concentration_limit"),
    ("risk_checks__max_portfolio_var_usd", "0", account(), buy(1), "", "var_limit"),
    ("risk_checks__margin_requirement_pct", "1000000", account(), buy(1), "", "buying_power"),
    ("risk_checks__allow_short", "true", account(), sell(1), "short_restriction", ""),
    ("risk_checks__enabled", "[position_limit]", account(), sell(1), "short_restriction", ""),
    ("price_collar__max_deviation_pct", "50", account(), buy(1, 150), "price_collar", ""),
]


@pytest.mark.parametrize(
    ("key", "value", "state", "order", "before", "after"), EFFECTS, ids=[one[0] for one in EFFECTS]
)
def test_key_changes_a_verdict(
    key: str, value: str, state: Account, order: Order, before: str, after: str
) -> None:
    market = Board(returns={BTC: Returns.of(DAY, (-0.01,) * 30)})
    assert reason(settings(), state, order, market) == before
    assert reason(settings(**{key: value}), state, order, market) == after


def test_worst_fee_is_taken_off_the_equity() -> None:
    enabled = "[buying_power]"
    assert reason(settings(risk_checks__enabled=enabled), account(51), buy(1)) == ""
    dear = settings(risk_checks__enabled=enabled, fees__worst_fee_bps="200")
    assert reason(dear, account(51), buy(1)) == "buying_power"


def test_confidence_level_chooses_the_loss() -> None:
    market = Board(returns={BTC: Returns.of(DAY, (-0.5,) + (0.0,) * 29)})
    strict = settings(risk_checks__max_portfolio_var_usd="1")
    lenient = settings(risk_checks__max_portfolio_var_usd="1", risk_checks__var_confidence_level="0.9")
    assert reason(strict, account(), buy(1), market) == "var_limit"
    assert reason(lenient, account(), buy(1), market) == ""


def test_slippage_allowance_makes_the_protection_price() -> None:
    for percent, expected in (("1", D(101)), ("2.5", D("102.5"))):
        policy = settings(marks__slippage_pct=percent).policy()
        unit = evaluate(account(), buy(1, None), Board(), policy).unit
        assert unit is not None
        assert unit.protection_price == expected


def test_ledger_is_used_as_configured() -> None:
    options = ledger_options(
        settings(
            ledger__url="redis://elsewhere:1",
            ledger__db=3,
            ledger__partitions=8,
            ledger__allow_unsafe="true",
            valkey__position_cache_ttl_sec=7,
            risk_checks__initial_buying_power_usd="5.5",
        )
    )
    assert (options.url, options.db, options.partitions, options.allow_unsafe) == (
        "redis://elsewhere:1",
        3,
        8,
        True,
    )
    assert (options.position_cache_ttl, options.opening_cash) == (7.0, D("5.5"))


@pytest.mark.parametrize("key", ["cache_positions", "cache_limits"])
def test_either_cache_switched_off_makes_every_check_read(key: str) -> None:
    assert may_cache(settings())
    off = settings(**{f"performance__{key}": "false"})
    assert not may_cache(off)
    assert not ledger_options(off).cache_accounts


TWICE = str([{"symbol": "A", "price_increment": 1, "quantity_increment": 1}] * 2)
REFUSED = [
    ("performance__async_var_calculation", "true", "performance.async_var_calculation"),
    ("risk_checks__enabled", "[position_limit, position_limit]", "risk_checks.enabled"),
    ("risk_checks__enabled", "[price_collar]", "risk_checks.enabled"),
    ("risk_checks__max_order_size_usd", "-1", "RISK_CHECKS__MAX_ORDER_SIZE_USD"),
    ("risk_checks__max_order_size_usd", "much", "RISK_CHECKS__MAX_ORDER_SIZE_USD"),
    ("risk_checks__max_order_size_usd", "NaN", "RISK_CHECKS__MAX_ORDER_SIZE_USD"),
    ("risk_checks__var_confidence_level", "1", "RISK_CHECKS__VAR_CONFIDENCE_LEVEL"),
    ("risk_checks__var_lookback_days", "1", "RISK_CHECKS__VAR_LOOKBACK_DAYS"),
    ("marks__fallback", "guess", "MARKS__FALLBACK"),
    ("marks__held_max_age_sec", "1", "held_max_age_sec"),
    ("marks__slippage_pct", "100", "MARKS__SLIPPAGE_PCT"),
    ("service__host", "0.0.0.0", "SERVICE__HOST"),
    ("service__workers", "0", "SERVICE__WORKERS"),
    ("valkey__positions_ttl", "1", "valkey.positions_ttl"),
    (
        "instruments",
        TWICE,
        "instruments",
    ),
]


@pytest.mark.parametrize(("key", "value", "named"), REFUSED)
def test_value_that_makes_no_sense_stops_the_start_and_names_the_key(
    key: str, value: str, named: str
) -> None:
    with pytest.raises(SettingsError, match=named):
        settings(**{key: value})


def test_unknown_key_in_the_file_stops_the_start_and_names_key_and_file(tmp_path: Path) -> None:
    file = tmp_path / "risk" / "config.yaml"
    file.parent.mkdir()
    file.write_text("risk_checks: {max_order_size: 1}\n")
    with pytest.raises(SettingsError, match=r"config\.yaml.*risk_checks\.max_order_size"):
        load_settings("risk", RiskSettings, {"TRADE2026_CONFIG_DIR": str(tmp_path)})


def test_every_leaf_of_the_configuration_has_a_meaning() -> None:
    """A key without a docstring would be one that nobody thought through."""
    undocumented = []

    def walk(model: Any, path: str) -> None:
        for name, field in model.model_fields.items():
            nested = field.annotation
            if isinstance(nested, type) and hasattr(nested, "model_fields"):
                walk(nested, f"{path}{name}.")
            elif not field.description:
                undocumented.append(f"{path}{name}")

    walk(RiskSettings, "")
    assert undocumented == []


def test_number_keys_are_exact() -> None:
    exact = settings(risk_checks__max_order_size_usd="0.1").risk_checks.max_order_size_usd
    assert exact == Decimal("0.1")
