"""Partitions and keys."""

from __future__ import annotations

import pytest

from services.ledger.keys import AccountKeys
from services.ledger.partition import account_of, fnv1a_32, partition_of


@pytest.mark.parametrize(("text", "expected"), [("", 0x811C9DC5), ("a", 0xE40C292C), ("foobar", 0xBF9CF968)])
def test_hash_is_fnv_1a(text: str, expected: int) -> None:
    assert fnv1a_32(text) == expected


def test_all_keys_of_an_account_carry_its_partition() -> None:
    keys = AccountKeys("acc")
    tag = f"{{p{partition_of('acc')}}}"
    named = [getattr(keys, name) for name in AccountKeys.__slots__ if name not in ("name", "partition")]
    assert all(tag in key for key in named)


def test_account_follows_from_an_order_id() -> None:
    assert account_of("desk-7-01ABCDEFGHJKMNPQRSTVWXYZ01") == "desk-7"


@pytest.mark.parametrize("order_id", ["", "acc", "acc-1", "-01ABCDEFGHJKMNPQRSTVWXYZ01"])
def test_other_shapes_are_no_order_ids(order_id: str) -> None:
    with pytest.raises(ValueError):
        account_of(order_id)
