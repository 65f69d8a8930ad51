import subprocess
import sys
import textwrap
import time

import pytest

from services.runtime.ids import new_order_id, new_ulid

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
    time.sleep(0.02)  # many that were made at once take their time from the next milliseconds
    before = time.time_ns() // 1_000_000
    moment = value_of(new_ulid()) >> 80
    assert before <= moment <= time.time_ns() // 1_000_000


def test_the_first_ulids_of_milliseconds_are_random_in_every_bit_but_the_highest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moments = iter(range(time.time_ns(), 1 << 63, 1_000_000))
    monkeypatch.setattr(time, "time_ns", lambda: next(moments))
    ones = zeros = 0
    for _ in range(200):
        value = value_of(new_ulid())
        ones |= value
        zeros |= ~value
    random_bits = (1 << 79) - 1  # the highest is left for what is made later in the millisecond
    assert ones & random_bits == random_bits
    assert zeros & random_bits == random_bits


def test_every_ulid_is_larger_than_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    ulids = [new_ulid() for _ in range(2000)]
    assert ulids == sorted(set(ulids))
    early = time.time_ns() - 3_600_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: early)
    assert new_ulid() > ulids[-1]


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
