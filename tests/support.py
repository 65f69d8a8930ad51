"""What tests of every kind share: waiting for a condition, and names that no other test uses."""

from __future__ import annotations

import asyncio
import inspect
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

import psutil

T = TypeVar("T")


@overload
async def eventually(
    condition: Callable[[], Awaitable[T]], *, within_sec: float = ..., every_sec: float = ...
) -> T: ...
@overload
async def eventually(condition: Callable[[], T], *, within_sec: float = ..., every_sec: float = ...) -> T: ...
async def eventually(
    condition: Callable[[], Any], *, within_sec: float = 5.0, every_sec: float = 0.02
) -> Any:
    """First true value of a condition, a function or a coroutine function; an AssertionError at the deadline.

    A condition may also assert: its AssertionError counts as not yet true, and the last one is the reason.
    """
    deadline = time.monotonic() + within_sec
    while True:
        reason: object
        try:
            outcome = condition()
            value = await outcome if inspect.isawaitable(outcome) else outcome
            if value:
                return value
            reason = value
        except AssertionError as error:
            reason = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {within_sec} s; last: {reason!r}")
        await asyncio.sleep(every_sec)


def wait_until(condition: Callable[[], T], *, within_sec: float = 5.0, every_sec: float = 0.02) -> T:
    """`eventually` for a test that is not a coroutine."""
    deadline = time.monotonic() + within_sec
    while True:
        reason: object
        try:
            value = condition()
            if value:
                return value
            reason = value
        except AssertionError as error:
            reason = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {within_sec} s; last: {reason!r}")
        time.sleep(every_sec)


def is_gone(pid: int) -> bool:
    """Whether a process has ended, be it reaped or not."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def nested(payload: bytes) -> bytes:
    """The JSON object `payload` with one more member, of 2 KB, that is nested deeper than a reader goes."""
    return payload[:-1] + b',"x":' + b"[" * 1_000 + b"]" * 1_000 + b"}"


def unique_account(prefix: str = "account") -> str:
    """An account name that no other test uses."""
    return f"{prefix}_{uuid.uuid4().hex[:12]}"
