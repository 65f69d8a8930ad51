"""The supervisor with real worker processes: starts, deaths, hangs, stops."""

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from services.runtime.local_stack import free_ports
from tests.support import is_gone, wait_until

ROOT = Path(__file__).parents[3]
START_SEC = 40.0


class Service:
    """One run of the demo service."""

    def __init__(self, folder: Path, **variables: object) -> None:
        self.port, self.grpc_port, self.metrics_port = free_ports(3)
        file = folder / "risk" / "config.yaml"
        file.parent.mkdir()
        file.write_text(
            f"service: {{port: {self.port}, grpc_port: {self.grpc_port}}}\n"
            f"monitoring: {{metrics_port: {self.metrics_port}}}\n"
        )
        self._output = folder / "output"
        self._errors = folder / "errors"
        self._environment = {
            **os.environ,
            "TRADE2026_CONFIG_DIR": str(folder),
            "TMPDIR": str(folder),
            **{f"TRADE2026_RISK__{name}": str(value) for name, value in variables.items()},
        }
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the supervisor and returns at once."""
        with self._output.open("ab") as output, self._errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.runtime.demo_service"],
                cwd=ROOT,
                env=self._environment,
                stdout=output,
                stderr=errors,
            )

    @property
    def pid(self) -> int:
        """Of the supervisor."""
        assert self.process is not None
        return self.process.pid

    def get(self, path: str, timeout: float = 5) -> Any:
        """JSON of a GET on a connection of its own."""
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=timeout).json()

    def ask(self, path: str) -> None:
        """A GET whose answer does not matter."""
        with contextlib.suppress(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=0.5)

    def metrics(self) -> dict[str, float]:
        """Values by name."""
        text = httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics").text
        lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}

    def log(self, message: str = "") -> list[dict[str, Any]]:
        """Lines so far, of one message if given."""
        lines = [
            json.loads(line)
            for line in self._output.read_text().splitlines(keepends=True)
            if line[-1] == "\n"
        ]
        return [line for line in lines if message in ("", line["message"])]

    def errors(self) -> str:
        """What was written to standard error."""
        return self._errors.read_text()

    def ready(self, count: int = 1) -> None:
        """Waits until so many workers have been ready since the start of the run."""
        wait_until(lambda: len(self.log("worker ready")) >= count, within_sec=START_SEC)

    def worker_pids(self) -> list[int]:
        """Process ids of the workers that live, by index."""
        return sorted(
            child.pid for child in psutil.Process(self.pid).children() if child.status() != "zombie"
        )

    def wait(self, within_sec: float = START_SEC) -> int:
        """Exit code of the supervisor."""
        assert self.process is not None
        return self.process.wait(within_sec)

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.wait()

    def end(self) -> None:
        """Kills what is left; the workers go with it."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    made: list[Service] = []

    def make(**variables: object) -> Service:
        made.append(Service(tmp_path, **variables))
        made[-1].start()
        return made[-1]

    yield make
    for one in made:
        one.end()


Make = Callable[..., Service]


def test_a_worker_runs_on_uvloop_with_exact_decimals(service: Make) -> None:
    one = service()
    one.ready()
    answer = one.get("/pid")
    assert answer["pid"] != one.pid
    assert (answer["index"], answer["precision"], answer["loop"]) == (0, 96, "uvloop")
    assert one.terminate() == 0


def test_workers_may_open_as_many_files_as_the_system_allows(tmp_path: Path) -> None:
    one = Service(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    try:
        one.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        one.ready()
        (pid,) = one.worker_pids()
        assert psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE) == (hard, hard)
        assert one.terminate() == 0
    finally:
        one.end()


def test_several_workers_share_the_ports_and_each_gets_connections(service: Make) -> None:
    one = service(SERVICE__WORKERS=2)
    one.ready(2)
    indexes = {one.get("/pid")["index"] for _ in range(40)}
    assert indexes == {0, 1}
    assert one.terminate() == 0


def test_wrong_settings_end_it_with_2_and_one_line(service: Make) -> None:
    one = service(SERVICE__PORTT=1)
    assert one.wait() == 2
    assert one.errors() == "TRADE2026_RISK__SERVICE__PORTT: there is no key service.portt\n"


