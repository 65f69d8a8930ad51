"""Counts the calls of a worker's event loop between two signals; imported because this folder is on the path.

SIGUSR1 begins, SIGUSR2 writes the counts to the file `$PERF_CALLS.<pid>` as JSON and ends.
"""

import json
import os
import signal
import sys
from collections import Counter
from types import FrameType
from typing import Any

_TARGET = os.environ.get("PERF_CALLS")
_counts: Counter[str] = Counter()


def _count(frame: FrameType, event: str, argument: Any) -> None:
    if event == "call":
        code = frame.f_code
        _counts[f"{code.co_qualname} ({code.co_filename})"] += 1
    elif event == "c_call":
        _counts[f"{getattr(argument, '__qualname__', argument)} (C)"] += 1


def _begin(number: int, frame: FrameType | None) -> None:
    _counts.clear()
    sys.setprofile(_count)


def _end(number: int, frame: FrameType | None) -> None:
    sys.setprofile(None)
    fresh = f"{_TARGET}.{os.getpid()}.new"
    with open(fresh, "w") as file:
        json.dump(_counts, file)
    os.replace(fresh, f"{_TARGET}.{os.getpid()}")


# Workers alone: a signal without a handler would end the supervisor.
if _TARGET and "TRADE2026_WORKER_INDEX" in os.environ:
    signal.signal(signal.SIGUSR1, _begin)
    signal.signal(signal.SIGUSR2, _end)
