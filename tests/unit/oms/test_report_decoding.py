"""Bytes from outside: a command that can be applied, or the reason why not."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ledger.commands import ApplyReport, ReportKind
from services.messages import BadMessage
from services.oms.report_decoding import decode_report
from services.runtime.journal_reader import Message
from tests.support import nested

FILL: dict[str, Any] = {
    "account": "a",
    "symbol": "BTCUSDT",
    "side": "sell",
    "quantity": 0.1,
    "price": 45000.25,
}


def message(subject: str, payload: Any, sequence: int = 7) -> Message:
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return Message(sequence, subject, data, None, 1_700_000_000_000_000_000)


def test_a_bare_fill_takes_its_id_and_time_from_the_stream() -> None:
    report = decode_report(message("3.fills.a", FILL))
    assert report.kind is ReportKind.FILL
    assert (report.exec_id, report.order_id, report.venue_ns) == ("7", "", 1_700_000_000_000_000_000)
    assert (report.quantity, report.price, report.fee) == (Decimal("0.1"), Decimal("45000.25"), Decimal(0))


def test_a_full_fill_keeps_what_it_says() -> None:
    more = {
        "fill_id": "f",
        "order_id": "o",
        "fee": -0.5,
        "liquidity": "maker",
        "timestamp": 1.5,
        "revision": 2,
    }
    report = decode_report(message("3.fills.a", {**FILL, **more, "version": 1, "unknown": {}}))
    assert (report.exec_id, report.order_id, report.fee) == ("f", "o", Decimal("-0.5"))
    assert (report.liquidity, report.venue_ns, report.revision) == ("maker", 1_500_000_000, 2)


@pytest.mark.parametrize("kind", [kind for kind in ReportKind if kind is not ReportKind.FILL])
def test_every_kind_of_execution_is_read(kind: ReportKind) -> None:
    payload = {
        "exec_id": "e",
        "account": "a",
        "order_id": "o",
        "kind": kind.value,
        "revision": 3,
        "reason": "r",
    }
    report = decode_report(message("3.executions.a", payload))
    assert (report.kind, report.order_id, report.revision, report.reason) == (kind, "o", 3, "r")


@pytest.mark.parametrize(
    ("subject", "changed"),
    [
        ("fills.a", {}),
        ("3.orders.a", {}),
        ("3.fills.a.b", {}),
        ("3.fills.b", {}),
        ("3.fills.a@", {"account": "a@"}),
        ("3.fills.a", {"quantity": 0}),
        ("3.fills.a", {"price": -1}),
        ("3.fills.a", {"quantity": 1e21}),
        ("3.fills.a", {"side": "long"}),
        ("3.fills.a", {"symbol": "btcusdt"}),
        ("3.fills.a", {"version": 2}),
        ("3.fills.a", {"timestamp": 1e15}),
        ("3.fills.a", {"timestamp": -1}),
        ("3.fills.a", {"fill_id": "x" * 257}),
        ("3.fills.a", {"order_id": "line\nbreak"}),
    ],
)
def test_what_cannot_be_applied_says_why(subject: str, changed: dict[str, Any]) -> None:
    with pytest.raises(BadMessage):
        decode_report(message(subject, {**FILL, **changed}))


def test_an_unknown_member_that_is_nested_too_deep_says_why() -> None:
    with pytest.raises(BadMessage, match="recursion"):
        decode_report(message("3.fills.a", nested(json.dumps(FILL).encode())))


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_bad_message(data: bytes) -> None:
    for kind in ("fills", "executions"):
        try:
            report = decode_report(message(f"1.{kind}.a", data))
        except BadMessage:
            continue
        assert isinstance(report, ApplyReport)


_json = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=10) | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*FILL, "fill_id", "order_id", "fee", "timestamp", "version"]), _json))
def test_no_values_of_the_members_raise_anything_but_a_bad_message(changed: dict[str, Any]) -> None:
    try:
        report = decode_report(message("1.fills.a", {**FILL, **changed}))
    except BadMessage:
        return
    assert report.quantity > 0
    assert 0 <= report.venue_ns < 2**63
