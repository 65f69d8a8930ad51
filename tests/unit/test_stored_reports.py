"""A fill is the same to the ledger and to the fill store: both take it or none, under one id and time."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ledger.commands import ApplyReport
from services.messages import BadMessage
from services.oms.report_decoding import decode_report
from services.questdb.durable_pull import Delivered
from services.questdb.fill_rows import fill_row
from services.questdb.schema import FILLS
from services.runtime.ids import created_ms, new_order_id
from services.runtime.journal_reader import Message

STORED_NS = 1_700_000_000_000_000_000
FILL: dict[str, Any] = {"account": "a", "symbol": "BTCUSDT", "side": "buy", "quantity": 0.1, "price": 45000}
NAMES = [column.name for column in FILLS.columns]
Row = dict[str, Any]


def both(data: bytes, sequence: int = 7, stored_ns: int = STORED_NS) -> tuple[ApplyReport | None, Row | None]:
    """What the ledger and the fill store make of a fill; None where it is refused."""
    report: ApplyReport | None = None
    row: Row | None = None
    with contextlib.suppress(BadMessage):
        report = decode_report(Message(sequence, "3.fills.a", data, None, stored_ns))
    with contextlib.suppress(BadMessage):
        delivered = Delivered(sequence, "3.fills.a", data, stored_ns, 1, "")
        row = dict(zip(NAMES, fill_row(delivered), strict=True))
    return report, row


def payload(**members: Any) -> bytes:
    return json.dumps({**FILL, **members}).encode()


def agree(report: ApplyReport | None, row: Row | None) -> None:
    if report is None or row is None:
        assert report is row is None
        return
    told = (report.account, report.symbol, report.side, report.quantity, report.price, report.fee)
    assert told == tuple(row[name] for name in ("account", "symbol", "side", "quantity", "price", "fee"))
    ids = (report.exec_id, report.order_id, report.liquidity, report.stream_seq)
    assert ids == tuple(row[name] for name in ("fill_id", "order_id", "liquidity", "stream_seq"))
    since = row["timestamp"] - datetime(1970, 1, 1, tzinfo=UTC)
    assert report.venue_ns // 1000 == (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


@pytest.mark.parametrize(
    "members",
    [
        {"fill_id": "x" * 129},
        {"fill_id": "x" * 256},
        {"order_id": "x" * 256},
        {"liquidity": "x" * 256},
        {"fee": -0.5},
        {"timestamp": 0},
        {"timestamp": 1_700_000_000.000001},
        {"timestamp": 9_000_000_000},
        {"fill_id": "f", "order_id": "Z" * 26},
    ],
)
def test_a_fill_is_taken_by_both(members: dict[str, Any]) -> None:
    report, row = both(payload(**members))
    assert report is not None
    agree(report, row)


@pytest.mark.parametrize(
    "members",
    [
        {"price": 0},
        {"price": -1},
        {"quantity": 0},
        {"timestamp": 1_700_000_000_000},
        {"timestamp": -1},
        {"fill_id": "x" * 257},
        {"order_id": "x" * 257},
        {"liquidity": "x" * 257},
        {"fill_id": "line\nbreak"},
        {"symbol": "btcusdt"},
        {"account": "b"},
    ],
)
def test_no_fill_is_refused_by_one_alone(members: dict[str, Any]) -> None:
    assert both(payload(**members)) == (None, None)


_values = (
    st.none()
    | st.booleans()
    | st.integers(-(10**21), 10**21)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(["buy", "sell", "x" * 129, "x" * 257])
)


@given(
    st.dictionaries(st.sampled_from([*FILL, "fill_id", "order_id", "fee", "liquidity", "timestamp"]), _values)
)
def test_whatever_the_members_are_both_say_the_same(members: dict[str, Any]) -> None:
    agree(*both(payload(**members)))


@pytest.mark.parametrize("order_id", ["a-01M8ABXX8FQ3QVSTBZ35EF60P4", "", "elsewhere", "Z" * 26])
def test_a_fill_without_a_time_is_the_same_row_when_it_is_told_again(order_id: str) -> None:
    data = payload(fill_id="f", order_id=order_id)
    first, first_row = both(data)
    again, again_row = both(data, sequence=9, stored_ns=STORED_NS + 3_600_000_000_000)
    assert first is not None
    assert again is not None
    assert first_row is not None
    assert again_row is not None
    assert [first_row[key] for key in FILLS.keys] == [again_row[key] for key in FILLS.keys]
    assert first.venue_ns == again.venue_ns
    agree(first, first_row)


def test_a_fill_without_a_time_happened_when_its_order_was_made_at_the_earliest() -> None:
    order_id = new_order_id("a")
    report, _ = both(payload(fill_id="f", order_id=order_id))
    assert report is not None
    assert report.venue_ns == created_ms(order_id) * 1_000_000


def test_fills_without_id_and_time_are_two_trades_when_they_are_told_twice() -> None:
    _, first = both(payload())
    _, second = both(payload(), sequence=8, stored_ns=STORED_NS + 1)
    assert first is not None
    assert second is not None
    assert (first["fill_id"], second["fill_id"]) == ("7", "8")
