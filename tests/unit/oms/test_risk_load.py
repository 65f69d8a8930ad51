"""How much is asked of risk: what a call teaches about the next, and when a queue is overload."""

from __future__ import annotations

import random

import pytest

from services.oms.risk_load import BEGIN, LEAST, LEAST_A_SECOND, SHRINK, Backlog, Window

DEADLINE_SEC = 0.005
IN_TIME_MS = 2.0
LATE_MS = 4.5


def test_a_window_grows_by_one_for_each_windowful_answered_in_time() -> None:
    window = Window(DEADLINE_SEC, 128)
    window.answered(BEGIN // 2, BEGIN // 2, IN_TIME_MS)
    assert window.size == BEGIN
    for _ in range(2):
        window.answered(BEGIN // 2, BEGIN // 2, IN_TIME_MS)
    assert window.size == BEGIN + 1


def test_a_call_that_was_not_full_teaches_nothing_of_more() -> None:
    window = Window(DEADLINE_SEC, 128)
    for _ in range(1000):
        window.answered(1, 16, IN_TIME_MS)
    assert window.size == BEGIN


def test_a_missed_call_shrinks_it_and_an_answer_just_in_time_leaves_it() -> None:
    window = Window(DEADLINE_SEC, 128)
    window.answered(16, 16, LATE_MS)
    assert window.size == BEGIN
    window.missed(16, 16)
    assert window.size == int(BEGIN * SHRINK)


def test_a_small_call_that_is_late_is_no_sign_of_too_much() -> None:
    window = Window(DEADLINE_SEC, 128)
    window.missed(8, 16)
    assert window.size == BEGIN


def test_its_bounds_are_what_the_documented_load_needs_and_what_it_was_given() -> None:
    window = Window(DEADLINE_SEC, 128)
    longer = Window(0.05, 128)
    for _ in range(100):
        window.missed(16, 16)
        longer.missed(64, 64)
    assert window.size == LEAST
    assert longer.size == 0.05 * LEAST_A_SECOND
    for _ in range(20_000):
        window.answered(64, 64, IN_TIME_MS)
    assert window.size == 128
    assert Window(DEADLINE_SEC, 4).size == 4
    assert Window(0.0001, 128).size == BEGIN
    # With much time for an answer there is nothing to learn.
    patient = Window(2.0, 128)
    patient.missed(64, 64)
    assert patient.size == 128


@pytest.mark.parametrize("capacity", [20, 60])
def test_it_finds_what_is_answered_in_time(capacity: int) -> None:
    """A call takes 0.1 ms and the rest in proportion to its orders; `capacity` of them take the deadline."""
    window = Window(DEADLINE_SEC, 128)
    sizes = []
    for _ in range(4000):
        orders = window.size
        latency_ms = 0.1 + (DEADLINE_SEC * 1e3 - 0.1) * orders / capacity
        if latency_ms < DEADLINE_SEC * 1e3:
            window.answered(orders, orders, latency_ms)
        else:
            window.missed(orders, orders)
        sizes.append(window.size)
    settled = sizes[2000:]
    assert capacity * 0.6 <= sum(settled) / len(settled) <= capacity


def served(*, arrivals: float, service: float, seconds: float, bound: float = 1.0) -> list[float | None]:
    """Waits of orders at a queue that takes what `Backlog` takes; None: refused. Virtual time."""
    backlog = Backlog(bound)
    choose = random.Random(7)
    waiting: list[float] = []
    waits: list[float | None] = []
    now, next_arrival, next_leave = 0.0, 0.0, 0.0
    while now < seconds:
        now = min(next_arrival, next_leave)
        if now == next_arrival:
            next_arrival = now + choose.expovariate(arrivals)
            if backlog.refuses(now, len(waiting), waiting[0] if waiting else now):
                waits.append(None)
            else:
                waiting.append(now)
        else:
            next_leave = now + 1 / service
            if waiting:
                waits.append(now - waiting.pop(0))
                backlog.left(1)
    return waits


def test_nothing_is_refused_below_what_can_be_served() -> None:
    assert None not in served(arrivals=800, service=1000, seconds=60)


@pytest.mark.parametrize("arrivals", [1500, 3000, 10_000])
def test_beyond_it_what_is_taken_waits_about_as_long_as_the_bound_and_no_place_is_wasted(
    arrivals: float,
) -> None:
    waits = served(arrivals=arrivals, service=1000, seconds=60)
    settled = waits[len(waits) // 2 :]
    taken = [wait for wait in settled if wait is not None]
    assert max(taken) < 1.5
    share = len(taken) / len(settled)
    assert share == pytest.approx(1000 / arrivals, rel=0.05)


def test_a_burst_is_taken_whole_and_what_comes_later_is_refused_while_it_is_worked_off() -> None:
    backlog = Backlog(1.0)
    for number in range(10_000):
        assert not backlog.refuses(number * 1e-5, number, 0.0)
    for second in range(1, 9):
        backlog.left(1000)
        assert backlog.refuses(second + 0.1, 10_000 - 1000 * second, 0.05)
    # The queue is as short as what leaves within the bound.
    backlog.left(1000)
    assert not backlog.refuses(9.1, 900, 0.05)


def test_a_queue_that_stands_but_moves_fast_enough_is_no_overload() -> None:
    backlog = Backlog(1.0)
    assert not backlog.refuses(0.0, 0, 0.0)
    backlog.left(3000)
    assert not backlog.refuses(1.5, 1000, 0.4)
    assert backlog.refuses(1.6, 3000, 0.4)


def test_overload_is_over_when_the_queue_was_empty() -> None:
    backlog = Backlog(1.0)
    assert backlog.refuses(5.0, 100, 1.0)
    assert not backlog.refuses(6.0, 0, 6.0)
    assert not backlog.refuses(6.1, 5000, 6.05)
