import time

import pytest

from services.runtime.clock import Clock, ManualClock, SystemClock


def test_the_system_clock_tells_the_machine_s_time() -> None:
    clock: Clock = SystemClock()
    assert abs(clock.now_ns() - time.time_ns()) < 1_000_000_000
    assert abs(clock.monotonic() - time.monotonic()) < 1


def test_a_manual_clock_stands_still_until_it_is_moved() -> None:
    clock = ManualClock(now_ns=5_000_000_000, monotonic=10.0)
    assert (clock.now_ns(), clock.monotonic()) == (5_000_000_000, 10.0)
    clock.advance(0.25)
    assert (clock.now_ns(), clock.monotonic()) == (5_250_000_000, 10.25)


def test_setting_the_wall_clock_back_leaves_the_monotonic_clock() -> None:
    clock = ManualClock(now_ns=5_000_000_000, monotonic=10.0)
    clock.set_wall_clock(1)
    assert (clock.now_ns(), clock.monotonic()) == (1, 10.0)


def test_a_manual_clock_refuses_to_go_back() -> None:
    with pytest.raises(ValueError, match="forward"):
        ManualClock().advance(-1)
