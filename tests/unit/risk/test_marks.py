"""Ages of marks, and ticks that are none."""

from __future__ import annotations

from decimal import Decimal

import pytest

from services.messages import Tick, encode
from services.risk.checks.market import Quote
from services.risk.mark_rules import JumpRule
from services.risk.marks import Marks
from services.runtime.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def marks_of(clock: ManualClock, fallback_to_last: bool = False) -> Marks:
    return Marks(
        ["BTCUSDT", "ETHUSDT"],
        clock,
        JumpRule(Decimal(10), 3),
        max_age_sec=60,
        held_max_age_sec=300,
        fallback_to_last=fallback_to_last,
    )


def tick(marks: Marks, price: str = "45000", symbol: str = "BTCUSDT", subject: str = "") -> None:
    payload = encode(Tick(symbol=symbol, price=Decimal(price), timestamp=Decimal(1)))
    marks.take(subject or f"ticks.{symbol}", payload)


def test_without_a_tick_there_is_no_quote(clock: ManualClock) -> None:
    assert marks_of(clock).quote("BTCUSDT") is None


@pytest.mark.parametrize(
    ("age", "fresh", "usable"),
    [(0, True, True), (59.9, True, True), (60, False, True), (299.9, False, True), (300, False, False)],
)
def test_age_decides_what_a_mark_is_good_for(
    clock: ManualClock, age: float, fresh: bool, usable: bool
) -> None:
    marks = marks_of(clock)
    tick(marks)
    clock.advance(age)
    assert marks.quote("BTCUSDT") == Quote(Decimal(45000), fresh, usable)


def test_the_wall_clock_and_the_tick_s_own_time_do_not_matter(clock: ManualClock) -> None:
    marks = marks_of(clock)
    tick(marks)
    clock.set_wall_clock(0)
    quote = marks.quote("BTCUSDT")
    assert quote is not None
    assert quote.fresh


def test_a_tick_renews_the_mark_even_at_the_same_price(clock: ManualClock) -> None:
    marks = marks_of(clock)
    tick(marks)
    clock.advance(50)
    tick(marks)
    clock.advance(50)
    assert marks.quote("BTCUSDT") == Quote(Decimal(45000), fresh=True)


def test_a_jump_keeps_the_old_price_until_it_is_confirmed(clock: ManualClock) -> None:
    marks = marks_of(clock)
    tick(marks)
    prices = []
    for _ in range(3):
        tick(marks, "60000")
        quote = marks.quote("BTCUSDT")
        assert quote is not None
        prices.append(quote.price)
    assert prices == [45000, 45000, 60000]


def test_a_stale_mark_counts_as_fresh_when_that_is_configured(clock: ManualClock) -> None:
    marks = marks_of(clock, fallback_to_last=True)
    assert marks.quote("BTCUSDT") is None
    tick(marks)
    clock.advance(10_000)
    assert marks.quote("BTCUSDT") == Quote(Decimal(45000), fresh=True)


@pytest.mark.parametrize(
    ("subject", "payload"),
    [
        ("ticks.BTCUSDT", b"nonsense"),
        ("ticks.BTCUSDT", b'{"symbol":"BTCUSDT","price":0,"timestamp":1}'),
        ("ticks.BTCUSDT", b'{"symbol":"BTCUSDT","price":-5,"timestamp":1}'),
        ("ticks.BTCUSDT", b'{"symbol":"BTCUSDT","price":1e40,"timestamp":1}'),
        ("ticks.BTCUSDT", b'{"symbol":"BTCUSDT","price":NaN,"timestamp":1}'),
        ("ticks.BTCUSDT", b'{"symbol":"BTCUSDT","timestamp":1}'),
        ("ticks.ETHUSDT", b'{"symbol":"BTCUSDT","price":5,"timestamp":1}'),
        ("ticks.BTCUSDT.x", b'{"symbol":"BTCUSDT","price":5,"timestamp":1}'),
        ("ticks.DOGE", b'{"symbol":"DOGE","price":5,"timestamp":1}'),
        ("ticks.BTCUSDT", b"\xff"),
    ],
)
def test_a_bad_tick_changes_nothing(clock: ManualClock, subject: str, payload: bytes) -> None:
    marks = marks_of(clock)
    tick(marks, "45000")
    marks.take(subject, payload)
    assert marks.quote("BTCUSDT") == Quote(Decimal(45000), fresh=True)
    assert marks.quote("DOGE") is None


async def test_the_probe_names_symbols_without_a_fresh_mark(clock: ManualClock) -> None:
    marks = marks_of(clock)
    tick(marks)
    with pytest.raises(LookupError, match=r"no fresh mark of ETHUSDT$"):
        await marks.probe()
    tick(marks, symbol="ETHUSDT", price="2400")
    await marks.probe()
    clock.advance(61)
    with pytest.raises(LookupError, match="BTCUSDT, ETHUSDT"):
        await marks.probe()
