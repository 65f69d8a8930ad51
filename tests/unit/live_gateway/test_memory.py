"""Which ids memory can answer for, and which only the journal can."""

from services.ledger.order import OrderState
from services.live_gateway.memory import OrderMemory
from services.live_gateway.orders import SeenOrder
from tests.unit.live_gateway.venue import order_id

SEEN = SeenOrder(OrderState.FILLED)


def test_young_id_that_is_not_in_memory_needs_no_journal() -> None:
    memory = OrderMemory(10, journaled_up_to=order_id(5)[-26:])
    assert not memory.needs_journal(order_id(6))
    assert memory.needs_journal(order_id(5))
    assert memory.needs_journal(order_id(5, "another_account"))


def test_dropped_id_needs_the_journal_and_a_kept_one_does_not() -> None:
    memory = OrderMemory(2)
    for number in (1, 2, 3):
        memory.remember(order_id(number), SEEN)
    memory.trim(not_journaled=0)
    assert memory.needs_journal(order_id(1))
    assert memory.recall(order_id(1)) is None
    assert [memory.needs_journal(order_id(number)) for number in (2, 3, 4)] == [False] * 3
    assert len(memory) == 2


def test_what_is_not_journaled_is_never_dropped() -> None:
    memory = OrderMemory(2)
    for number in range(1, 6):
        memory.remember(order_id(number), SEEN)
    memory.trim(not_journaled=4)
    assert [memory.recall(order_id(number)) is None for number in range(1, 6)] == [True] + [False] * 4


def test_changed_record_counts_as_the_newest() -> None:
    memory = OrderMemory(1)
    memory.remember(order_id(1), SEEN)
    memory.remember(order_id(2), SEEN)
    changed = SeenOrder(OrderState.FILLED, cancels=1)
    memory.remember(order_id(1), changed)
    memory.trim(not_journaled=1)
    assert memory.recall(order_id(1)) == changed
    assert memory.recall(order_id(2)) is None


def test_highest_ulid_is_over_all_accounts_and_kept_when_dropped() -> None:
    memory = OrderMemory(0)
    memory.remember(order_id(9, "zoe"), SEEN)
    memory.remember(order_id(4, "adam"), SEEN)
    memory.trim(not_journaled=0)
    assert memory.highest == f"{9:026d}"
