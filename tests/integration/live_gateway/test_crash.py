"""Whatever dies, every order is executed exactly once and told once, in order.

The duplicate window of EXECUTIONS is 100 ms here, so that nothing of this is owed to it.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from services.runtime.ids import new_order_id
from services.runtime.local_stack import NatsServer
from services.runtime.streams import EXECUTIONS, ORDERS, ensure_streams
from tests.integration.live_gateway.venue_process import Exchange, VenueProcess
from tests.support import eventually

StartVenue = Callable[..., VenueProcess]
ORDER_COUNT = 2_000


@pytest.fixture
async def venue(start_venue: StartVenue, exchange: Exchange) -> VenueProcess:
    """A ready venue with marks at 45,000, on streams that recognise duplicates for 100 ms only."""
    js = exchange.client.jetstream()
    config = (await js.stream_info(EXECUTIONS)).config
    config.duplicate_window = 0.1
    await js.update_stream(config)
    venue = start_venue()
    await venue.until_healthy()
    await exchange.mark("45000")
    await eventually(lambda: venue.health() == (200, {"status": "healthy"}))
    return venue


class Traffic:
    """2,000 orders over five accounts: limits that are filled, stops that rest, some of them canceled.

    They are sent in parts, one more than there are failures: however fast the machine, the last order is
    not sent before the last failure.
    """

    def __init__(self, exchange: Exchange, failures: int) -> None:
        self._exchange = exchange
        self._parts = [asyncio.Event() for _ in range(failures)]
        self.filled: list[str] = []
        self.canceled: list[str] = []
        self.resting: list[str] = []

    async def run(self) -> None:
        await asyncio.gather(*(self._account(f"account_{number}") for number in range(5)))

    async def until_in_the_middle(self) -> None:
        """Returns when the venue has told a good deal of the part that is being sent."""
        await _some_more(self._exchange, random.randint(50, 250))

    def go_on(self) -> None:
        """Has the next part sent; to be called once a failure has happened."""
        next(part for part in self._parts if not part.is_set()).set()

    async def _account(self, account: str) -> None:
        count = ORDER_COUNT // 5
        for number in range(count):
            failures_before = number * (len(self._parts) + 1) // count
            if failures_before:
                await self._parts[failures_before - 1].wait()
            if number % 5:
                side = "buy" if number % 2 else "sell"
                self.filled.append(await self._exchange.new(account, side=side, price=45000 + number % 50))
                continue
            order_id = await self._exchange.new(account, type="stop", stop_price=46000)
            if number % 2:
                await self._exchange.cancel(order_id)
                self.canceled.append(order_id)
            else:
                self.resting.append(order_id)

    @property
    def reports(self) -> int:
        """How many reports there have to be before the stops are triggered."""
        return len(self.filled) + 2 * len(self.canceled) + len(self.resting)


async def _check(exchange: Exchange, venue: VenueProcess, traffic: Traffic) -> None:
    """Triggers the stops that rest, then compares every report with what was sent."""
    await eventually(lambda: _counted(exchange, traffic.reports), within_sec=60)
    await venue.until_healthy()
    await exchange.mark("46000", "BTCUSDT")
    await eventually(lambda: _counted(exchange, traffic.reports + len(traffic.resting)), within_sec=20)
    reports = await exchange.reports()
    assert len(reports) == traffic.reports + len(traffic.resting)

    told: dict[str, list[str]] = {}
    for report in reports:
        told.setdefault(report["order_id"], []).append(report["kind"])
    expected = {order_id: ["fill"] for order_id in traffic.filled}
    expected |= {order_id: ["accepted", "canceled"] for order_id in traffic.canceled}
    expected |= {order_id: ["accepted", "fill"] for order_id in traffic.resting}
    assert told == expected

    exec_ids = [report.get("exec_id") or report["fill_id"] for report in reports]
    assert not [exec_id for exec_id, count in Counter(exec_ids).items() if count > 1]
    for account in {report["account"] for report in reports}:
        numbers = [
            int((report.get("exec_id") or report["fill_id"]).rpartition("-")[2])
            for report in reports
            if report["account"] == account
        ]
        assert numbers == sorted(numbers)
    await _check_positions(exchange, reports)


async def _check_positions(exchange: Exchange, reports: list[dict[str, Any]]) -> None:
    expected: dict[str, Decimal] = {}
    for report in reports:
        if report["kind"] == "fill":
            signed = report["quantity"] if report["side"] == "buy" else -report["quantity"]
            expected[report["account"]] = expected.get(report["account"], Decimal(0)) + signed

    async def equal() -> bool:
        answer = await exchange.ask("venue.positions")
        assert answer["executions_seq"] == await exchange.report_count()
        return {one["account"]: one["quantity"] for one in answer["positions"]} == expected

    await eventually(equal)


async def _counted(exchange: Exchange, count: int) -> bool:
    assert (found := await exchange.report_count()) >= count, found
    return True


async def _some_more(exchange: Exchange, more: int) -> None:
    """Returns when the venue has told a few reports more."""
    target = await exchange.report_count() + more
    await eventually(lambda: _counted(exchange, target), within_sec=30)


async def test_venue_killed_in_the_middle_of_orders_executes_each_exactly_once(
    venue: VenueProcess, exchange: Exchange
) -> None:
    traffic = Traffic(exchange, failures=4)
    sending = asyncio.create_task(traffic.run())
    for _ in range(3):
        await traffic.until_in_the_middle()
        worker = await eventually(lambda: venue.worker)
        worker.kill()  # its supervisor starts another one
        traffic.go_on()
    await traffic.until_in_the_middle()
    venue.kill()  # the supervisor: the worker dies with it
    traffic.go_on()
    venue.start()
    await sending
    await _check(exchange, venue, traffic)


async def test_nats_killed_in_the_middle_of_orders_loses_and_doubles_nothing(
    venue: VenueProcess, exchange: Exchange, empty_nats: NatsServer
) -> None:
    traffic = Traffic(exchange, failures=2)
    sending = asyncio.create_task(traffic.run())
    for _ in range(2):
        await traffic.until_in_the_middle()
        empty_nats.kill()
        traffic.go_on()
        empty_nats.start()
        await empty_nats.until_healthy()
    await sending
    assert venue.worker.is_running()
    await _check(exchange, venue, traffic)


async def test_venue_and_nats_killed_together_lose_and_double_nothing(
    venue: VenueProcess, exchange: Exchange, empty_nats: NatsServer
) -> None:
    traffic = Traffic(exchange, failures=1)
    sending = asyncio.create_task(traffic.run())
    await traffic.until_in_the_middle()
    empty_nats.kill()
    venue.kill()
    traffic.go_on()
    empty_nats.start()
    venue.start()
    await empty_nats.until_healthy()
    await sending
    await _check(exchange, venue, traffic)


async def test_frozen_nats_is_survived(
    venue: VenueProcess, exchange: Exchange, empty_nats: NatsServer
) -> None:
    traffic = Traffic(exchange, failures=1)
    sending = asyncio.create_task(traffic.run())
    await traffic.until_in_the_middle()
    empty_nats.pause()
    traffic.go_on()
    await eventually(lambda: venue.health()[0] == 503, within_sec=20)
    empty_nats.resume()
    await sending
    await _check(exchange, venue, traffic)


async def test_lost_journal_is_replaced_by_what_the_reports_tell(
    venue: VenueProcess, exchange: Exchange
) -> None:
    filled = [await exchange.new("alice") for _ in range(20)]
    resting = await exchange.new("alice", type="stop", stop_price=46000)
    await eventually(lambda: _counted(exchange, 21))

    async def told() -> Any:
        answer = await exchange.ask("venue.positions")
        assert answer["executions_seq"] == 21
        return answer["positions"]

    before = await eventually(told)
    venue.stop()
    for file in venue.journal.parent.glob("journal.sqlite3*"):
        file.unlink()
    venue.start()
    await venue.until_healthy()
    answer = await exchange.ask("venue.positions")
    assert answer["positions"] == before
    assert answer["executions_seq"] == 21
    await exchange.mark("46000", "BTCUSDT")

    async def executed() -> list[dict[str, Any]]:
        reports = [report for report in await exchange.reports() if report["kind"] == "fill"]
        assert {report["order_id"] for report in reports} == {*filled, resting}
        return reports

    reports = await eventually(executed)
    assert len(reports) == 21
    assert len({report["fill_id"] for report in reports}) == 21


async def test_orders_whose_terms_are_in_no_stream_after_the_loss_of_the_journal_are_canceled_once(
    start_venue: StartVenue, exchange: Exchange
) -> None:
    venue = start_venue(
        VENUE__FILL_MODEL="market", STORE__ORDERS_KEPT="3", STORE__ORDERS_TRIM_INTERVAL_SEC="0.1"
    )
    await venue.until_healthy()
    await exchange.mark("45000")
    trimmed = [await exchange.new("alice", price=44000, quantity=2) for _ in range(5)]
    ended = [await exchange.new("bob", price=45000) for _ in range(5)]
    kept = [await exchange.new("alice", price=44000, quantity=3) for _ in range(3)]
    js = exchange.client.jetstream()

    async def only_kept() -> bool:
        return (await js.stream_info(ORDERS)).state.messages == 3

    await eventually(lambda: _counted(exchange, 13))
    await eventually(only_kept)
    venue.kill()
    for file in venue.journal.parent.glob("journal.sqlite3*"):
        file.unlink()
    venue.start()

    async def told() -> list[tuple[str, str]]:
        reports = [one for one in await exchange.reports() if one.get("reason") == "terms_lost"]
        assert len(reports) == len(trimmed)
        assert {(one["kind"], one["status"], one.get("revision", 0)) for one in reports} == {
            ("canceled", "canceled", 0)
        }
        return [(one["account"], one["order_id"]) for one in reports]

    assert sorted(await eventually(told, within_sec=20)) == [("alice", one) for one in sorted(trimmed)]
    venue.kill()
    venue.start()
    await venue.until_healthy()
    await exchange.mark("44000")

    async def filled() -> set[str]:
        fills = {one["order_id"] for one in await exchange.reports() if one["kind"] == "fill"}
        assert fills >= {*ended, *kept}
        return fills

    assert await eventually(filled) == {*ended, *kept}
    await told()


async def test_partly_executed_order_goes_on_after_the_loss_of_the_journal(
    start_venue: StartVenue, exchange: Exchange
) -> None:
    venue = start_venue(VENUE__FILL_MODEL="market", VENUE__PARTIAL_FILLS="2", VENUE__FILL_DELAY_MS="500")
    await venue.until_healthy()
    await exchange.mark("45000")
    await eventually(lambda: venue.health() == (200, {"status": "healthy"}))
    await exchange.new("alice", quantity=1)
    await eventually(lambda: _counted(exchange, 2))  # accepted, first half
    venue.kill()
    for file in venue.journal.parent.glob("journal.sqlite3*"):
        file.unlink()
    venue.start()
    await venue.until_healthy()
    await exchange.mark("45000")

    async def whole() -> list[dict[str, Any]]:
        fills = [report for report in await exchange.reports() if report["kind"] == "fill"]
        assert fills[-1]["status"] == "filled"
        return fills

    fills = await eventually(whole)
    assert sum(fill["quantity"] for fill in fills) == 1
    assert fills[-1]["cumulative"] == 1
    (position,) = (await exchange.ask("venue.positions"))["positions"]
    assert position["quantity"] == 1


async def test_recreated_orders_stream_is_read_from_its_start_and_old_orders_are_refused(
    venue: VenueProcess, exchange: Exchange
) -> None:
    old = [await exchange.new("alice") for _ in range(5)]
    await eventually(lambda: _counted(exchange, 5))
    js = exchange.client.jetstream()
    await js.delete_stream(ORDERS)
    await ensure_streams(js, (ORDERS,))
    await exchange.new("alice", order_id=old[2])
    young = await exchange.new("alice")
    await eventually(lambda: _counted(exchange, 6), within_sec=20)
    assert [report["order_id"] for report in await exchange.reports()] == [*old, young]


async def test_orders_stream_recreated_while_the_venue_was_down_is_read_from_its_start(
    venue: VenueProcess, exchange: Exchange
) -> None:
    old = [await exchange.new("alice") for _ in range(3)]
    await eventually(lambda: _counted(exchange, 3))
    venue.kill()
    js = exchange.client.jetstream()
    await js.delete_stream(ORDERS)
    await ensure_streams(js, (ORDERS,))
    young = [await exchange.new("alice", order_id=one) for one in (*old, None, None)][3:]
    venue.start()
    await eventually(lambda: _counted(exchange, 5), within_sec=20)
    assert [report["order_id"] for report in await exchange.reports()] == [*old, *young]


async def test_full_stream_of_reports_stops_the_venue_until_there_is_room(
    venue: VenueProcess, exchange: Exchange
) -> None:
    js = exchange.client.jetstream()
    config = (await js.stream_info(EXECUTIONS)).config
    usual, config.max_bytes = config.max_bytes, 20_000
    await js.update_stream(config)
    orders = [await exchange.new("alice") for _ in range(100)]
    await eventually(lambda: "executions" in venue.health()[1].get("missing", []))
    assert await exchange.report_count() < 100
    config.max_bytes = usual
    await js.update_stream(config)
    await eventually(lambda: _counted(exchange, 100), within_sec=20)
    assert [report["order_id"] for report in await exchange.reports()] == orders
    await eventually(lambda: venue.health()[0] == 200)


async def test_order_repeated_long_after_it_left_memory_is_refused(
    start_venue: StartVenue, exchange: Exchange
) -> None:
    venue = start_venue(STORE__RECENT_ORDERS="1000")
    await venue.until_healthy()
    await exchange.mark("45000")
    first = await exchange.new("alice")
    await asyncio.gather(*(exchange.new("bob") for _ in range(1_500)))
    await eventually(lambda: _counted(exchange, 1_501), within_sec=20)
    repeated = {
        "order_id": first,
        "client_order_id": "c",
        "account": "alice",
        "symbol": "BTCUSDT",
        "side": "buy",
        "type": "market",
        "quantity": 1,
        "timestamp": 1,
    }
    await exchange.send("orders.alice.new", repeated, "again")
    await exchange.cancel(first)
    await eventually(lambda: _counted(exchange, 1_502))
    report = json.loads((await exchange.stored())[-1].data)
    assert (report["kind"], report["reason"], report["order_id"]) == ("cancel_rejected", "filled", first)


async def test_venue_killed_while_both_orders_of_many_pairs_become_executable_executes_one_of_each(
    venue: VenueProcess, exchange: Exchange
) -> None:
    pairs: list[tuple[str, str]] = []

    async def send(count: int) -> None:
        for number in range(count):
            account = f"account_{number % 3}"
            first, second = new_order_id(account), new_order_id(account)
            terms = {"account": account, "symbol": "BTCUSDT", "side": "buy", "type": "stop", "timestamp": 1}
            sibling = {**terms, "order_id": second, "client_order_id": "", "quantity": Decimal("0.2")}
            pairs.append((first, second))
            await exchange.new(
                account,
                order_id=first,
                type="stop",
                stop_price=45500,
                sibling={**sibling, "stop_price": 45600},
            )

    for mark in ("45600", "45000", "46000"):
        # The marks execute what is there, and what comes while the mark is high executes on arrival.
        sending = asyncio.create_task(send(133))
        await _some_more(exchange, 60)
        await exchange.mark(mark, "BTCUSDT")
        worker = await eventually(lambda: venue.worker)
        worker.kill()
        await sending
    await venue.until_healthy()
    await exchange.mark("46000", "BTCUSDT")

    async def ended() -> dict[str, list[str]]:
        told: dict[str, list[str]] = {}
        for report in await exchange.reports():
            told.setdefault(report["order_id"], []).append(report.get("reason") or report["kind"])
        assert len(told) == 2 * len(pairs)
        assert all(reports[-1] in ("fill", "sibling_executed") for reports in told.values())
        return told

    told = await eventually(ended, within_sec=30)
    for pair in pairs:
        assert sorted(told[order_id][-1] for order_id in pair) == ["fill", "sibling_executed"]
        assert [told[order_id].count("fill") for order_id in pair].count(1) == 1
    reports = await exchange.reports()
    exec_ids = [report.get("exec_id") or report["fill_id"] for report in reports]
    assert len(exec_ids) == len(set(exec_ids))
    await _check_positions(exchange, reports)


async def test_orders_that_are_journaled_leave_the_stream_and_nothing_is_executed_twice(
    start_venue: StartVenue, exchange: Exchange
) -> None:
    venue = start_venue(STORE__ORDERS_KEPT="3", STORE__ORDERS_TRIM_INTERVAL_SEC="0.1")
    await venue.until_healthy()
    await exchange.mark("45000")
    orders = [await exchange.new("alice") for _ in range(20)]
    js = exchange.client.jetstream()

    async def trimmed() -> bool:
        return (await js.stream_info(ORDERS)).state.messages == 3

    await eventually(trimmed)
    venue.kill()
    venue.start()
    await venue.until_healthy()
    await exchange.mark("45000")
    orders.append(await exchange.new("alice"))
    await eventually(lambda: _counted(exchange, 21))
    assert [report["order_id"] for report in await exchange.reports()] == orders


async def test_an_old_copy_of_the_journal_is_refused_instead_of_executing_again(
    venue: VenueProcess, exchange: Exchange
) -> None:
    await exchange.new("alice")
    await eventually(lambda: _counted(exchange, 1))
    venue.stop()
    copy = {file: file.read_bytes() for file in venue.journal.parent.glob("journal.sqlite3*")}
    venue.start()
    await venue.until_healthy()
    await exchange.mark("45000")
    await exchange.new("alice")
    await eventually(lambda: _counted(exchange, 2))
    venue.stop()
    for file in venue.journal.parent.glob("journal.sqlite3*"):
        file.unlink()
    for file, data in copy.items():
        file.write_bytes(data)
    venue.start()
    await eventually(lambda: any("old copy" in str(line) for line in venue.lines()), within_sec=10)
    assert await exchange.report_count() == 2
