"""The configuration of market data."""

from __future__ import annotations

from datetime import time
from decimal import Decimal
from pathlib import Path

import pytest

from services.market_data.bootstrap import replay_of
from services.market_data.settings import MarketDataConfig
from services.runtime.settings import SettingsError, load_settings


def _load(environ: dict[str, str]) -> MarketDataConfig:
    return load_settings("market_data", MarketDataConfig, environ)


def test_the_shipped_file_says_what_the_defaults_are() -> None:
    assert _load({}) == MarketDataConfig()


def test_variables_override_the_replay() -> None:
    prefix = "TRADE2026_MARKET_DATA__REPLAY__"
    settings = _load({f"{prefix}SPEED": "0.5", f"{prefix}START_TIME": "14:00", f"{prefix}DAY": "2024-01-11"})
    assert settings.replay.speed == Decimal("0.5")
    assert settings.replay.start_time == time(14)
    assert settings.replay.day.isoformat() == "2024-01-11"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("REPLAY__SPEED", "-1"),
        ("REPLAY__START_TIME", "25:00"),
        ("REPLAY__DAY", "yesterday"),
        ("REPLAY__TICK_INTERVAL_MS", "0"),
        ("SERVICE__WORKERS", "2"),
        ("QUESTDB__BUFFER_TICKS", "0"),
        ("REPLAY__TYPO", "1"),
    ],
)
def test_a_wrong_value_is_named(key: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"(?i){key.partition('__')[2]}"):
        _load({f"TRADE2026_MARKET_DATA__{key}": value})


def test_a_symbol_without_candles_is_named() -> None:
    listed = "[{symbol: XRPUSDT, price_increment: 0.01, quantity_increment: 1}]"
    settings = _load({"TRADE2026_MARKET_DATA__INSTRUMENTS": listed})
    with pytest.raises(SettingsError, match="XRPUSDT"):
        replay_of(settings)


def test_an_unknown_key_of_a_file_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "market_data"
    folder.mkdir()
    (folder / "config.yaml").write_text("replay:\n  sped: 1\n")
    with pytest.raises(SettingsError, match=r"replay\.sped"):
        _load({"TRADE2026_CONFIG_DIR": str(tmp_path)})
