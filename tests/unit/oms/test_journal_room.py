"""New orders stop before a journal is full."""

from __future__ import annotations

from typing import Any, cast

import pytest

from services.oms.journal_room import FULL_AT, JournalRoom
from services.runtime.errors import ResourceExhausted
from services.runtime.streams import DEADLETTER, EXECUTIONS, LEDGER, ORDERS
from tests.unit.oms.desk import buy, make_desk


def room(shares: dict[str, float], *, relay_full: bool = False) -> JournalRoom:
    made = JournalRoom(cast(Any, None), lambda: relay_full)
    made._watch.shares.update(shares)
    return made


@pytest.mark.parametrize("journal", [ORDERS, EXECUTIONS, LEDGER])
def test_a_journal_that_is_nearly_full_takes_no_new_orders(journal: str) -> None:
    room({journal: FULL_AT - 0.001}).require()
    with pytest.raises(ResourceExhausted) as refused:
        room({journal: FULL_AT}).require()
    assert refused.value.reason == "JOURNAL_FULL"
    assert journal in room({journal: FULL_AT}).lacking()


def test_events_that_ledger_does_not_take_stop_new_orders() -> None:
    with pytest.raises(ResourceExhausted):
        room({}, relay_full=True).require()


def test_full_dead_letters_stop_no_order() -> None:
    room({DEADLETTER: 1.0}).require()


async def test_an_order_for_which_there_is_no_room_leaves_nothing_behind() -> None:
    desk = make_desk()
    desk.submitter._require_room = room({LEDGER: 1.0}).require
    with pytest.raises(ResourceExhausted):
        desk.submitter.begin(buy("c-1"))
    assert desk.submitter.running == 0
    assert desk.ledger.commands == []
    assert desk.ledger.orders == {}
