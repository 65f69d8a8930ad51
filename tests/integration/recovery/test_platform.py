"""The whole platform over a Valkey that loses its data: denied, told by health, rebuilt while it runs."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import nats
import psycopg
import pytest
from nats.aio.client import Client

from services.runtime.local_stack.valkey import ValkeyServer
from tests.contract.oms.clients import OverRest, Refusal
from tests.integration.ledger.stale import copy_data, lose_after, set_back, wipe, written
from tests.integration.oms.orders import limit_buy, market_buy, resting, until_state
from tests.integration.oms.platform import OmsPlatform, started
from tests.support import eventually, unique_account

HURTS = ("wiped", "an old copy", "without its last writes")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OmsPlatform]:
    running = started(tmp_path_factory.mktemp("recovery"))
    yield running
    running.stop()


@pytest.fixture
async def oms(platform: OmsPlatform) -> AsyncIterator[OverRest]:
    client = OverRest(f"http://{platform.addresses['oms']['rest']}")
    yield client
    await client.close()


@pytest.fixture
async def bus(platform: OmsPlatform) -> AsyncIterator[Client]:
    client = await nats.connect(platform.nats.url, max_reconnect_attempts=-1)
    yield client
    await client.close()


async def command(platform: OmsPlatform, *arguments: str) -> tuple[int, str]:
    """Status and output of `trade2026 ledger …` on the platform."""
    addresses = platform.addresses
    program = [sys.executable, "-m", "trade2026.cli", "ledger", *arguments]
    program += ["--data", str(platform.folder), "--valkey", platform.valkey.url, "--nats", platform.nats.url]
    program += ["--questdb", f"postgresql://admin:quest@{addresses['questdb']['pg']}/qdb"]
    done = await asyncio.to_thread(
        subprocess.run, program, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout + done.stderr


async def missing(platform: OmsPlatform, name: str) -> list[str]:
    """What a service's health misses."""
    async with httpx.AsyncClient(base_url=f"http://{platform.addresses[name]['rest']}") as client:
        try:
            answer = (await client.get("/health", timeout=5)).json()
        except httpx.TransportError as error:
            raise AssertionError(repr(error)) from error
    return list(answer.get("missing", []))


async def until_healthy(platform: OmsPlatform) -> None:
    for name in ("risk", "oms"):

        async def nothing_missing(name: str = name) -> bool:
            lacking = await missing(platform, name)
            assert lacking == [], (name, lacking)
            return True

        await eventually(nothing_missing, within_sec=30, every_sec=0.2)


def hurt(server: ValkeyServer, how: str, copy: Path, mark: int) -> None:
    if how == "wiped":
        wipe(server)
    elif how == "an old copy":
        set_back(server, copy)
    else:
        # Not a number of bytes: what owners write by themselves goes on while a slow test waits.
        lose_after(server, mark)


