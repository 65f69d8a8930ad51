"""`trade2026 up`, `status`, `logs` and `down` as an operator uses them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from services.runtime.local_stack import StackProcess, free_port_offset
from services.runtime.local_stack.assembly import PORTS
from tests.support import is_gone, wait_until

SERVERS = {"valkey", "nats", "questdb"}


def trade2026(*arguments: str | Path | int) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "trade2026.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=170,
    )


def family(pid: int) -> list[int]:
    """A process and everything below it."""
    process = psutil.Process(pid)
    return [pid, *(child.pid for child in process.children(recursive=True))]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackProcess]:
    with StackProcess(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


def statuses(stack: StackProcess) -> dict[str, dict[str, Any]]:
    answer = trade2026("status", "--json", "--data", stack.folder)
    return {part["name"]: part for part in json.loads(answer.stdout)}


def test_status_tells_every_part_with_pid_addresses_and_health(stack: StackProcess) -> None:
    parts = statuses(stack)
    assert set(parts) >= SERVERS
    for name, part in parts.items():
        assert set(part) == {"name", "pid", "addresses", "healthy"}
        assert part["healthy"] is True
        assert part["addresses"] == stack.part_addresses[name]
        assert part["pid"] in family(stack.pid or 0)


def test_what_answers_a_reservation_goes_before_all_else(stack: StackProcess) -> None:
    nice = {name: psutil.Process(part["pid"]).nice() for name, part in statuses(stack).items()}
    first = nice.pop("valkey")
    assert first == psutil.Process().nice()
    assert nice.pop("risk", first) == first
    assert min(nice.values()) > first


def test_status_for_a_person_has_one_line_for_each_part(stack: StackProcess) -> None:
    answer = trade2026("status", "--data", stack.folder)
    assert answer.returncode == 0
    assert [line.split()[0] for line in answer.stdout.splitlines()] == list(statuses(stack))


def test_killed_server_comes_back_with_its_data(stack: StackProcess) -> None:
    with redis.Redis.from_url(
        f"redis://{stack.address('valkey', 'redis')}/9", decode_responses=True
    ) as client:
        client.set("kept", "yes")
        first_pid = stack.part_pid("valkey")
        assert first_pid is not None
        os.kill(first_pid, signal.SIGKILL)
        wait_until(lambda: stack.part_pid("valkey") not in (None, first_pid), within_sec=10)
        wait_until(lambda: statuses(stack)["valkey"]["healthy"], within_sec=10)
        assert client.get("kept") == "yes"
        client.delete("kept")
    assert "valkey: was killed by SIGKILL; starting it again" in stack.log_path.read_text()
    wait_until(lambda: "valkey: is back" in stack.log_path.read_text())


def test_second_stack_in_the_same_folder_is_refused(stack: StackProcess) -> None:
    answer = trade2026("up", "--data", stack.folder)
    assert answer.returncode == 1
    assert f"already running in {stack.folder} (pid {stack.pid})" in answer.stdout


def test_second_stack_on_the_same_ports_is_refused_with_the_holder_of_each(
    stack: StackProcess, tmp_path: Path
) -> None:
    answer = trade2026("up", "--data", tmp_path, "--port-offset", stack.options.port_offset)
    port = stack.address("valkey", "redis").rpartition(":")[2]
    assert answer.returncode == 1
    assert (
        f"valkey needs port {port}, which is taken by pid {stack.part_pid('valkey')} (valkey-server)"
        in answer.stdout
    )


def test_logs_prints_the_last_lines_of_a_part(stack: StackProcess) -> None:
    answer = trade2026("logs", "nats", "--data", stack.folder, "-n", 5)
    assert answer.returncode == 0
    assert len(answer.stdout.splitlines()) == 5


def test_logs_of_an_unknown_part_names_the_known_ones(stack: StackProcess) -> None:
    answer = trade2026("logs", "natz", "--data", stack.folder)
    assert answer.returncode == 1
    assert "nats" in answer.stderr


def test_logs_follow_prints_what_is_logged_later(stack: StackProcess) -> None:
    command = [
        sys.executable,
        "-m",
        "trade2026.cli",
        "logs",
        "valkey",
        "-f",
        "-n",
        "1",
        "--data",
        str(stack.folder),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        follower.stdout.readline()
        with stack.part_log("valkey").open("a") as log:
            log.write("one more line\n")
        lines = iter(follower.stdout.readline, "")
        assert any(line == "one more line\n" for line in lines)
        follower.kill()


def test_status_and_down_where_nothing_runs(tmp_path: Path) -> None:
    answer = trade2026("status", "--json", "--data", tmp_path)
    assert answer.returncode == 1
    assert not any(part["healthy"] or part["pid"] for part in json.loads(answer.stdout))
    answer = trade2026("down", "--data", tmp_path)
    assert answer.returncode == 0
    assert "no stack is running" in answer.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_signal_during_the_start_leaves_no_process(number: signal.Signals, tmp_path: Path) -> None:
    stack = StackProcess(tmp_path)
    stack.start()
    pid = wait_until(lambda: stack.part_pid("questdb"), within_sec=20)
    assert stack.pid is not None
    processes = family(stack.pid)
    assert pid in processes
    os.kill(stack.pid, number)
    wait_until(lambda: not stack.running, within_sec=30)
    assert [left for left in processes if not is_gone(left)] == []
    assert "stopped" in stack.log_path.read_text()


def test_detached_stack_runs_until_down_and_leaves_no_process(tmp_path: Path) -> None:
    offset = free_port_offset(port for ports in PORTS.values() for port in ports.values())
    answer = trade2026("up", "--detach", "--data", tmp_path, "--port-offset", offset)
    try:
        assert answer.returncode == 0, answer.stdout
        assert "everything is up" in answer.stdout
        parts = json.loads(trade2026("status", "--json", "--data", tmp_path).stdout)
        processes = [pid for part in parts for pid in family(part["pid"])]
        assert len(processes) >= len(SERVERS)
    finally:
        answer = trade2026("down", "--data", tmp_path)
    assert answer.returncode == 0
    assert answer.stdout.endswith("stopped\n")
    assert [pid for pid in processes if not is_gone(pid)] == []


def test_detached_stack_that_cannot_start_says_why_and_returns_not_0(tmp_path: Path) -> None:
    offset = free_port_offset(port for ports in PORTS.values() for port in ports.values())
    with socket.create_server(("127.0.0.1", PORTS["nats"]["nats"] + offset)):
        answer = trade2026("up", "--detach", "--data", tmp_path, "--port-offset", offset)
    assert answer.returncode == 1
    assert (
        f"nats needs port {PORTS['nats']['nats'] + offset}, which is taken by pid {os.getpid()}"
        in answer.stdout
    )


def test_supervisor_that_is_killed_takes_every_process_with_it(stack: StackProcess) -> None:
    assert stack.pid is not None
    processes = family(stack.pid)
    stack.kill()
    wait_until(lambda: all(is_gone(pid) for pid in processes), within_sec=10)
