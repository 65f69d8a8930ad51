"""Who makes way, and for how long."""

import asyncio

import pytest

from services.runtime import urgency
from services.runtime.urgency import Urgency
from tests.support import eventually


async def test_it_is_quiet_until_an_urgent_call_begins_and_again_some_time_after_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(urgency, "QUIET_SEC", 0.1)
    calls = Urgency()
    assert calls.is_quiet()
    await calls.until_quiet()
    loop = asyncio.get_running_loop()
    last = 0.0
    for _ in range(4):
        last = loop.time()
        calls.begun()
        assert not calls.is_quiet()
        await asyncio.sleep(0.03)
    await calls.until_quiet()
    assert loop.time() - last >= 0.1
    calls.begun()
    assert not calls.is_quiet()


async def test_the_end_lets_everybody_go_on() -> None:
    calls = Urgency()
    calls.begun()
    waiting = asyncio.create_task(calls.until_quiet())
    await asyncio.sleep(0)
    assert not waiting.done()
    calls.end()
    await eventually(waiting.done)
