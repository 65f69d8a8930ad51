"""When ended orders leave the ledger: stored first, and never while that cannot be told."""

from collections.abc import Sequence

import pytest

from services.ledger.order import Order
from services.ledger.reading import EndedOrder
from services.oms.retention import Retention

PARTITION = 3
LAST = 7


class Parts:
    """The ledger, the table of ended orders, their log and stream LEDGER, with one ended order."""

    def __init__(self) -> None:
        self.ended_orders: tuple[EndedOrder, ...] = (EndedOrder("a-1", "1", None),)
        self.done: list[str] = []
        self.logged_up_to = LAST
        self.archive_error: OSError | None = None

    async def ended(self, partition: int, kept_ms: int, limit: int = 1000) -> tuple[EndedOrder, ...]:
        assert (partition, kept_ms) == (PARTITION, 2500)
        return self.ended_orders

    async def retire(self, partition: int, ended: Sequence[EndedOrder]) -> int:
        self.done.append("retired")
        self.ended_orders = ()
        return len(ended)

    async def store(self, orders: Sequence[Order]) -> None:
        if self.archive_error is not None:
            raise self.archive_error
        self.done.append("stored")

    def stored(self, partition: int) -> int:
        return self.logged_up_to

    async def last_sequence(self, partition: int) -> int:
        return LAST


@pytest.fixture
def parts() -> Parts:
    return Parts()


@pytest.fixture
def retention(parts: Parts) -> Retention:
    return Retention(parts, parts, parts, parts, lambda: [PARTITION], kept_sec=2.5)


async def test_an_ended_order_is_stored_and_then_goes(parts: Parts, retention: Retention) -> None:
    assert await retention.retire() == 1
    assert parts.done == ["stored", "retired"]
    assert await retention.retire() == 0


async def test_an_order_stays_while_its_events_are_not_logged(parts: Parts, retention: Retention) -> None:
    parts.logged_up_to = LAST - 1
    assert await retention.retire() == 0
    assert "retired" not in parts.done
    parts.logged_up_to = LAST
    assert await retention.retire() == 1


async def test_an_order_that_cannot_be_stored_stays_and_goes_later(
    parts: Parts, retention: Retention
) -> None:
    parts.archive_error = OSError("QuestDB is away")
    for _ in range(2):
        with pytest.raises(OSError, match="away"):
            await retention.retire()
    assert parts.done == []
    parts.archive_error = None
    assert await retention.retire() == 1
    assert parts.done == ["stored", "retired"]
