"""Bodies that come late are given up, and nothing else is."""

from __future__ import annotations

import asyncio

import pytest

from gateway_http.body_clock import BodyClock
from gateway_http.failures import BodyTooSlow


async def comes(body: asyncio.Future[bytes]) -> bytes:
    return await body


async def test_a_body_that_is_there_is_returned_and_forgotten() -> None:
    clock = BodyClock(0.05)
    body = asyncio.get_running_loop().create_future()
    body.set_result(b"x")
    assert await clock.bound(comes(body)) == b"x"
    # Long after its time would have been up, this task is not cancelled.
    await asyncio.sleep(0.1)


async def test_each_body_has_its_own_time() -> None:
    clock, loop = BodyClock(0.2), asyncio.get_running_loop()

    async def late() -> float:
        began = loop.time()
        with pytest.raises(BodyTooSlow):
            await clock.bound(comes(loop.create_future()))
        return loop.time() - began

    first = asyncio.create_task(late())
    await asyncio.sleep(0.1)
    second = asyncio.create_task(late())
    assert min(await first, await second) >= 0.199
    # One that begins when nobody waits is looked at again.
    assert await late() >= 0.199


async def test_who_cancels_the_task_is_obeyed() -> None:
    clock, loop = BodyClock(0.05), asyncio.get_running_loop()
    waiting = asyncio.create_task(clock.bound(comes(loop.create_future())))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_task_that_was_told_of_its_late_body_goes_on() -> None:
    clock, loop = BodyClock(0.02), asyncio.get_running_loop()

    async def request() -> str:
        try:
            await clock.bound(comes(loop.create_future()))
        except BodyTooSlow:
            await asyncio.sleep(0)
            return "answered"
        return "read"

    assert await asyncio.create_task(request()) == "answered"
