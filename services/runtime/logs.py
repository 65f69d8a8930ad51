"""Log lines of a process: JSON on standard output.

A call builds its line at once (3 µs) and puts it into a buffer; one thread writes what has gathered in a
single write, at most 50 ms later and at exit, so that neither a slow reader of the output nor the system call
is felt by the event loop. A call below the level is one empty function call.
"""

import atexit
import logging
import os
import stat
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from typing import Final, Literal, Protocol

import msgspec

Level = Literal["DEBUG", "INFO", "WARNING", "ERROR"]

FLUSH_AFTER_SEC: Final = 0.02
"""How long the writer lets lines gather after the first."""
MAX_BUFFERED_LINES: Final = 100_000
"""Lines kept while the output does not take them; later ones are dropped and counted."""
_FILE_WRITE_BYTES: Final = 1 << 20
_ATOMIC_PIPE_BYTES: Final = 4096


class LogCall(Protocol):
    """One level of a logger."""

    def __call__(self, message: str, /, *, exc_info: BaseException | None = None, **facts: object) -> None:
        """Writes one line. `message` is a constant sentence, so that it can be searched for; what varies is a
        fact.

        `exc_info` adds the exception with its traceback as `exception`. Decimals are printed exactly as
        numbers, types that JSON does not have as their `str`.
        """


class Logger:
    """Writes lines of one part of the program; made by `get_logger`."""

    __slots__ = ("_common", "debug", "error", "info", "warning")

    debug: LogCall
    info: LogCall
    warning: LogCall
    error: LogCall

    def __init__(self, common: Mapping[str, object]) -> None:
        self._common = common
        self._set_level()

    def _set_level(self) -> None:
        lowest = _LEVELS.index(_process.level)
        self.debug, self.info, self.warning, self.error = (
            self._call(level) if position >= lowest else _nothing for position, level in enumerate(_LEVELS)
        )

    def _call(self, level: Level) -> LogCall:
        common = self._common

        def call(message: str, /, *, exc_info: BaseException | None = None, **facts: object) -> None:
            if exc_info is not None:
                facts["exception"] = "".join(traceback.format_exception(exc_info))
            _emit(_line(level, message, common, facts))

        return call


def get_logger(name: str) -> Logger:
    """A logger whose lines carry `name` as `logger`; may be made at import, before the level is known."""
    logger = Logger({"logger": name})
    _loggers.append(logger)
    return logger


def configure_logging(
    service: str, level: Level = "INFO", worker: int | str = 0, descriptor: int = 1
) -> None:
    """Sends the process's lines to the file `descriptor`. To be called once, first thing in a process.

    `level` is the lowest that is written. `worker` is the index of the worker process, or "supervisor".
    """
    _process.service, _process.worker, _process.level = service, worker, level
    if _process.writer is None:
        _process.writer = _Writer(descriptor)
        atexit.register(flush_logs)
    for logger in _loggers:
        logger._set_level()
    root = logging.getLogger()
    root.handlers[:] = [_FromStandardLogging()]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = lambda _kind, error, _trace: _unhandled(error)


def flush_logs() -> None:
    """Writes everything that is still buffered; returns when it is written."""
    if _process.writer is not None:
        _process.writer.flush()


class _Writer:
    """Gathers lines and writes them from a thread of its own."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        # Several processes share the output. In a pipe, only writes of up to PIPE_BUF bytes stay in one
        # piece.
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._largest = _FILE_WRITE_BYTES if regular else _ATOMIC_PIPE_BYTES
        self._lines: list[bytes] = []
        self._dropped = 0
        self._arrived = threading.Event()
        self._writing = threading.Lock()
        threading.Thread(target=self._run, name="log-writer", daemon=True).start()

    def add(self, line: bytes) -> None:
        lines = self._lines
        if len(lines) >= MAX_BUFFERED_LINES:
            self._dropped += 1
            return
        lines.append(line)
        if len(lines) == 1:
            self._arrived.set()

    def flush(self) -> None:
        with self._writing:
            # The list is never replaced: `add` may stand between reading the attribute and appending. A line
            # that arrives during the write finds the list not empty, so it wakes nobody and the next round
            # writes it.
            lines = self._lines
            while lines:
                count = len(lines)
                self._write(lines[:count])
                del lines[:count]
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                self._write(
                    [_line("WARNING", "log lines dropped", {"logger": "runtime.logs"}, {"count": dropped})]
                )

    def _run(self) -> None:
        while True:
            self._arrived.wait()
            time.sleep(FLUSH_AFTER_SEC)
            self._arrived.clear()
            self.flush()

    def _write(self, lines: list[bytes]) -> None:
        first = size = 0
        for position, line in enumerate(lines):
            if size and size + len(line) > self._largest:
                self._write_all(b"".join(lines[first:position]))
                first, size = position, 0
            size += len(line)
        self._write_all(b"".join(lines[first:]))

    def _write_all(self, text: bytes) -> None:
        rest = memoryview(text)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                time.sleep(0.001)
            except OSError:
                return  # nobody reads the output any more


class _Process:
    """What every line of this process carries."""

    service = "trade2026"
    worker: int | str = 0
    level: Level = "INFO"
    writer: _Writer | None = None
    second: tuple[int, str] = (-1, "")


_LEVELS: Final[tuple[Level, ...]] = ("DEBUG", "INFO", "WARNING", "ERROR")
_process: Final = _Process()
_loggers: Final[list[Logger]] = []
_encode: Final = msgspec.json.Encoder(decimal_format="number", enc_hook=str).encode


def _timestamp() -> str:
    now = time.time_ns()
    second, text = _process.second
    if now // 1_000_000_000 != second:
        second = now // 1_000_000_000
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        # One assignment of both: another thread may be here too.
        _process.second = (second, text)
    return f"{text}.{now // 1000 % 1_000_000:06d}Z"


def _line(level: str, message: str, common: Mapping[str, object], facts: Mapping[str, object]) -> bytes:
    record = {
        "timestamp": _timestamp(),
        "level": level,
        "service": _process.service,
        "worker": _process.worker,
        "message": message,
        **common,
        **facts,
    }
    try:
        return _encode(record) + b"\n"
    except (TypeError, ValueError, RecursionError):
        return _encode({key: str(value) for key, value in record.items()}) + b"\n"


def _emit(line: bytes) -> None:
    writer = _process.writer
    if writer is None:
        sys.stdout.write(line.decode())  # a test or a tool that did not configure logging
    else:
        writer.add(line)


def _nothing(message: str, /, *, exc_info: BaseException | None = None, **facts: object) -> None:
    """A call below the level."""


class _FromStandardLogging(logging.Handler):
    """Lines of libraries that use the standard logging module."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            message = str(record.msg)
        facts: dict[str, object] = {}
        if record.exc_info is not None and record.exc_info[1] is not None:
            facts["exception"] = "".join(traceback.format_exception(record.exc_info[1]))
        _emit(_line(record.levelname, message, {"logger": record.name}, facts))


def _unhandled(error: BaseException) -> None:
    facts = {"exception": "".join(traceback.format_exception(error))}
    _emit(_line("ERROR", "unhandled exception", {"logger": "runtime.logs"}, facts))
    flush_logs()
