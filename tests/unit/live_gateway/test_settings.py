"""Settings: the shipped file equals the defaults, and each key does what it says."""

from decimal import Decimal
from pathlib import Path

import pytest

from services.live_gateway.rules import FillModel
from services.live_gateway.settings import GatewaySettings
from services.runtime.settings import SettingsError, load_settings


def _load(**variables: str) -> GatewaySettings:
    environment = {f"TRADE2026_LIVE_GATEWAY__{key}": value for key, value in variables.items()}
    return load_settings("live_gateway", GatewaySettings, environment)


def test_shipped_file_says_the_defaults() -> None:
    assert _load() == GatewaySettings()


def test_every_key_of_the_venue_reaches_its_rules() -> None:
    rules = _load(
        VENUE__FILL_MODEL="market",
        VENUE__LIMIT_BAND_PCT="5.5",
        VENUE__PARTIAL_FILLS="3",
        VENUE__FILL_DELAY_MS="2.5",
        VENUE__TAKER_FEE_BPS="-0.5",
        VENUE__MAKER_FEE_BPS="2",
        MARKS__MAX_AGE_SEC="1.5",
        INSTRUMENTS="[{symbol: XY, price_increment: 0.5, quantity_increment: 2}]",
    ).rules()
    assert (rules.fill_model, rules.limit_band_pct, rules.slices) == (FillModel.MARKET, Decimal("5.5"), 3)
    assert (rules.delay_ns, rules.mark_max_age_ns) == (2_500_000, 1_500_000_000)
    assert (rules.taker_fee_bps, rules.maker_fee_bps) == (Decimal("-0.5"), Decimal(2))
    assert rules.instruments["XY"].price_increment == Decimal("0.5")


@pytest.mark.parametrize(
    ("variables", "key"),
    [
        ({"SERVICE__WORKERS": "2"}, "service.workers"),
        ({"VENUE__PARTIAL_FILLS": "2"}, "venue"),
        ({"VENUE__FILL_DELAY_MS": "1"}, "venue"),
        ({"VENUE__FILL_MODEL": "hope"}, "VENUE__FILL_MODEL"),
        ({"STORE__DURABILITY": "maybe"}, "STORE__DURABILITY"),
        ({"STORE__PATH": ""}, "STORE__PATH"),
        ({"INSTRUMENTS": "[]"}, "instruments"),
        (
            {"INSTRUMENTS": "[{symbol: X, price_increment: 1, quantity_increment: 0}]"},
            "instruments",
        ),
        (
            {
                "INSTRUMENTS": "[{symbol: X, price_increment: 1, quantity_increment: 1}, "
                "{symbol: X, price_increment: 1, quantity_increment: 1}]"
            },
            "instruments",
        ),
    ],
)
def test_wrong_setting_is_refused_by_its_name(variables: dict[str, str], key: str) -> None:
    with pytest.raises(SettingsError, match=key):
        _load(**variables)


def test_unknown_key_of_a_file_is_refused_by_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "live_gateway"
    folder.mkdir()
    (folder / "config.yaml").write_text("venue: {fill_modl: instant}\n")
    with pytest.raises(SettingsError, match="fill_modl"):
        load_settings("live_gateway", GatewaySettings, {"TRADE2026_CONFIG_DIR": str(tmp_path)})
