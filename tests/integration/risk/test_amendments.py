"""Amendments: judged like an order, held beside the old terms until the venue answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

from services.ledger.commands import ApplyReport, Effect, ReportKind
from services.risk.bootstrap import Worker
from services.runtime.errors import Code
from tests.contract.risk.clients import InProcess, Refusal
from tests.contract.risk.test_reserve import reserve
from tests.integration.risk.platform import RiskPlatform
from tests.integration.risk.test_service import worker


@pytest.fixture
async def second(platform: RiskPlatform) -> AsyncIterator[Worker]:
    async with worker(platform) as made:
        yield made


@pytest.fixture
def client(second: Worker) -> InProcess:
    return InProcess(second.servicer)


async def report(
    made: Worker, kind: ReportKind, request: dict[str, Any], sequence: int, revision: int = 0
) -> None:
    """What the venue would say."""
    assert made._ledger is not None
    command = ApplyReport(
        account=request["account"],
        stream_seq=sequence,
        kind=kind,
        order_id=request["order_id"],
        exec_id=f"x{sequence}",
        revision=revision,
        reason="",
        venue_ns=0,
        symbol=request["symbol"],
        side=None,
        quantity=Decimal(0),
        price=Decimal(0),
        fee=Decimal(0),
        liquidity="",
    )
    assert (await made._ledger.execute(command)).effect is Effect.DONE


@pytest.fixture
async def working(second: Worker, client: InProcess, account: str) -> dict[str, Any]:
    """An order that the venue has accepted: 0.1 at 45,000."""
    request = reserve(account, quantity=0.1)
    assert (await client.call("Reserve", request))["approved"]
    await report(second, ReportKind.ACCEPTED, request, 1)
    return request


def amended(request: dict[str, Any], revision: int = 1, **fields: Any) -> dict[str, Any]:
    return {**request, "replaces": {"order_id": request["order_id"], "revision": revision}, **fields}


async def exposure(client: InProcess, account: str) -> Any:
    (symbol,) = (await client.call("GetAccountRisk", {"account": account}))["symbols"]
    return symbol["worst_exposure"]


async def test_approved_amendment_holds_enough_for_both_terms_until_it_is_answered(
    client: InProcess, second: Worker, account: str, working: dict[str, Any]
) -> None:
    answer = await client.call("Reserve", amended(working, quantity=0.2))
    assert (answer["approved"], answer["state"]) == (True, "pending_replace")
    assert await exposure(client, account) == 9_000

    await report(second, ReportKind.REPLACE_REJECTED, working, 2, revision=1)
    assert await exposure(client, account) == 4_500


async def test_amendment_beyond_a_limit_is_denied_and_the_old_terms_stand(
    client: InProcess, account: str, working: dict[str, Any]
) -> None:
    answer = await client.call("Reserve", amended(working, quantity=0.6))
    assert (answer["approved"], answer["reason"], answer["state"]) == (False, "concentration_limit", "new")
    assert await exposure(client, account) == 4_500


async def test_amendment_does_not_count_as_one_more_open_order(
    client: InProcess, working: dict[str, Any]
) -> None:
    answer = await client.call("Reserve", amended(working, quantity=0.2, max_open_orders=1))
    assert answer["approved"]


async def test_repeated_revision_is_not_applied_twice(client: InProcess, working: dict[str, Any]) -> None:
    await client.call("Reserve", amended(working, quantity=0.2))
    again = await client.call("Reserve", amended(working, quantity=0.2))
    assert (again["approved"], again["repeated"]) == (True, True)


async def test_second_amendment_waits_for_the_answer_to_the_first(
    client: InProcess, working: dict[str, Any]
) -> None:
    await client.call("Reserve", amended(working, quantity=0.2))
    with pytest.raises(Refusal) as caught:
        await client.call("Reserve", amended(working, revision=2, quantity=0.3))
    assert (caught.value.code, caught.value.reason) == (Code.FAILED_PRECONDITION, "AMENDMENT_IN_FLIGHT")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"symbol": "ETHUSDT", "price": 2300}, "symbol"),
        ({"side": "sell"}, "side"),
        ({"type": "stop_limit", "stop_price": 45000}, "type"),
    ],
)
async def test_amendment_cannot_turn_the_order_into_another_one(
    client: InProcess, working: dict[str, Any], fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(Refusal) as caught:
        await client.call("Reserve", amended(working, **fields))
    assert (caught.value.code, caught.value.fields) == (Code.INVALID_ARGUMENT, [named])
