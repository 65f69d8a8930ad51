"""Log lines of a process: JSON on standard output.

A call builds its line at once and puts it into a buffer; one thread writes what has gathered in a single
write, at most 50 ms later and at exit, so that neither a slow reader of the output nor the system call is
felt by the event loop. A DEBUG call below the level costs one empty function call.
"""

import atexit
import logging
import os
import stat
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final, Protocol, cast

import msgspec
import structlog

FLUSH_AFTER_SEC: Final = 0.02
"""How long the writer lets lines gather after the first."""
MAX_BUFFERED_LINES: Final = 200_000
"""Lines kept while the output does not take them; later ones are dropped and counted."""
_ATOMIC_PIPE_WRITE: Final = 4096


class Logger(Protocol):
    """What `get_logger` returns. The first argument is a constant sentence, the facts are keywords."""

    def debug(self, event: str, **facts: object) -> object: ...
    def info(self, event: str, **facts: object) -> object: ...
    def warning(self, event: str, **facts: object) -> object: ...
    def error(self, event: str, **facts: object) -> object: ...


class _Writer:
    """Gathers lines and writes them from one thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        mode = os.fstat(descriptor).st_mode
        # Several processes share the output: in a pipe, only writes up to PIPE_BUF are not torn apart.
        self._chunk = 1 << 20 if stat.S_ISREG(mode) else _ATOMIC_PIPE_WRITE
        self._lines: list[bytes] = []
        self._dropped = 0
        self._wake = threading.Event()
        self._writing = threading.Lock()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def add(self, line: bytes) -> None:
        lines = self._lines
        if len(lines) >= MAX_BUFFERED_LINES:
            self._dropped += 1
            return
        lines.append(line)
        if len(lines) == 1:
            self._wake.set()

    def _run(self) -> None:
        while not self._stopped:
            self._wake.wait()
            time.sleep(FLUSH_AFTER_SEC)
            self._wake.clear()
            self.flush()

    def flush(self) -> None:
        with self._writing:
            # The list is never replaced: `add` may be between reading the attribute and appending. A line
            # that arrives during the write finds the list not empty, wakes nobody, and is written by the next
            # round.
            lines = self._lines
            while lines:
                count = len(lines)
                self._write(lines[:count])
                del lines[:count]
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                self._write([_line("WARNING", "log lines dropped", {"count": dropped})])

    def _write(self, lines: list[bytes]) -> None:
        start = size = 0
        for position, line in enumerate(lines):
            if size and size + len(line) > self._chunk:
                self._write_all(b"".join(lines[start:position]))
                start, size = position, 0
            size += len(line)
        self._write_all(b"".join(lines[start:]))

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:
                time.sleep(0.001)
            except OSError:
                return  # nobody reads the output any more

    def close(self) -> None:
        self._stopped = True
        self._wake.set()
        self.flush()


class _State:
    """What a line carries besides its facts; one a process."""

    service = "trade2026"
    worker: int | str = 0
    writer: _Writer | None = None
    second = -1
    prefix = ""


_encode: Final = msgspec.json.Encoder(decimal_format="number", enc_hook=str).encode


def _timestamp() -> str:
    now = time.time_ns()
    second = now // 1_000_000_000
    if second != _State.second:
        _State.second = second
        _State.prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
    return f"{_State.prefix}.{now // 1000 % 1_000_000:06d}Z"


def _line(level: str, message: str, facts: Mapping[str, object]) -> bytes:
    record = {
        "timestamp": _timestamp(),
        "level": level,
        "service": _State.service,
        "worker": _State.worker,
        "message": message,
        **facts,
    }
    try:
        return _encode(record) + b"\n"
    except (TypeError, ValueError, RecursionError):
        return _encode({key: str(value) for key, value in record.items()}) + b"\n"


class _Sink:
    """The innermost logger of structlog: gets (level, message, facts), keeps the line."""

    def msg(self, level: str, message: str, facts: Mapping[str, object]) -> None:
        line = _line(level, message, facts)
        writer = _State.writer
        if writer is None:
            sys.stdout.write(line.decode())
        else:
            writer.add(line)

    debug = info = warning = error = critical = exception = msg


_LEVEL_NAMES: Final = {"warn": "WARNING", "exception": "ERROR"}


def _to_line(
    _logger: object, method: str, facts: MutableMapping[str, Any]
) -> tuple[tuple[str, str, Mapping[str, Any]], dict[str, Any]]:
    message = str(facts.pop("event", ""))
    failure = facts.pop("exc_info", None)
    if failure:
        facts["exception"] = _formatted(failure)
    return (_LEVEL_NAMES.get(method, method.upper()), message, facts), {}


def _formatted(failure: object) -> str:
    if isinstance(failure, BaseException):
        return "".join(traceback.format_exception(failure))
    current = sys.exc_info()[1]
    return "" if current is None else "".join(traceback.format_exception(current))


def configure_logging(service: str, level: str = "INFO", worker: int | str = 0, descriptor: int = 1) -> None:
    """Sends the process's log lines to `descriptor` as JSON. To be called once, first thing.

    `level` is the lowest that is written. `worker` is the index of the worker process, or "supervisor".
    """
    _State.service, _State.worker = service, worker
    if _State.writer is None:
        _State.writer = _Writer(descriptor)
        atexit.register(flush_logs)
    _set_level(level)
    _route_standard_logging()
    sys.excepthook = lambda _type, error, _traceback: _unhandled(error)


def _set_level(level: str) -> None:
    structlog.configure(
        processors=[cast(Any, _to_line)],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level)),
        context_class=dict,
        logger_factory=lambda *_: _Sink(),
        cache_logger_on_first_use=False,
    )
    for logger in _loggers:
        logger.rebind()


def flush_logs() -> None:
    """Writes everything that is still buffered; returns when it is written."""
    if _State.writer is not None:
        _State.writer.flush()


class _ModuleLogger:
    """A logger that may be made at import, before the level is known: its methods are rebound by the
    configuration."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.rebind()

    def rebind(self) -> None:
        bound = (
            structlog.get_logger().bind(logger=self._name) if self._name else structlog.get_logger().bind()
        )
        self.debug: Callable[..., object] = bound.debug
        self.info: Callable[..., object] = bound.info
        self.warning: Callable[..., object] = bound.warning
        self.error: Callable[..., object] = bound.error


_loggers: Final[list[_ModuleLogger]] = []


def get_logger(name: str = "") -> Logger:
    """A logger; `name`, if given, is on its lines as `logger`. Cheap enough for one INFO line an order."""
    logger = _ModuleLogger(name)
    _loggers.append(logger)
    return logger


class _Forward(logging.Handler):
    """Lines of libraries that use the standard logging module."""

    def emit(self, record: logging.LogRecord) -> None:
        facts: dict[str, object] = {"logger": record.name}
        if record.exc_info and record.exc_info[1] is not None:
            facts["exception"] = _formatted(record.exc_info[1])
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            message = str(record.msg)
        _Sink().msg(record.levelname, message, facts)


def _route_standard_logging() -> None:
    root = logging.getLogger()
    root.handlers[:] = [_Forward()]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)


def _unhandled(error: BaseException) -> None:
    _Sink().msg("ERROR", "unhandled exception", {"exception": _formatted(error)})
    flush_logs()


_set_level("INFO")
