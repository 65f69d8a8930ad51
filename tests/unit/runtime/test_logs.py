"""Log lines, as another process reads them."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import IO, Any

import pytest

from services.runtime import logs


def run(body: str, level: str = "INFO") -> list[dict[str, Any]]:
    """The lines of a process that configures logging and runs `body`."""
    return [json.loads(line, parse_float=Decimal) for line in output(body, level)]


def output(body: str, level: str = "INFO", code: int = 0) -> list[str]:
    script = (
        "import logging, os, sys, warnings\nfrom decimal import Decimal\n"
        "from services.runtime.telemetry import configure_logging, flush_logs, get_logger\n"
        f"log = get_logger('risk.engine')\nconfigure_logging('risk', '{level}', 1)\n{body}\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert done.returncode == code, done.stderr
    return done.stdout.splitlines()


def test_a_line_says_when_where_what_and_the_facts() -> None:
    (line,) = run("log.info('check request', order_id='a-1', quantity=Decimal('0.10'), approved=True)")
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "INFO",
        "service": "risk",
        "worker": 1,
        "message": "check request",
        "logger": "risk.engine",
        "order_id": "a-1",
        "quantity": Decimal("0.10"),
        "approved": True,
    }


def test_the_timestamp_is_utc_with_microseconds() -> None:
    before = time.time()
    (line,) = run("log.info('x')")
    text = line["timestamp"]
    seconds, fraction = text.removesuffix("Z").split(".")
    assert len(fraction) == 6
    moment = time.mktime(time.strptime(seconds, "%Y-%m-%dT%H:%M:%S")) - time.timezone
    assert before - 2 <= moment <= time.time() + 1


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("DEBUG", ["DEBUG", "INFO", "WARNING", "ERROR"]),
        ("INFO", ["INFO", "WARNING", "ERROR"]),
        ("WARNING", ["WARNING", "ERROR"]),
        ("ERROR", ["ERROR"]),
    ],
)
def test_calls_below_the_level_write_nothing(level: str, written: list[str]) -> None:
    lines = run("log.debug('a'); log.info('b'); log.warning('c'); log.error('d')", level)
    assert [line["level"] for line in lines] == written


def test_exact_numbers_stay_exact_and_strange_values_are_written_as_text() -> None:
    big = "12345678901234567890.123456789012345678"
    body = f"log.info('x', big=Decimal('{big}'), odd=object, none=None, tags=('a', 1))"
    (text,) = output(body)
    assert f'"big":{big},' in text
    line = json.loads(text)
    assert (line["odd"], line["none"], line["tags"]) == ("<class 'object'>", None, ["a", 1])


def test_a_value_that_json_cannot_hold_does_not_lose_the_line() -> None:
    (line,) = run("ring = []; ring.append(ring)\nlog.info('x', ring=ring, order_id='a-1')")
    assert line["order_id"] == "a-1"


def test_an_exception_is_written_with_its_traceback() -> None:
    (line,) = run(
        "try:\n    1/0\nexcept ZeroDivisionError as error:\n    log.error('failed', exc_info=error)"
    )
    assert "ZeroDivisionError: division by zero" in line["exception"]
    assert "Traceback" in line["exception"]


def test_lines_of_libraries_become_lines_of_the_service() -> None:
    lines = run("logging.getLogger('lib').warning('slow %s', 5); logging.getLogger('lib').info('x')")
    assert [(line["logger"], line["message"], line["level"]) for line in lines] == [
        ("lib", "slow 5", "WARNING")
    ]


def test_warnings_become_lines() -> None:
    (line,) = run("warnings.warn('old thing', stacklevel=1)")
    assert line["level"] == "WARNING"
    assert "old thing" in line["message"]


def test_what_is_buffered_is_written_when_the_process_exits() -> None:
    assert len(run("for i in range(1000): log.info('x', i=i)")) == 1000


def test_an_unhandled_exception_is_a_line() -> None:
    (text,) = output("raise ValueError('boom')", code=1)
    assert "ValueError: boom" in json.loads(text)["exception"]


@contextmanager
def writer_into_pipe() -> Iterator[tuple[logs._Writer, int]]:
    read, write = os.pipe()
    try:
        yield logs._Writer(write), read
    finally:
        os.close(write)
        os.close(read)


def test_a_line_is_written_within_50_ms_without_another_call() -> None:
    with writer_into_pipe() as (writer, read):
        started = time.monotonic()
        writer.add(b"line\n")
        assert os.read(read, 100) == b"line\n"
        assert time.monotonic() - started < 0.05


def test_lines_that_arrive_together_are_written_together() -> None:
    with writer_into_pipe() as (writer, read):
        for _ in range(20):
            writer.add(b"0123456789\n")
        assert len(os.read(read, 4096)) == 220


def test_lines_of_several_processes_in_one_pipe_are_never_torn() -> None:
    script = (
        "from services.runtime.telemetry import configure_logging, get_logger\n"
        "import sys; log = get_logger('x'); configure_logging('risk', 'INFO', int(sys.argv[1]))\n"
        "for i in range(4000): log.info('x', i=i, pad='p' * (i % 700))\n"
    )
    read, write = os.pipe()
    processes = [subprocess.Popen([sys.executable, "-c", script, str(n)], stdout=write) for n in range(2)]
    os.close(write)
    with os.fdopen(read) as stream:
        lines = [json.loads(line) for line in stream]
    assert [process.wait(30) for process in processes] == [0, 0]
    for worker in range(2):
        assert [line["i"] for line in lines if line["worker"] == worker] == list(range(4000))


def test_no_line_is_lost_between_threads_that_write_and_the_writer() -> None:
    read, write = os.pipe()
    writer = logs._Writer(write)
    received: list[bytes] = []

    def collect(stream: IO[bytes]) -> None:
        received.extend(stream)

    with os.fdopen(read, "rb") as stream:
        collector = threading.Thread(target=collect, args=(stream,))
        collector.start()

        def produce(name: int) -> None:
            for number in range(20_000):
                writer.add(b"%d %d\n" % (name, number))

        producers = [threading.Thread(target=produce, args=(name,)) for name in range(3)]
        for producer in producers:
            producer.start()
        for producer in producers:
            producer.join()
        writer.flush()
        os.close(write)
        collector.join(10)
    for name in range(3):
        mine = [int(line.split()[1]) for line in received if line.startswith(b"%d " % name)]
        assert mine == list(range(20_000))


def test_lines_beyond_the_bound_are_counted_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_BUFFERED_LINES", 10)
    monkeypatch.setattr(logs, "FLUSH_AFTER_SEC", 60)
    with writer_into_pipe() as (writer, read):
        for _ in range(25):
            writer.add(b"x\n")
        writer.flush()
        lines = os.read(read, 65536).splitlines()
        assert lines[:10] == [b"x"] * 10
        assert json.loads(lines[10])["count"] == 15


def test_a_reader_that_is_gone_does_not_stop_the_process() -> None:
    read, write = os.pipe()
    writer = logs._Writer(write)
    os.close(read)
    writer.add(b"x\n")
    writer.flush()
    os.close(write)
