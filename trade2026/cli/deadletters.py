"""`trade2026 deadletters`: the newest messages that somebody could not use, with the reason."""

import argparse
import asyncio
import sys
from datetime import UTC, datetime
from typing import Final

import nats
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from services.dead_letters import DeadLetter, read_dead_letter
from services.messages import BadMessage
from services.runtime.streams import DEADLETTER

_TIMEOUT_SEC: Final = 3
_SHOWN: Final = 200


def run(options: argparse.Namespace) -> int:
    """Prints up to `options.lines` letters, oldest first; 1 when the stream cannot be read."""
    try:
        asyncio.run(_print(options.nats, options.lines))
    except (NatsError, OSError, TimeoutError) as error:
        print(f"{options.nats}: {type(error).__name__}: {error}".strip(": "), file=sys.stderr)
        return 1
    return 0


async def _print(url: str, count: int) -> None:
    async with asyncio.timeout(_TIMEOUT_SEC):  # the library alone goes on for two minutes
        client = await nats.connect(url, allow_reconnect=False)
    try:
        js = client.jetstream(timeout=_TIMEOUT_SEC)
        state = (await js.stream_info(DEADLETTER)).state
        for sequence in range(max(state.first_seq, state.last_seq - count + 1), state.last_seq + 1):
            try:
                message = await js.get_msg(DEADLETTER, sequence)
            except NotFoundError:
                continue  # somebody removed it
            try:
                print(line(message.subject or "", read_dead_letter(message.data or b"")))
            except BadMessage:
                print(f"{message.subject} {sequence}: not a dead letter of this version")
    finally:
        await client.close()


def line(subject: str, letter: DeadLetter) -> str:
    """One letter: when, what was refused, where it stands, why, and how it begins."""
    time = datetime.fromtimestamp(letter.time_ns // 1_000_000_000, UTC).isoformat()
    content = letter.text if letter.text is not None else f"base64 {letter.base64}"
    shown = content if len(content) <= _SHOWN else f"{content[:_SHOWN]}…"
    return f"{time} {subject} {letter.stream}:{letter.sequence} {letter.subject}: {letter.reason}: {shown!r}"
