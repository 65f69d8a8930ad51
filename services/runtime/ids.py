"""Identifiers: ULIDs (26 characters, sortable by millisecond) and the order ids made of them."""

from ulid import ULID


def new_ulid() -> str:
    """A new ULID: 48 bits of milliseconds, 80 random bits."""
    return str(ULID())


def new_order_id(account: str) -> str:
    """`{account}-{ULID}`: the account, hence the ledger's keys, follow from the id alone."""
    return f"{account}-{ULID()}"
