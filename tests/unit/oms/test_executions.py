"""Which events of a message of the journal are told, and the ending of tasks that resist."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ledger.codec import Commit
from services.ledger.events import Event, Registered
from services.oms.executions import events_after, first_event, last_event
from services.runtime.errors import Unavailable
from services.runtime.tasks import end


def commits(*spans: tuple[int, int]) -> tuple[Commit, ...]:
    """Commits that hold the events from … to, both included."""
    events: list[tuple[Event, ...]] = [tuple(Registered() for _ in range(a, b + 1)) for a, b in spans]
    return tuple(Commit("a", span[0], 1_000, happened) for span, happened in zip(spans, events, strict=True))


def numbers(message: tuple[Commit, ...], seen: int) -> list[int]:
    return [one.number for one in events_after(message, seen)]


def test_a_message_is_told_whole_or_from_the_first_event_not_seen() -> None:
    message = commits((4, 4), (5, 7))
    assert (first_event(message), last_event(message)) == (4, 7)
    assert numbers(message, 3) == [4, 5, 6, 7]
    assert numbers(message, 5) == [6, 7]
    assert numbers(message, 7) == []
    assert numbers(message, 100) == []


def test_a_missing_event_is_an_error_and_never_skipped() -> None:
    with pytest.raises(Unavailable):
        numbers(commits((6, 7)), 4)
    with pytest.raises(Unavailable):
        numbers(commits((1, 2), (4, 5)), 0)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 6)), max_size=20))
def test_repeated_and_overlapping_messages_tell_every_event_once(again: list[tuple[int, int]]) -> None:
    """The relay starts anew from anywhere at or before the end: the whole is told without gap or double."""
    told: list[int] = []
    last = 0
    for back, length in again:
        begin = max(1, last + 1 - back)
        until = max(begin, last + length)
        told += numbers(commits((begin, until)), told[-1] if told else 0)
        last = max(last, until)
    assert told == list(range(1, last + 1))


async def test_a_task_that_forgets_a_cancellation_is_ended() -> None:
    cancellations = 0

    async def forgetful() -> None:
        nonlocal cancellations
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancellations += 1
                if cancellations == 2:
                    raise

    task = asyncio.create_task(forgetful())
    await asyncio.sleep(0)
    await end(task)
    assert task.cancelled()
    assert cancellations == 2


async def test_the_error_of_an_ended_task_is_not_raised_again() -> None:
    async def fails() -> None:
        raise ValueError

    task = asyncio.create_task(fails())
    await asyncio.wait({task})
    await end(task)
