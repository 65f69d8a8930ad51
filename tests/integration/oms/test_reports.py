"""Venue reports: none lost, none twice, garbage set aside."""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from typing import Any

import httpx
import pytest
from nats.aio.client import Client

from services.ledger.partition import partition_of
from services.runtime.streams import DEADLETTER
from tests.contract.oms.clients import OverRest, Refusal
from tests.integration.oms.orders import market_buy, until_state
from tests.integration.oms.platform import OmsPlatform, kill_workers
from tests.support import eventually, nested


def a_fill(of_account: str, **members: Any) -> dict[str, Any]:
    fill = {
        "account": of_account,
        "symbol": "BTCUSDT",
        "side": "buy",
        "quantity": 0.5,
        "price": 45000,
        "fill_id": f"{of_account}-f1",
        "fee": 1.25,
        "timestamp": 1700000000.5,
    }
    return {name: value for name, value in {**fill, **members}.items() if value is not None}


async def publish(bus: Client, subject: str, payload: object) -> int:
    """Puts a message on EXECUTIONS; its sequence."""
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return (await bus.jetstream().publish(subject, data)).seq


async def position(oms: OverRest, account: str) -> Decimal:
    try:
        positions = await oms.call("GetPositions", {"account": account})
    except (Refusal, httpx.TransportError) as error:
        raise AssertionError(repr(error)) from error
    return Decimal(positions["BTCUSDT"]["quantity"]) if positions else Decimal(0)


async def until_position(oms: OverRest, account: str, quantity: str, within_sec: float = 10) -> None:
    async def reached() -> bool:
        held = await position(oms, account)
        assert held == Decimal(quantity), held
        return True

    await eventually(reached, within_sec=within_sec, every_sec=0.05)


async def dead_letter(bus: Client, sequence: int) -> dict[str, Any]:
    """The dead letter of a message of EXECUTIONS."""
    js = bus.jetstream()

    async def found() -> dict[str, Any]:
        state = (await js.stream_info(DEADLETTER)).state
        for number in range(state.last_seq, max(state.first_seq, 1) - 1, -1):
            message = await js.get_msg(DEADLETTER, seq=number)
            letter: dict[str, Any] = json.loads(message.data or b"{}")
            if message.subject == "deadletter.executions" and letter["sequence"] == sequence:
                return letter
        raise AssertionError(f"no dead letter of {sequence}")

    return await eventually(found, within_sec=10, every_sec=0.1)


async def test_a_fill_nobody_ordered_is_booked_and_flagged(
    platform: OmsPlatform, oms: OverRest, bus: Client, account: str
) -> None:
    before = platform.metric('oms_flagged_fills_total{flag="unknown"}')
    await publish(bus, f"fills.{account}", a_fill(account))
    await until_position(oms, account, "0.5")
    positions = await oms.call("GetPositions", {"account": account})
    assert positions["BTCUSDT"]["fees"] == Decimal("1.25")
    assert platform.metric('oms_flagged_fills_total{flag="unknown"}') == before + 1
    assert await platform.until_projected(account, "BTCUSDT", "0.5") == {
        "quantity": "0.5",
        "last_price": "45000",
    }


async def test_a_fill_that_comes_twice_is_booked_once(oms: OverRest, bus: Client, account: str) -> None:
    for _ in range(3):
        await publish(bus, f"fills.{account}", a_fill(account))
    await publish(bus, f"fills.{account}", a_fill(account, fill_id=f"{account}-f2"))
    await until_position(oms, account, "1.0")


async def test_fills_without_an_id_are_told_apart_by_their_sequence(
    oms: OverRest, bus: Client, account: str
) -> None:
    bare = {"account": account, "symbol": "BTCUSDT", "side": "sell", "quantity": 0.1, "price": 45000}
    for _ in range(3):
        await publish(bus, f"fills.{account}", bare)
    await until_position(oms, account, "-0.3")


