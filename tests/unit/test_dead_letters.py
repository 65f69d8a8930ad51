"""The one shape of a dead letter."""

from __future__ import annotations

import base64
import json

import pytest

from services.dead_letters import LARGEST_DATA, LONGEST_REASON, dead_letter, read_dead_letter, refusal
from services.messages import BadMessage
from services.runtime.journal_reader import Message
from services.runtime.streams import EXECUTIONS
from tests.support import nested


def letter_of(data: bytes) -> bytes:
    return dead_letter(EXECUTIONS, Message(7, "3.fills.alice", data, None, 99), "price is missing")


def test_text_is_kept_as_text_with_where_it_stands_and_why_it_was_refused() -> None:
    assert json.loads(letter_of(b'{"a": 1}')) == {
        "version": 1,
        "reason": "price is missing",
        "stream": "EXECUTIONS",
        "sequence": 7,
        "subject": "3.fills.alice",
        "time_ns": 99,
        "text": '{"a": 1}',
        "base64": None,
        "truncated": False,
    }


def test_bytes_that_are_no_text_are_kept_as_base64() -> None:
    letter = read_dead_letter(letter_of(b"\xff\x00"))
    assert letter.text is None
    assert base64.b64decode(letter.base64 or "") == b"\xff\x00"


@pytest.mark.parametrize(("size", "truncated"), [(LARGEST_DATA, False), (LARGEST_DATA + 1, True)])
def test_a_long_payload_is_cut_and_says_so(size: int, truncated: bool) -> None:
    letter = read_dead_letter(letter_of(b"x" * size))
    assert (len(letter.text or ""), letter.truncated) == (LARGEST_DATA, truncated)


def test_a_long_reason_is_cut_so_that_the_letter_fits_into_its_stream() -> None:
    letter = dead_letter(EXECUTIONS, Message(7, "3.fills.alice", b"", None, 99), "no " * 1_000_000)
    assert len(read_dead_letter(letter).reason) == LONGEST_REASON


@pytest.mark.parametrize("payload", [b"", b"[]", b"\xff", pytest.param(nested(letter_of(b"")), id="nested")])
def test_what_is_no_letter_says_so(payload: bytes) -> None:
    with pytest.raises(BadMessage):
        read_dead_letter(payload)


def test_reading_that_fails_is_a_reason_whatever_the_error() -> None:
    assert refusal(BadMessage("price is missing")) == "price is missing"
    assert refusal(ZeroDivisionError("x"), sequence=7) == "internal error: ZeroDivisionError"


def test_lack_of_memory_says_nothing_of_the_message() -> None:
    with pytest.raises(MemoryError):
        refusal(MemoryError())
