"""The lock holds everything that pyproject.toml asks for, by hash and without an address."""

from __future__ import annotations

import re
import tomllib
from importlib import resources
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

LOCKED = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([\w.-]+)==([^ ;\\]+)", LOCK, re.MULTILINE)
}
DECLARED = [
    *PROJECT["build-system"]["requires"],
    *PROJECT["project"]["dependencies"],
    *(requirement for extra in PROJECT["project"]["optional-dependencies"].values() for requirement in extra),
]


@pytest.mark.parametrize("declared", DECLARED)
def test_declared_dependency_is_locked_at_a_version_that_it_allows(declared: str) -> None:
    requirement = Requirement(declared)
    assert requirement.specifier.contains(LOCKED[canonicalize_name(requirement.name)])


def test_lock_names_no_index_and_no_download_address() -> None:
    assert [line for line in LOCK.splitlines() if "://" in line or line.startswith("-")] == []


def test_every_locked_package_has_a_hash() -> None:
    for entry in re.split(r"\n(?=\S)", LOCK.strip()):
        assert "--hash=sha256:" in entry, entry.splitlines()[0]


def test_lower_bounds_of_the_runtime_equal_the_generators() -> None:
    bounds = {Requirement(text).name: str(Requirement(text).specifier) for text in DECLARED}
    assert bounds["grpcio"] == bounds["grpcio-tools"]
    generated = next((ROOT / "trade2026" / "risk" / "v1").glob("*_pb2.py")).read_text()
    protobuf = re.search(r"Protobuf Python Version: ([\d.]+)", generated)
    assert protobuf is not None
    assert bounds["protobuf"] == f">={protobuf[1]}"


@pytest.mark.parametrize("service", ["risk", "oms", "live_gateway", "market_data"])
def test_configuration_of_each_service_is_package_data(service: str) -> None:
    assert resources.files("services.config").joinpath("backend", service, "config.yaml").is_file()


def test_contracts_are_package_data() -> None:
    assert (
        resources.files("trade2026.proto").joinpath("trade2026", "risk", "v1", "risk_service.proto").is_file()
    )
