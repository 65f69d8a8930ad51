"""Loaded by every Python process of a service under test: a wall clock that the test can set.

`ROBUSTNESS_CLOCK` names a file of eight bytes, the offset in nanoseconds, which is mapped: a jump reaches all
workers at once. Only the wall clock moves, as when an operator or NTP sets a machine's clock.
"""

import mmap
import os
import struct
import time

if "ROBUSTNESS_CLOCK" in os.environ:
    with open(os.environ["ROBUSTNESS_CLOCK"], "rb") as _file:
        _offset = mmap.mmap(_file.fileno(), 8, access=mmap.ACCESS_READ)
    _time_ns = time.time_ns
    _read = struct.Struct("<q").unpack_from

    def _shifted_ns() -> int:
        return _time_ns() + int(_read(_offset)[0])

    def _shifted() -> float:
        return _shifted_ns() / 1e9

    time.time_ns = _shifted_ns
    time.time = _shifted