@pytest.mark.parametrize("how", HURTS)
async def test_ledger_is_denied_until_it_is_rebuilt_and_nothing_is_lost_or_doubled(
    platform: OmsPlatform, oms: OverRest, bus: Client, tmp_path: Path, how: str
) -> None:
    account, elsewhere = unique_account("hurt"), unique_account("hurt")
    first = await oms.call("SubmitOrder", market_buy(account))
    await until_state(oms, first["order_id"], "filled")
    await foreign_fill(bus, elsewhere, 1)
    copy_data(platform.valkey, tmp_path / "copy")
    await until_healthy(platform)
    rests = await oms.call("SubmitOrder", resting(account))
    await until_state(oms, rests["order_id"], "new")
    small = [limit_buy(account, quantity=0.01, client_order_id=f"c{number}") for number in range(5)]
    answers = [await oms.call("SubmitOrder", order) for order in small[:-1]]
    mark = written(platform.valkey)
    answers.append(await oms.call("SubmitOrder", small[-1]))
    for answer in answers:
        await until_state(oms, answer["order_id"], "filled")
    await platform.until_projected(account, "BTCUSDT", "0.15")

    hurt(platform.valkey, how, tmp_path / "copy", mark)

    async def told() -> bool:
        assert "ledger" in await missing(platform, "oms")
        assert "ledger" in await missing(platform, "risk")
        return True

    await eventually(told, within_sec=20, every_sec=0.2)
    await refused(oms, account)
    await foreign_fill(bus, elsewhere, 2)
    status, said = await command(platform, "verify")
    assert status == 1, said
    status, said = await command(platform, "rebuild")
    assert status == 0, said
    await until_healthy(platform)

    assert [await oms.call("SubmitOrder", order) for order in small] == answers
    await oms.call("CancelOrder", {"order_id": rests["order_id"]})
    await until_state(oms, rests["order_id"], "canceled")
    last = await oms.call("SubmitOrder", market_buy(account))
    await until_state(oms, last["order_id"], "filled")
    await platform.until_projected(account, "BTCUSDT", "0.25")
    await platform.until_projected(elsewhere, "BTCUSDT", "0.02")
    await agreed(platform, bus, account, Decimal("0.25"))

    async def no_difference() -> bool:
        found = await command(platform, "verify")
        assert found[0] == 0, found
        return True

    await eventually(no_difference, within_sec=20, every_sec=0.5)


async def test_snapshot_trims_what_orders_log_has_and_a_wiped_store_comes_back_from_it(
    platform: OmsPlatform, oms: OverRest, bus: Client
) -> None:
    account = unique_account("trimmed")
    order = await oms.call("SubmitOrder", market_buy(account))
    await until_state(oms, order["order_id"], "filled")
    await platform.until_projected(account, "BTCUSDT", "0.1")

    async def trimmed() -> bool:
        status, said = await command(platform, "snapshot", "--trim")
        assert status == 0, said
        state = (await bus.jetstream().stream_info("LEDGER")).state
        assert state.messages == 0, said
        return True

    await eventually(trimmed, within_sec=30, every_sec=0.5)
    wipe(platform.valkey)

    async def told() -> bool:
        assert "ledger" in await missing(platform, "oms")
        return True

    await eventually(told, within_sec=20, every_sec=0.2)
    status, said = await command(platform, "rebuild")
    assert status == 0, said
    await until_healthy(platform)
    order = await oms.call("SubmitOrder", market_buy(account))
    await until_state(oms, order["order_id"], "filled")
    await platform.until_projected(account, "BTCUSDT", "0.2")
    await agreed(platform, bus, account, Decimal("0.2"))


async def refused(oms: OverRest, account: str) -> None:
    """An order is not taken while the ledger is behind."""
    try:
        answer = await oms.call("SubmitOrder", market_buy(account))
    except Refusal:
        return
    assert answer["status"] == "rejected", answer


async def foreign_fill(bus: Client, account: str, number: int) -> None:
    fill = {"account": account, "symbol": "BTCUSDT", "side": "buy", "quantity": 0.01, "price": 45000}
    await bus.jetstream().publish(
        f"fills.{account}", json.dumps({**fill, "fill_id": f"{account}-{number}"}).encode()
    )


async def agreed(platform: OmsPlatform, bus: Client, account: str, quantity: Decimal) -> None:
    """The venue and the stored fills tell the same position."""
    answer = await bus.request("venue.positions", json.dumps({"account": account}).encode(), timeout=5)
    at_venue: dict[str, Any] = json.loads(answer.data, parse_float=Decimal)
    assert {one["symbol"]: one["quantity"] for one in at_venue["positions"]} == {"BTCUSDT": quantity}

    def stored() -> bool:
        with psycopg.connect(platform.questdb.pg_url, autocommit=True) as connection:
            rows = connection.execute(
                "SELECT fill_id, side, quantity FROM fills WHERE account = %s", (account,)
            ).fetchall()
        assert len({row[0] for row in rows}) == len(rows)
        total = sum(row[2] if row[1] == "buy" else -row[2] for row in rows)
        assert total == quantity, total
        return True

    await eventually(stored, within_sec=20, every_sec=0.3)
