"""Ends in order: servers that were started are stopped when the command is asked to end."""

from __future__ import annotations

import signal
import sys
from types import FrameType


def stop_in_order() -> None:
    """Turns SIGTERM into the exit of the main thread, so that every `with` block is left."""

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)