def test_settings_that_a_worker_refuses_end_the_service_with_2(service: Make) -> None:
    one = service(DEMO__START_ERROR="settings", SERVICE__WORKERS=2)
    assert one.wait() == 2
    assert "demo.start_error: refused at the start" in one.errors()


def test_checking_reads_the_settings_and_starts_nothing(tmp_path: Path) -> None:
    one = Service(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.runtime.demo_service", "--check"],
        cwd=ROOT,
        env=one._environment,
        capture_output=True,
        text=True,
        timeout=START_SEC,
    )
    assert (done.returncode, done.stdout) == (0, "the settings of risk are valid\n")


@pytest.mark.parametrize("key", ["port", "grpc_port", "metrics_port"])
def test_a_port_that_somebody_holds_is_refused_and_the_holder_named(tmp_path: Path, key: str) -> None:
    one = Service(tmp_path, SERVICE__WORKERS=2)
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", getattr(one, key)))
        holder.listen()
        one.start()
        assert one.wait() == 1
    assert f"port {getattr(one, key)} is taken by pid {os.getpid()}" in one.errors()
    assert not one.log("worker started")


def test_a_dead_worker_is_started_again_and_the_other_goes_on(service: Make) -> None:
    one = service(SERVICE__WORKERS=2)
    one.ready(2)
    before = one.worker_pids()
    os.kill(before[0], signal.SIGKILL)
    one.ready(3)
    after = one.worker_pids()
    assert len(after) == 2
    assert before[1] in after
    assert before[0] not in after
    assert one.log("worker died")[0]["code"] == -signal.SIGKILL
    assert one.terminate() == 0


def test_a_worker_that_dies_again_and_again_is_started_ever_more_slowly(service: Make) -> None:
    one = service(DEMO__START_ERROR="crash")
    wait_until(lambda: len(one.log("worker died")) >= 4, within_sec=START_SEC)
    waits = [line["starts_again_in_sec"] for line in one.log("worker died")[:4]]
    assert waits == [0.1, 0.2, 0.4, 0.8]
    assert "ValueError: boom" in one.log("worker failed")[0]["exception"]
    assert one.terminate() == 0


def test_a_service_that_returns_without_being_stopped_counts_as_dead(service: Make) -> None:
    one = service(DEMO__START_ERROR="return")
    wait_until(lambda: one.log("worker died"), within_sec=START_SEC)
    assert one.log("worker died")[0]["code"] == 1
    assert one.terminate() == 0


def test_a_worker_whose_loop_hangs_is_killed_and_replaced(service: Make) -> None:
    one = service()
    one.ready()
    hung = one.get("/pid")["pid"]
    one.ask("/block")
    started = time.monotonic()
    one.ready(2)
    assert time.monotonic() - started < START_SEC
    assert one.log("worker silent")[0]["silent_sec"] >= 2
    assert one.get("/pid")["pid"] != hung
    assert one.terminate() == 0


def test_a_worker_that_is_paused_is_killed_and_replaced(service: Make) -> None:
    one = service()
    one.ready()
    (pid,) = one.worker_pids()
    os.kill(pid, signal.SIGSTOP)
    one.ready(2)
    assert is_gone(pid)
    assert one.terminate() == 0


def test_a_slow_start_is_not_taken_for_a_hung_loop(service: Make) -> None:
    one = service(DEMO__BLOCK_AT_START_SEC=2.5)
    one.ready()
    assert not one.log("worker silent")
    assert one.terminate() == 0


async def test_a_burst_that_fills_one_round_of_the_loop_is_not_taken_for_a_hung_loop(service: Make) -> None:
    one = service()
    one.ready()
    (pid,) = one.worker_pids()
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(limits=limits, timeout=START_SEC) as client:
        url = f"http://127.0.0.1:{one.port}/spin"
        answers = await asyncio.gather(*(client.get(url) for _ in range(200)))
    # Six seconds of work that arrived at once, without an empty round of the loop for the timers.
    assert {answer.json()["pid"] for answer in answers} == {pid}
    assert not one.log("worker silent")
    assert one.terminate() == 0


