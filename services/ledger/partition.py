"""Partitions: the unit of order and ownership of accounts."""

from typing import Final

PARTITIONS: Final = 16

_OFFSET_BASIS: Final = 0x811C9DC5
_PRIME: Final = 0x01000193


def fnv1a_32(text: str) -> int:
    """FNV-1a, 32 bits, of the UTF-8 bytes: the hash that NATS' `{{partition(n,token)}}` mapping uses."""
    value = _OFFSET_BASIS
    for byte in text.encode():
        value = ((value ^ byte) * _PRIME) & 0xFFFFFFFF
    return value


def partition_of(account: str, partitions: int = PARTITIONS) -> int:
    """The partition of `account`, 0 … partitions - 1; fixed for the life of the stored data."""
    return fnv1a_32(account) % partitions


def account_of(order_id: str) -> str:
    """The account inside an order id `{account}-{ULID}`; raises `ValueError` for another shape."""
    account, dash, ulid = order_id.rpartition("-")
    if not account or not dash or len(ulid) != 26:
        raise ValueError("an order id is {account}-{ULID}")
    return account
