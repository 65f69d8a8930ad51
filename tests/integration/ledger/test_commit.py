"""Commits on the real Valkey: many commands in one, each with an outcome of its own."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest
import redis

from services.ledger.account import Account
from services.ledger.commands import Approved, Effect, Outcome, ReportKind
from services.ledger.errors import LedgerUnavailable
from services.ledger.keys import AccountKeys
from services.ledger.order import Order, OrderState
from services.runtime.local_stack import ValkeyServer
from tests.integration.ledger.conftest import OpenLedger
from tests.support import eventually
from tests.unit.ledger.making import (
    amend,
    fill,
    hold_price,
    make_order,
    refuse,
    report,
    request_cancel,
    reserve,
)


async def test_order_lives_through_two_workers(open_ledger: OpenLedger) -> None:
    risk, oms = await open_ledger(), await open_ledger()
    order = make_order("acc", "1")
    assert (await risk.execute(reserve(order))).state is OrderState.PENDING_NEW
    assert (await oms.execute(report(ReportKind.ACCEPTED, order, 1))).state is OrderState.NEW
    assert (await oms.execute(fill(order, 2, "0.4"))).state is OrderState.PARTIALLY_FILLED
    assert (await risk.execute(fill(order, 3, "0.6"))).state is OrderState.FILLED
    account = await risk.account("acc", fresh=True)
    assert account is not None
    assert account.position("BTCUSDT").quantity == 1
    assert account.position("BTCUSDT").open_buy == 0
    assert (account.open_orders, account.applied_seq) == (0, 3)


async def test_a_rehearsal_tells_the_outcome_and_leaves_nothing(
    open_ledger: OpenLedger, raw: redis.Redis
) -> None:
    ledger = await open_ledger()
    await ledger.account("acc")
    before = set(raw.keys())
    held = await ledger.rehearse(reserve(make_order("acc", "1")), Decimal(100_000))
    denied = await ledger.rehearse(reserve(make_order("acc", "1"), refuse), Decimal(100_000))
    assert (held.state, denied.state) == (OrderState.PENDING_NEW, OrderState.DENIED)
    assert set(raw.keys()) == before
    assert await ledger.account("acc") is None
    assert ledger.known_absent("acc")
    first = await ledger.execute(reserve(make_order("acc", "1")))
    assert first.effect is Effect.DONE
    assert not ledger.known_absent("acc")


async def test_commands_of_one_turn_become_one_commit(open_ledger: OpenLedger, raw: redis.Redis) -> None:
    ledger = await open_ledger()
    await ledger.execute(reserve(make_order("acc")))
    before = raw.xlen(AccountKeys("acc").outbox)
    await asyncio.gather(*(ledger.submit(reserve(make_order("acc"))) for _ in range(50)))
    assert raw.xlen(AccountKeys("acc").outbox) == before + 1


async def test_command_that_raises_fails_alone(open_ledger: OpenLedger) -> None:
    def broken(account: Account, order: Order) -> Approved:
        raise ZeroDivisionError("a bug in a check")

    ledger = await open_ledger()
    futures = [
        ledger.submit(reserve(make_order("acc"))),
        ledger.submit(reserve(make_order("acc"), broken)),
        ledger.submit(reserve(make_order("acc"))),
    ]
    answers = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Outcome, ZeroDivisionError, Outcome]


async def test_cancelled_caller_does_not_take_the_command_back(open_ledger: OpenLedger) -> None:
    ledger = await open_ledger()
    order = make_order("acc")
    ledger.submit(reserve(order)).cancel()
    await eventually(lambda: ledger.order(order.order_id))


async def test_cancel_and_amend_of_an_account_never_opened_are_not_found(
    open_ledger: OpenLedger, raw: redis.Redis
) -> None:
    ledger = await open_ledger()
    order = make_order("nobody")
    assert (await ledger.execute(request_cancel(order))).effect is Effect.NOT_FOUND
    assert (await ledger.execute(amend(order, 1, "1", "1"))).effect is Effect.NOT_FOUND
    assert not raw.exists(AccountKeys("nobody").account)


async def test_cancel_right_after_a_reservation_elsewhere_finds_the_order(open_ledger: OpenLedger) -> None:
    one, two = await open_ledger(), await open_ledger()
    assert await two.account("acc") is None
    order = make_order("acc")
    await one.execute(reserve(order))
    assert (await two.execute(request_cancel(order))).effect is Effect.DONE


async def test_order_that_cannot_be_written_down_fails_alone(open_ledger: OpenLedger) -> None:
    def unwritable(account: Account, order: Order) -> Approved:
        return Approved(hold_price(account, order).reservation, object())  # type: ignore[arg-type]

    ledger = await open_ledger()
    futures = [
        ledger.submit(reserve(make_order("acc"))),
        ledger.submit(reserve(make_order("acc"), unwritable)),
        ledger.submit(reserve(make_order("acc"))),
    ]
    answers = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Outcome, TypeError, Outcome]
    account = await ledger.account("acc", fresh=True)
    assert account is not None
    assert account.open_orders == 2


async def test_lost_functions_are_loaded_again(open_ledger: OpenLedger, raw: redis.Redis) -> None:
    ledger = await open_ledger()
    await ledger.execute(reserve(make_order("acc")))
    raw.function_flush("SYNC")
    assert (await ledger.execute(reserve(make_order("acc")))).effect is Effect.DONE


async def test_refusal_of_the_server_is_certain_when_it_came_first(
    open_ledger: OpenLedger, raw: redis.Redis
) -> None:
    ledger = await open_ledger()
    await ledger.execute(reserve(make_order("acc")))
    raw.config_set("maxmemory", 1)
    try:
        with pytest.raises(LedgerUnavailable, match="OOM"):
            await ledger.execute(reserve(make_order("acc")))
    finally:
        raw.config_set("maxmemory", 0)
    assert (await ledger.execute(reserve(make_order("acc")))).effect is Effect.DONE
    account = await ledger.account("acc", fresh=True)
    assert account is not None
    assert account.open_orders == 2


async def test_commands_wait_for_a_server_that_comes_back(
    open_ledger: OpenLedger, valkey_server: ValkeyServer
) -> None:
    ledger = await open_ledger()
    order = make_order("acc")
    await ledger.execute(reserve(order))
    await asyncio.to_thread(valkey_server.kill)
    waiting = ledger.submit(reserve(make_order("acc")), timeout=30)
    short = ledger.submit(reserve(make_order("acc2")), timeout=0.2)
    with pytest.raises(LedgerUnavailable):
        await short
    valkey_server.start()
    assert (await waiting).effect is Effect.DONE
    assert (await ledger.order(order.order_id)) is not None