def test_a_paused_supervisor_does_not_take_its_workers_for_hung(service: Make) -> None:
    one = service()
    one.ready()
    (pid,) = one.worker_pids()
    os.kill(one.pid, signal.SIGSTOP)
    time.sleep(2.5)  # longer than a worker may be silent
    os.kill(one.pid, signal.SIGCONT)
    assert one.get("/pid")["pid"] == pid
    assert one.terminate() == 0
    assert not one.log("worker silent")


def test_workers_die_with_a_killed_supervisor(service: Make) -> None:
    one = service(SERVICE__WORKERS=2)
    one.ready(2)
    pids = one.worker_pids()
    os.kill(one.pid, signal.SIGKILL)
    wait_until(lambda: all(is_gone(pid) for pid in pids))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_finishes_what_was_accepted_and_exits_0(service: Make, number: int) -> None:
    one = service()
    one.ready()
    with httpx.Client() as client:
        answers: list[int] = []

        def call() -> None:
            url = f"http://127.0.0.1:{one.port}/slow?sec=1.5"
            answers.append(client.get(url, timeout=START_SEC).status_code)

        caller = threading.Thread(target=call)
        caller.start()
        wait_until(lambda: one.log("slow request"))
        os.kill(one.pid, number)
        assert one.wait() == 0
        caller.join(5)
    assert answers == [200]
    assert one.log("drained")
    assert one.log("supervisor stopped")[0]["exit_code"] == 0
    assert not list(one.folder.glob("*-metrics-*"))


def test_a_ctrl_c_in_a_terminal_reaches_all_and_still_stops_in_order(service: Make) -> None:
    one = service(SERVICE__WORKERS=2)
    one.ready(2)
    for pid in one.worker_pids():
        os.kill(pid, signal.SIGINT)
    os.kill(one.pid, signal.SIGINT)
    assert one.wait() == 0
    assert len(one.log("drained")) == 2


def test_a_worker_that_does_not_finish_in_time_is_killed(service: Make) -> None:
    one = service(SERVICE__STOP_GRACE_SEC=1)
    one.ready()
    one.ask("/slow?sec=60")
    assert one.terminate() == 1
    assert one.log("worker did not stop in time")


def test_a_background_task_that_dies_restarts_the_worker(service: Make) -> None:
    one = service()
    one.ready()
    before = one.get("/pid")["pid"]
    one.ask("/fail")
    one.ready(2)
    assert one.get("/pid")["pid"] != before
    assert one.log("worker failed")[0]["task"] == "doomed"
    assert one.log("drained")  # in order, although it failed
    assert one.terminate() == 0


def test_metrics_are_merged_and_survive_a_restart_of_a_worker(service: Make) -> None:
    one = service(SERVICE__WORKERS=2)
    one.ready(2)
    for _ in range(10):
        one.get("/pid")
    wait_until(lambda: one.metrics().get("demo_latency_ms_count") == 10)
    assert one.metrics()["demo_calls_total"] == 10
    assert one.metrics()["demo_workers"] == 2
    assert one.metrics()["worker_restarts_total"] == 0
    os.kill(one.worker_pids()[0], signal.SIGKILL)
    wait_until(lambda: one.log("worker died"))
    assert one.metrics()["demo_workers"] == 1
    one.ready(3)
    for _ in range(10):
        one.get("/pid")
    wait_until(lambda: one.metrics().get("demo_latency_ms_count") == 20)
    values = one.metrics()
    assert values["demo_calls_total"] == 20
    assert values["demo_workers"] == 2
    assert values["worker_restarts_total"] == 1
    assert httpx.get(f"http://127.0.0.1:{one.metrics_port}/other").status_code == 404
    assert one.terminate() == 0


def test_the_supervisor_does_not_load_what_only_workers_need() -> None:
    script = (
        "import sys; import tests.integration.runtime.demo_service, services.runtime.supervisor\n"
        "print([name for name in ('grpc', 'redis', 'nats', 'psycopg', 'uvicorn') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
