"""How long orders work: each time in force from the client's request to the venue's last word."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from nats.aio.client import Client

from services.oms import order_entry
from services.runtime.streams import ORDERS
from tests.contract.oms.clients import InProcess, OverRest
from tests.integration.oms.orders import limit_buy, reserved_of, resting, until_state
from tests.integration.oms.platform import OmsPlatform, freeze, thaw
from tests.integration.oms.worker import WorkerInProcess
from tests.support import eventually

TIMEOUT = "TRADE2026_OMS__ORDER_MANAGEMENT__ORDER_TIMEOUT_SEC"


async def told_to_the_venue(bus: Client, order_id: str) -> dict[str, Any]:
    """The message that brought the order to the venue."""
    js = bus.jetstream()
    state = (await js.stream_info(ORDERS)).state
    for number in range(state.last_seq, max(0, state.last_seq - 300), -1):
        message = await js.get_msg(ORDERS, seq=number)
        payload = json.loads(message.data or b"{}", parse_float=Decimal)
        if payload.get("order_id") == order_id and (message.subject or "").endswith(".new"):
            return dict(payload)
    raise AssertionError(f"{order_id} was not sent")


async def test_a_good_till_canceled_order_ends_by_its_cancel_alone(
    oms: OverRest, bus: Client, account: str
) -> None:
    order_id = (await oms.call("SubmitOrder", resting(account, time_in_force="gtc")))["order_id"]
    order = await until_state(oms, order_id, "new")
    assert "expire_time" not in order
    assert "expire_at" not in await told_to_the_venue(bus, order_id)
    await oms.call("CancelOrder", {"order_id": order_id})
    await until_state(oms, order_id, "canceled")


async def test_a_day_order_is_told_to_end_at_midnight_utc(oms: OverRest, bus: Client, account: str) -> None:
    midnights = {_midnight()}
    order_id = (await oms.call("SubmitOrder", resting(account, time_in_force="day")))["order_id"]
    midnights.add(_midnight())  # it may have passed in between
    order = await until_state(oms, order_id, "new")
    assert datetime.fromisoformat(order["expire_time"]) in midnights
    told = await told_to_the_venue(bus, order_id)
    assert datetime.fromtimestamp(int(told["expire_at"]), UTC) in midnights


async def test_a_day_order_is_expired_by_the_venue_when_its_day_ends(
    platform: OmsPlatform, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order_entry, "end_of_day", lambda now_ns: now_ns + 1_000_000_000)
    async with WorkerInProcess(platform) as worker:
        oms = InProcess(worker.service)
        order_id = (await oms.call("SubmitOrder", resting(account, time_in_force="day")))["order_id"]
        order = await until_state(oms, order_id, "expired")
        assert order["time_in_force"] == "day"
        assert await reserved_of(platform, account) == (0, {})


async def test_a_good_till_date_order_works_until_then_and_is_expired(
    platform: OmsPlatform, oms: OverRest, account: str
) -> None:
    until = datetime.now(UTC) + timedelta(seconds=2)
    order = resting(account, time_in_force="gtd", expire_time=until.isoformat().replace("+00:00", "Z"))
    order_id = (await oms.call("SubmitOrder", order))["order_id"]
    await until_state(oms, order_id, "new")
    ended = await until_state(oms, order_id, "expired")
    assert datetime.fromisoformat(ended["update_time"]) >= until
    assert await reserved_of(platform, account) == (0, {})


@pytest.mark.parametrize(
    ("time_in_force", "reason"), [("ioc", "immediate_or_cancel"), ("fok", "fill_or_kill")]
)
async def test_an_order_for_now_that_cannot_trade_now_is_canceled(
    platform: OmsPlatform, oms: OverRest, account: str, time_in_force: str, reason: str
) -> None:
    order_id = (await oms.call("SubmitOrder", resting(account, time_in_force=time_in_force)))["order_id"]
    order = await until_state(oms, order_id, "canceled")
    assert (order["reason"], order["cumulative_quantity"]) == (reason, 0)
    assert await reserved_of(platform, account) == (0, {})


@pytest.mark.parametrize("time_in_force", ["ioc", "fok", "day", "gtc"])
async def test_an_order_that_can_trade_now_is_filled_whatever_its_time(
    oms: OverRest, account: str, time_in_force: str
) -> None:
    order_id = (await oms.call("SubmitOrder", limit_buy(account, time_in_force=time_in_force)))["order_id"]
    order = await until_state(oms, order_id, "filled")
    assert order["cumulative_quantity"] == Decimal("0.1")


async def test_an_amendment_keeps_the_time_at_which_the_order_ends(
    platform: OmsPlatform, oms: OverRest, account: str
) -> None:
    until = datetime.now(UTC) + timedelta(seconds=3)
    order = resting(account, time_in_force="gtd", expire_time=until.isoformat().replace("+00:00", "Z"))
    order_id = (await oms.call("SubmitOrder", order))["order_id"]
    await until_state(oms, order_id, "new")
    await oms.call("ReplaceOrder", {"order_id": order_id, "quantity": 0.2})
    ended = await until_state(oms, order_id, "expired")
    assert (ended["revision"], ended["quantity"]) == (1, Decimal("0.2"))
    assert await reserved_of(platform, account) == (0, {})


async def test_an_expiry_that_the_venue_does_not_report_is_swept_and_nothing_stays_reserved(
    platform: OmsPlatform, account: str
) -> None:
    async with WorkerInProcess(platform, {TIMEOUT: "1"}) as worker:
        oms = InProcess(worker.service)
        order_id = (await oms.call("SubmitOrder", resting(account)))["order_id"]
        await until_state(oms, order_id, "new")
        freeze(platform.venue)
        order = await until_state(oms, order_id, "pending_cancel", within_sec=15)
        assert order["reason"] == "expired"
        thaw(platform.venue)
        await until_state(oms, order_id, "expired", "canceled")

        async def released() -> bool:
            return await reserved_of(platform, account) == (0, {})

        await eventually(released)


def _midnight() -> datetime:
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    return datetime.combine(tomorrow, datetime.min.time(), UTC)
