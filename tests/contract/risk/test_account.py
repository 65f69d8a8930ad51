"""What risk tells of an account, its limits and itself."""

from __future__ import annotations

from decimal import Decimal
from importlib.metadata import version

import pytest

from services.runtime.errors import Code
from tests.contract.risk.clients import Refusal, RiskClient
from tests.integration.risk.platform import RiskPlatform


async def test_account_that_was_never_opened_shows_its_opening_cash(
    risk: RiskClient, account: str, platform: RiskPlatform
) -> None:
    assert await risk.call("GetAccountRisk", {"account": account}) == {
        "account": account,
        "cash": 100_000,
        "equity": 100_000,
        "worst_equity": 100_000,
        "buying_power": 200_000,
        "gross_exposure": 0,
        "net_exposure": 0,
        "var": 0,
        "open_orders": 0,
        "trading_state": "active",
        "utilisation": [
            {"name": "buying_power", "symbol": "", "value": 0, "limit": 100_000},
            {"name": "var_limit", "symbol": "", "value": 0, "limit": 50_000},
        ],
        "symbols": [],
    }
    assert platform.keys(account) == []


async def test_limits_are_the_configured_ones_by_key(risk: RiskClient, account: str) -> None:
    answer = await risk.call("GetLimits", {"account": account})

    assert answer["version"] == 0
    assert {key: limit["value"] for key, limit in answer["limits"].items()} == {
        "max_order_size_usd": 100_000,
        "max_order_size_shares": 10_000,
        "max_position_size_usd": 1_000_000,
        "max_concentration_pct": Decimal(25),
        "max_portfolio_var_usd": 50_000,
        "margin_requirement_pct": Decimal(50),
        "max_deviation_pct": 20,
    }
    assert not any(limit["overridden"] for limit in answer["limits"].values())


@pytest.mark.parametrize("method", ["GetAccountRisk", "GetLimits"])
async def test_malformed_account_is_invalid_argument(risk: RiskClient, method: str) -> None:
    with pytest.raises(Refusal) as caught:
        await risk.call(method, {"account": "a.b"})
    assert (caught.value.code, caught.value.fields) == (Code.INVALID_ARGUMENT, ["account"])


async def test_service_tells_ledger_version_and_engine(
    risk: RiskClient, request: pytest.FixtureRequest
) -> None:
    engine = "native" if request.node.callspec.params["risk"] == "native" else "grpcio"
    answer = await risk.call("GetServiceInfo", {})
    assert answer.pop("ledger_id")
    assert answer == {"version": version("trade2026"), "grpc_engine": engine, "partitions": 16}


@pytest.mark.parametrize("method", ["UpdateLimits", "GetTradingState", "SetTradingState"])
async def test_what_is_not_served_yet_says_so(risk: RiskClient, method: str) -> None:
    with pytest.raises(Refusal) as caught:
        await risk.call(method, {"account": "a"} if method == "UpdateLimits" else {})
    assert caught.value.code is Code.UNIMPLEMENTED
