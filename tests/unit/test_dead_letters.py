"""The one shape of a dead letter."""

from __future__ import annotations

import base64
import json

import pytest

from services.dead_letters import LARGEST_DATA, dead_letter, read_dead_letter
from services.runtime.journal_reader import Message
from services.runtime.streams import EXECUTIONS


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
