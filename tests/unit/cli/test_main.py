"""The command line: what it accepts, what it says when a part of the installation is missing."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from services.runtime.local_stack.state import default_data
from trade2026.cli import main as command_line


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["up", "--workers", "0"], "must be at least 1"),
        (["up", "--port-offset", "-1"], "must be between 0 and 40000"),
        (["up", "--port-offset", "60000"], "must be between 0 and 40000"),
        (["up", "--profile", "careless"], "invalid choice"),
        (["sideways"], "invalid choice"),
        (["ledger"], "required"),
        (["ledger", "forget"], "invalid choice"),
        (["ledger", "verify", "--db", "many"], "invalid int value"),
        ([], "required"),
    ],
)
def test_bad_arguments_end_with_status_2_and_the_reason(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command_line.main(arguments)
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


def test_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for module in [name for name in sys.modules if name.startswith("services.runtime.local_stack")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert command_line.main(["status", "--data", str(tmp_path)]) == 2
    assert (
        capsys.readouterr().err
        == "psutil is not installed; install it with: pip install 'trade2026[server,tools]'\n"
    )
    monkeypatch.undo()
    importlib.import_module("services.runtime.local_stack")


def test_command_line_imports_no_service_before_a_command_needs_one() -> None:
    program = (
        "import sys, trade2026.cli.main; print([name for name in sys.modules if name.startswith('services')])"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"


def test_ledger_command_without_its_servers_names_the_one_that_is_missing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["ledger", "verify", "--data", str(tmp_path), "--nats", "nats://127.0.0.1:1"]
    assert command_line.main(arguments) == 2
    assert "NATS does not answer at nats://127.0.0.1:1" in capsys.readouterr().err


def test_each_port_offset_has_a_data_folder_of_its_own() -> None:
    assert default_data(0) != default_data(100)
    assert default_data(0).parent == default_data(100).parent


def test_an_oms_that_is_not_there_is_told_and_nothing_is_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["reconcile", "--target", "127.0.0.1:1"]) == 2
    assert "UNAVAILABLE" in capsys.readouterr().err


def test_a_nats_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["deadletters", "--nats", "nats://127.0.0.1:1"]) == 1
    assert "nats://127.0.0.1:1" in capsys.readouterr().err
