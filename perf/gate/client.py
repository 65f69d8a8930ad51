"""The sequential client of runs 1 and 3: one kept connection, one request at a time."""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from perf.load import answer_word, centiles


@dataclass(frozen=True, slots=True)
class Sequence:
    """What one sequence of requests met."""

    latencies: dict[str, float]
    """ms."""
    answers: Counter[str] = field(default_factory=Counter)
    """Answers by their content; anything but HTTP 200 as `HTTP <status>`."""


def run_sequence(address: str, path: str, bodies: Iterable[dict[str, Any]]) -> Sequence:
    """POSTs `bodies` one after the other, each when the last is answered.

    A bare socket: a client library would take longer than the service.
    """
    host, port = address.split(":")
    latencies: list[float] = []
    answers: Counter[str] = Counter()
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for body in bodies:
            text = json.dumps(body).encode()
            request = (
                f"POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(text)}\r\n\r\n"
            ).encode() + text
            begin = time.perf_counter()
            connection.sendall(request)
            status, answer = _answer(connection)
            latencies.append((time.perf_counter() - begin) * 1e3)
            answers[answer_word(json.loads(answer)) if status == 200 else f"HTTP {status}"] += 1
    return Sequence(centiles(latencies), answers)


def _answer(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of the next answer, which must tell its length."""
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        data += _some(connection)
    head = data[:end].lower()
    for line in head.split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
            break
    else:
        raise RuntimeError(f"an answer without its length: {head!r}")
    while len(data) < end + 4 + length:
        data += _some(connection)
    return int(head.split()[1]), data[end + 4 :]


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(65_536)
    if not data:
        raise RuntimeError("the service closed the connection")
    return data
