"""What the fill store makes of a message."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ledger.numbers import install_context
from services.messages import BadMessage
from services.questdb.durable_pull import Delivered
from services.questdb.fill_rows import fill_row
from services.questdb.schema import FILLS

STORED_NS = 1_700_000_000_123_456_789
STORED = datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _exact() -> None:
    install_context()


def row(members: str, subject: str = "3.fills.acc", sequence: int = 77) -> dict[str, object]:
    """The row, by column, of a fill with the promised members and `members`."""
    text = '{"account":"acc","symbol":"BTCUSDT","side":"buy","quantity":0.1,"price":45000'
    payload = (text + (f",{members}" if members else "") + "}").encode()
    made = fill_row(Delivered(sequence, subject, payload, STORED_NS, 1, ""))
    return dict(zip((column.name for column in FILLS.columns), made, strict=True))


def test_the_promised_members_alone_are_a_fill() -> None:
    assert row("") == {
        "timestamp": STORED,
        "account": "acc",
        "symbol": "BTCUSDT",
        "side": "buy",
        "order_id": "",
        "fill_id": "77",
        "quantity": Decimal("0.1"),
        "price": Decimal(45000),
        "fee": Decimal(0),
        "liquidity": "",
        "stream_seq": 77,
    }


def test_an_unknown_member_that_is_nested_too_deep_is_no_fill() -> None:
    with pytest.raises(BadMessage, match="recursion"):
        row('"x":' + "[" * 1_000 + "]" * 1_000)


def test_what_the_venue_says_is_kept() -> None:
    made = row(
        '"fill_id":"f-1","order_id":"acc-1","fee":-0.5,"liquidity":"maker","timestamp":1700000000.000001'
    )
    assert made["timestamp"] == datetime(2023, 11, 14, 22, 13, 20, 1, tzinfo=UTC)
    assert (made["fill_id"], made["order_id"], made["fee"], made["liquidity"]) == (
        "f-1",
        "acc-1",
        Decimal("-0.5"),
        "maker",
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1E+19", "10000000000000000000"),
        ("0.000000000000000001", "0.000000000000000001"),
        ("1.00000000000000000000000", "1.000000000000000000"),
        ("1.50", "1.50"),
    ],
)
def test_numbers_are_exact_and_within_the_column(text: str, expected: str) -> None:
    made = row(f'"fee":{text}')["fee"]
    assert isinstance(made, Decimal)
    assert made == Decimal(expected)
    exponent = made.as_tuple().exponent
    assert isinstance(exponent, int)
    assert exponent >= -18


@pytest.mark.parametrize(
    ("members", "subject", "reason"),
    [
        ("", "3.fills.other", "subject"),
        ('"timestamp":-5', "3.fills.acc", "timestamp"),
        ('"timestamp":1700000000000', "3.fills.acc", "timestamp"),
        ('"fill_id":"a\\nb"', "3.fills.acc", "fill_id"),
        ('"order_id":"\\u0000"', "3.fills.acc", "order_id"),
        ('"liquidity":"é"', "3.fills.acc", "liquidity"),
        ('"fee":1e40', "3.fills.acc", "fee"),
        ('"version":2', "3.fills.acc", "version"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_the_reason(members: str, subject: str, reason: str) -> None:
    with pytest.raises(BadMessage, match=reason):
        row(members, subject)


@given(payload=st.binary(max_size=200))
def test_any_bytes_are_a_row_or_refused(payload: bytes) -> None:
    with contextlib.suppress(BadMessage):
        fill_row(Delivered(1, "3.fills.acc", payload, STORED_NS, 1, ""))
