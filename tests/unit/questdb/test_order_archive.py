"""Where an order stands in the table of ended ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ulid import ULID

from services.questdb.order_archive import place_of
from services.runtime.ids import new_order_id

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FOREIGN = datetime(2000, 1, 1, tzinfo=UTC)


def ulid_of(milliseconds: int, chance: int) -> str:
    return str(ULID.from_bytes(milliseconds.to_bytes(6) + chance.to_bytes(10)))


ULIDS = st.builds(ulid_of, st.integers(0, 4_000_000_000_000), st.integers(0, (1 << 80) - 1))


@given(ULIDS, ULIDS)
def test_places_are_in_the_order_of_the_ids(one: str, two: str) -> None:
    lower, higher = sorted((f"acc-{one}", f"acc-{two}"))
    assert place_of(lower) <= place_of(higher)


@given(st.integers(0, 4_000_000_000_000), st.integers(0, (1 << 80) - 1))
def test_a_place_is_within_the_millisecond_of_its_id(milliseconds: int, chance: int) -> None:
    place = place_of(f"acc-{ulid_of(milliseconds, chance)}")
    after = place - (_EPOCH + timedelta(milliseconds=milliseconds))
    assert timedelta(0) <= after < timedelta(milliseconds=1)


def test_orders_made_together_rarely_share_a_place() -> None:
    ids = [new_order_id("acc") for _ in range(1_000)]
    assert len({place_of(order_id) for order_id in ids}) > 500


@pytest.mark.parametrize("tail", ["U" * 26, "Z" * 26, "!" * 26, "é" * 26])
def test_an_id_that_tells_no_time_has_a_place_too(tail: str) -> None:
    assert place_of(f"acc-{tail}") == _FOREIGN
