"""Headers of NATS messages as they come over the wire."""

import pytest

from services.runtime.nats_client import read_headers


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (None, {}),
        (b"", {}),
        (b"NATS/1.0\r\n\r\n", {}),
        (b"NATS/1.0\r\nNats-Msg-Id: new:a-1\r\n\r\n", {"Nats-Msg-Id": "new:a-1"}),
        (b"NATS/1.0\r\nA:b\r\nC:\td \r\n\r\n", {"A": "b", "C": "d"}),
        (b"NATS/1.0 503\r\n\r\n", {"Status": "503"}),
        (b"NATS/1.0 404 No Messages\r\n\r\n", {"Status": "404", "Description": "No Messages"}),
        (
            b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 12\r\nNats-Last-Stream: 34\r\n\r\n",
            {
                "Status": "100",
                "Description": "Idle Heartbeat",
                "Nats-Last-Consumer": "12",
                "Nats-Last-Stream": "34",
            },
        ),
        (b"NATS/1.0\r\nno colon\r\nA: \xff\r\n\r\n", {"A": "�"}),
    ],
)
def test_headers_are_read_by_name(raw: bytes | None, expected: dict[str, str]) -> None:
    assert read_headers(raw) == expected
