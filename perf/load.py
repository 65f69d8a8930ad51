"""Load by real tools: `ghz` for gRPC, `vegeta` for HTTP. Open loop where a rate is named: waiting counts."""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
PROTOSET: Final = ROOT / "proto" / "baseline.binpb"
_NO_MORE: Final = "no targets to attack"
"""How the HTTP tool records that a burst is at its end; no request."""
CENTILES: Final = (50.0, 90.0, 99.0, 99.9)
CONNECTIONS: Final = 4_000
"""Of the HTTP tool at most: an overload of a few seconds must reach the server. With fewer connections the
tool's own queue grows until its requests time out, and the server has nothing to refuse."""
_ENDED_CONNECTIONS: Final = 8_000
"""Beyond, with as many new ones as the tool opens, half of all ports is taken: the kernel then tries them one
by one at each connection, and an overload of the server becomes one of the machine."""
_PORTS_WITHIN_SEC: Final = 70.0


class ToolMissing(Exception):
    """A load tool is not installed; the message says how to get it."""


def tool(name: str) -> str:
    """Path of an installed tool. Raises `ToolMissing`."""
    path = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if path is None:
        raise ToolMissing(f"{name} is not installed; run `make tools`")
    return path


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of a tool measured. Latencies in ms; rates in requests/s."""

    tool: str
    requests: int
    seconds: float
    offered_rate: float
    """0: closed loop."""
    latencies: dict[str, float]
    """P50, P90, P99, P99.9 and max of all requests, failed ones included."""
    outcomes: dict[str, int]
    """Requests by status: gRPC code or HTTP status and error text."""
    answers: dict[str, int] = field(default_factory=dict)
    """Successful answers by their content, where the case asked to count them."""
    accepted: dict[str, float] = field(default_factory=dict)
    """Latencies of the requests that ended with OK or 200."""

    @property
    def rate(self) -> float:
        """Requests answered a second."""
        return self.requests / self.seconds if self.seconds else 0.0

    @property
    def errors(self) -> int:
        """Requests that did not end with OK or 200."""
        return self.requests - self.outcomes.get("OK", 0) - self.outcomes.get("200", 0)


def centiles(latencies_ms: Iterable[float]) -> dict[str, float]:
    """P50 … P99.9 by the nearest-rank rule, and the maximum."""
    ordered = sorted(latencies_ms)
    if not ordered:
        return {}
    found = {f"P{c:g}": ordered[max(0, math.ceil(len(ordered) * c / 100) - 1)] for c in CENTILES}
    return {**found, "max": ordered[-1]}


def grpc_load(
    address: str,
    call: str,
    data: object,
    *,
    seconds: float,
    concurrency: int = 64,
    rate: int = 0,
    requests: int = 0,
    connections: int = 1,
    reflection: bool = False,
    authorities: Path | None = None,
) -> Load:
    """Runs ghz for `seconds`. With `rate` the load is open-loop (`--async`): requests start on time, answered
    or not; otherwise `concurrency` callers wait for their answers, until `requests` are sent if it is given.

    `data` may use ghz's templates, for example `{{.RequestNumber}}`, but not ghz's own functions, which it
    would prepare for each call; a list is sent in turn. With `authorities`, a PEM file, the calls are
    encrypted.
    """
    count = requests or round(rate * seconds)
    text = json.dumps(data)
    command = [
        tool("ghz"),
        *(("--insecure",) if authorities is None else ("--cacert", str(authorities))),
        *("--format", "json", "--call", call),
        *("--concurrency", str(concurrency), "--connections", str(connections)),
        *(("--total", str(count)) if count else ("--duration", f"{seconds}s", "--duration-stop", "wait")),
        *("--data-file", "{data}", "--timeout", "20s", "--disable-template-functions"),
        *(() if "{{" in text else ("--disable-template-data",)),
        *(() if reflection else ("--protoset", str(PROTOSET))),
        *(("--async", "--rps", str(rate)) if rate else ()),
        address,
    ]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(text)
        file.flush()
        result = json.loads(_run([part.format(data=file.name) for part in command]))
    details = result["details"] or []
    outcomes = Counter(entry["status"] for entry in details)
    return Load(
        tool="ghz",
        requests=result["count"],
        seconds=result["total"] / 1e9,
        offered_rate=rate,
        latencies=centiles(entry["latency"] / 1e6 for entry in details),
        outcomes=dict(outcomes),
        accepted=centiles(entry["latency"] / 1e6 for entry in details if entry["status"] == "OK"),
    )


def wait_for_ports() -> None:
    """Returns when the ports of connections that have ended are free again, but for so many that the kernel
    finds one at once."""
    deadline = time.monotonic() + _PORTS_WITHIN_SEC
    while _ended_connections() > _ENDED_CONNECTIONS and time.monotonic() < deadline:
        time.sleep(0.5)


def _ended_connections() -> int:
    """Connections whose ports are kept for a minute after their end; 0 where the system does not tell."""
    try:
        found = re.search(r"^TCP:.* tw (\d+)", Path("/proc/net/sockstat").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def http_load(
    targets: Sequence[dict[str, Any]],
    *,
    seconds: float,
    rate: int,
    workers: int = 64,
    connections: int = CONNECTIONS,
    burst: int = 0,
    count_answers: bool = False,
) -> Load:
    """Runs vegeta over `targets` in turn: `{"method", "url", "body"}`. `rate` 0: as fast as `workers` go.

    With `burst` that many callers send one request each at once, over `connections`, and nothing else.
    """
    sent = targets if not burst else [targets[number % len(targets)] for number in range(burst)]
    lines = "\n".join(_vegeta_target(target) for target in sent)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "targets"
        file.write_text(lines + "\n")
        attack = [
            tool("vegeta"),
            *("attack", "-format=json", f"-targets={file}", "-timeout=20s"),
            f"-connections={connections}",
            f"-max-connections={connections}",
            *_pace(seconds, rate, workers, burst),
            f"-max-body={4096 if count_answers else 0}",
        ]
        results = Path(folder) / "results"
        with results.open("wb") as output:
            subprocess.run(attack, stdout=output, check=True)
        latencies: list[float] = []
        accepted: list[float] = []
        outcomes, answers = Counter[str](), Counter[str]()
        first, last = math.inf, 0.0
        for line in _lines([tool("vegeta"), "encode", "--to", "json", str(results)]):
            entry = json.loads(line)
            code, error = entry["code"], entry["error"]
            if error == _NO_MORE:
                continue
            latencies.append(entry["latency"] / 1e6)
            if code == 200:
                accepted.append(latencies[-1])
            # What went wrong comes last in an error; before it stand the ports of this one connection.
            outcomes["200" if code == 200 else f"{code or ''} {error.rpartition(': ')[2]}".strip()] += 1
            if count_answers and code == 200:
                answer = json.loads(base64.b64decode(entry["body"]))
                answers[answer_word(answer)] += 1
            begin = _epoch(entry["timestamp"])
            first, last = min(first, begin), max(last, begin + entry["latency"] / 1e9)
    return Load(
        tool="vegeta",
        requests=len(latencies),
        seconds=last - first if latencies else 0.0,
        offered_rate=rate,
        latencies=centiles(latencies),
        outcomes=dict(outcomes),
        answers=dict(answers),
        accepted=centiles(accepted),
    )


def _pace(seconds: float, rate: int, workers: int, burst: int) -> tuple[str, ...]:
    if burst:
        # As fast as all callers go, until the list of targets is at its end.
        return ("-rate=0", "-lazy", f"-workers={burst}", f"-max-workers={burst}")
    if rate:
        return (f"-rate={rate}", f"-duration={seconds}s", f"-workers={workers}")
    return ("-rate=0", f"-duration={seconds}s", f"-workers={workers}", f"-max-workers={workers}")


def _vegeta_target(target: dict[str, Any]) -> str:
    body = base64.b64encode(json.dumps(target["body"]).encode()).decode()
    header = {"content-type": ["application/json"]}
    return json.dumps({"method": target["method"], "url": target["url"], "body": body, "header": header})


def _epoch(text: str) -> float:
    """Seconds since the epoch; the tool writes nanoseconds, of which microseconds are kept."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", text)).timestamp()


def answer_word(answer: dict[str, Any]) -> str:
    """What an answer says, in a word: `submitted`, `approved`, or why not."""
    return str(
        answer.get("reason") or answer.get("status") or ("approved" if answer.get("approved") else answer)
    )


def _lines(command: Sequence[str]) -> Iterator[str]:
    """Output of a command, line by line as it comes."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield from process.stdout
    if process.returncode:
        raise RuntimeError(f"{Path(command[0]).name} failed with status {process.returncode}")


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{Path(command[0]).name} failed: {done.stderr.strip()[-500:]}")
    return done.stdout
