import subprocess
import sys
import textwrap
import time

import pytest

from services.runtime.ids import Numbers, new_order_id, new_ulid

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def value_of(ulid: str) -> int:
    value = 0
    for character in ulid:
        value = value * 32 + ALPHABET.index(character)
    return value


def test_a_ulid_is_26_characters_of_128_bits() -> None:
    ulid = new_ulid()
    assert len(ulid) == 26
    assert value_of(ulid) < 1 << 128


def test_the_first_48_bits_of_a_ulid_are_the_milliseconds_of_its_making() -> None:
    before = time.time_ns() // 1_000_000
    moment = value_of(new_ulid()) >> 80
    assert before <= moment <= time.time_ns() // 1_000_000


def test_the_first_ulids_of_milliseconds_are_random_in_every_bit_but_the_highest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moments = iter(range(0, 1 << 63, 1_000_000))
    monkeypatch.setattr(time, "time_ns", lambda: next(moments))
    ones = zeros = 0
    numbers = Numbers()
    for _ in range(200):
        _, chance = numbers.draw()
        ones |= chance
        zeros |= ~chance
    random_bits = (1 << 79) - 1  # the highest is left for what is made later in the millisecond
    assert ones & random_bits == random_bits
    assert zeros & random_bits == random_bits


def test_every_ulid_is_larger_than_the_one_before() -> None:
    ulids = [new_ulid() for _ in range(2000)]
    assert ulids == sorted(set(ulids))


@pytest.mark.parametrize(
    ("back_ms", "followed"), [(1, False), (900, False), (1_100, True), (3_600_000, True)]
)
def test_a_clock_that_is_set_back_is_followed_when_it_is_by_more_than_a_second(
    monkeypatch: pytest.MonkeyPatch, back_ms: int, followed: bool
) -> None:
    now_ms = 4_000_000
    monkeypatch.setattr(time, "time_ns", lambda: now_ms * 1_000_000)
    numbers = Numbers()
    before = numbers.draw()
    now_ms -= back_ms
    after = numbers.draw()
    assert (after < before) is followed
    assert after[0] == (now_ms if followed else before[0])


def test_what_has_no_room_in_its_millisecond_is_given_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 7_000_000)
    numbers = Numbers()
    drawn = [numbers.draw() for _ in range(5_000)]
    assert drawn == sorted(set(drawn))
    assert drawn[0][0] == 7 < drawn[-1][0]
    assert all(chance < 1 << 80 for _, chance in drawn)


def test_a_forked_process_draws_other_ulids() -> None:
    program = textwrap.dedent(
        """
        import os
        from services.runtime.ids import new_ulid
        child = os.fork()
        drawn = new_ulid()[10:]
        if child:
            os.waitpid(child, 0)  # two that print at once would mix their lines
        print(drawn, flush=True)
        """
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert len(set(printed.stdout.split())) == 2


def test_an_order_id_holds_its_account() -> None:
    account, _, ulid = new_order_id("desk-7_a").rpartition("-")
    assert account == "desk-7_a"
    assert len(ulid) == 26