async def test_a_repeated_fill_of_an_order_is_booked_once_and_an_overfill_is_flagged(
    platform: OmsPlatform, oms: OverRest, bus: Client, account: str
) -> None:
    order_id = (await oms.call("SubmitOrder", market_buy(account)))["order_id"]
    order = await until_state(oms, order_id, "filled")
    fills = (await _stored_fills(oms, account))[0]
    again = a_fill(account, order_id=order_id, fill_id=fills["fill_id"], quantity=0.1)
    await publish(bus, f"fills.{account}", again)
    before = platform.metric('oms_flagged_fills_total{flag="overfill"}')
    await publish(bus, f"fills.{account}", a_fill(account, order_id=order_id, fill_id=f"{account}-over"))
    await until_position(oms, account, "0.6")
    order = await until_state(oms, order_id, "filled")
    assert order["cumulative_quantity"] == Decimal("0.6")
    assert platform.metric('oms_flagged_fills_total{flag="overfill"}') == before + 1


async def _stored_fills(oms: OverRest, account: str) -> list[dict[str, Any]]:
    async def stored() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await oms.call("ListFills", {"account": account}))["fills"]
        return found

    return await eventually(stored, within_sec=10)


@pytest.mark.parametrize(
    ("kind", "payload", "reason"),
    [
        ("fills", b"garbage", "JSON"),
        ("fills", b"", "truncated"),
        ("fills", b'{"account":"{account}","symbol":"BTC', "truncated"),
        pytest.param("fills", nested(json.dumps(a_fill("{account}")).encode()), "recursion", id="nested"),
        pytest.param("fills", {"side": "x" * 1_000_000}, "Invalid enum value", id="long"),
        ("fills", {"account": "somebody_else"}, "account"),
        ("fills", {"quantity": 0}, "quantity"),
        ("fills", {"quantity": -1}, "quantity"),
        ("fills", {"price": 0}, "price"),
        ("fills", {"side": "hold"}, "hold"),
        ("fills", {"symbol": "BTC USDT"}, "symbol"),
        ("fills", {"version": 99}, "version 99"),
        ("fills", {"timestamp": -5}, "timestamp"),
        ("fills", {"quantity": 1e30}, "quantity"),
        ("fills", {"order_id": "x" * 300}, "order_id"),
        ("executions", {"exec_id": "e", "order_id": "o", "kind": "exploded"}, "exploded"),
        ("executions", {"exec_id": "e", "order_id": "", "kind": "accepted"}, "order_id"),
    ],
)
async def test_a_message_that_cannot_be_applied_is_set_aside_and_holds_up_nothing(
    oms: OverRest, bus: Client, account: str, kind: str, payload: Any, reason: str
) -> None:
    if isinstance(payload, dict):
        data = json.dumps(a_fill(account, **payload)).encode()
    else:
        data = payload.replace(b"{account}", account.encode())
    sequence = await publish(bus, f"{kind}.{account}", data)
    await publish(bus, f"fills.{account}", a_fill(account))
    await until_position(oms, account, "0.5")
    letter = await dead_letter(bus, sequence)
    assert letter["subject"] == f"{partition_of(account)}.{kind}.{account}"
    assert reason in letter["reason"]
    kept = base64.b64decode(letter["base64"]) if letter.get("base64") else letter["text"].encode()
    assert kept == data[: len(kept)]
    assert len(kept) == len(data) or letter["truncated"]


async def test_an_account_outside_its_alphabet_is_set_aside(bus: Client) -> None:
    sequence = await publish(bus, "fills.b@d", a_fill("b@d"))
    assert "account" in (await dead_letter(bus, sequence))["reason"]


async def test_reports_are_applied_once_over_a_kill_of_the_worker(
    platform: OmsPlatform, oms: OverRest, bus: Client, account: str
) -> None:
    for number in range(300):
        await publish(bus, f"fills.{account}", a_fill(account, quantity=0.01, fill_id=f"{account}-{number}"))
        if number in (100, 200):
            kill_workers(platform.oms)

    await until_position(oms, account, "3", within_sec=30)


async def test_reports_wait_in_order_while_valkey_is_away(
    platform: OmsPlatform, oms: OverRest, bus: Client, account: str
) -> None:
    await publish(bus, f"fills.{account}", a_fill(account, quantity=1, fill_id=f"{account}-first"))
    await until_position(oms, account, "1")
    platform.valkey.kill()
    for number in range(50):
        await publish(bus, f"fills.{account}", a_fill(account, quantity=0.1, fill_id=f"{account}-{number}"))
    platform.valkey.start()
    await platform.valkey.until_healthy()

    await until_position(oms, account, "6", within_sec=30)
    assert platform.metric("oms_reports_out_of_order_total") == 0
