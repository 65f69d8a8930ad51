"""The numbers that are shown of an account are those that the checks compare."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway_http.codec.codec import Codec
from services.ledger.account import Account
from services.risk.account_view import limits_response, risk_response
from services.risk.checks import Quote, Returns
from services.runtime.errors import Unavailable
from tests.unit.risk.making import BTC, DAY, DEFAULTS, ETH, Board, D, account, held, policy

_codec = Codec()


def shown(message: Any) -> Any:
    return json.loads(_codec.writer(message.DESCRIPTOR)(message), parse_float=D)


def view(state: Account, market: Board | None = None) -> Any:
    return shown(risk_response("acc", state, market or Board(), policy(DEFAULTS)))


def test_positions_and_open_orders_are_shown_at_the_marks() -> None:
    state = account(
        10_000,
        held(20, open_buy=5, buy_value=550, adverse_loss=50, worst_fee=1),
        held(-100, ETH),
        open_orders=1,
    )
    market = Board(returns={BTC: Returns.of(DAY, (-0.1,) * 30), ETH: Returns.of(DAY, (0.1,) * 30)})

    answer = view(state, market)

    assert answer["equity"] == 10_000 + 2_000 - 1_000
    assert answer["worst_equity"] == 11_000 - 51
    assert answer["gross_exposure"] == 3_000
    assert answer["net_exposure"] == 1_000
    assert answer["buying_power"] == 2 * 10_949 - 2_550 - 1_000
    assert answer["var"] == pytest.approx(D(250 + 100))  # 25 × 100 × 10 % and 100 × 10 × 10 %
    assert [(one["symbol"], one["worst_exposure"]) for one in answer["symbols"]] == [(BTC, 2550), (ETH, 1000)]
    use = {(one["name"], one["symbol"]): (one["value"], one["limit"]) for one in answer["utilisation"]}
    assert use["position_limit", BTC] == (2550, 1_000_000)
    assert use["concentration_limit", BTC] == (2550, D("2737.25"))
    assert use["buying_power", ""] == (1775, 10_949)
    assert use["var_limit", ""][1] == 50_000


def test_what_cannot_be_valued_is_left_out() -> None:
    unusable = Quote(D(10), fresh=False, usable=False)
    answer = view(account(10_000, held(1), held(2, ETH)), Board({BTC: 100, ETH: unusable}))

    assert "equity" not in answer
    assert "buying_power" not in answer
    assert answer["utilisation"] == []
    assert [one.get("mark") for one in answer["symbols"]] == [100, None]


def test_value_at_risk_without_history_is_left_out() -> None:
    answer = view(account(10_000, held(1)), Board(returns={BTC: None}))
    assert "var" not in answer
    assert "var_limit" not in {one["name"] for one in answer["utilisation"]}


def test_buying_power_is_never_negative() -> None:
    assert view(account(-10_000, held(20)))["buying_power"] == 0


def test_overridden_limit_is_marked() -> None:
    state = account(limits={"max_order_size_usd": D(5)})
    limits = shown(limits_response("acc", state, policy(DEFAULTS)))["limits"]
    assert limits["max_order_size_usd"] == {"value": 5, "overridden": True}
    assert limits["max_position_size_usd"]["overridden"] is False


def test_limits_that_cannot_be_read_are_unavailable() -> None:
    with pytest.raises(Unavailable):
        limits_response("acc", account(limits={"nonsense": D(5)}), policy(DEFAULTS))
