"""Folding several commands of one account into one commit."""

from __future__ import annotations

from decimal import Decimal

import pytest

from services.ledger.account import Account
from services.ledger.commands import Approved, Command, Effect, Open, Outcome, Register
from services.ledger.draft import ORDERS_KEPT, Copy, Draft, preread
from services.ledger.numbers import install_context
from services.ledger.order import Order, OrderState
from tests.unit.ledger.making import abandon, fill, hold_price, make_order, refuse, request_cancel, reserve


@pytest.fixture
def copy() -> Copy:
    install_context()
    draft = Draft(Copy(), 1)
    draft.apply(Open("acc", "life", Decimal(1000)))
    draft.apply(Register("acc"))
    return Copy("life.1.0", draft.account)


def _effects(draft: Draft) -> list[Effect]:
    return [result.effect for result in draft.results if isinstance(result, Outcome)]


def test_commands_see_what_the_ones_before_did(copy: Copy) -> None:
    order = make_order("acc", "10")
    draft = Draft(copy, 5)
    for command in (reserve(order), request_cancel(order), abandon(order)):
        draft.apply(command)
    assert _effects(draft) == [Effect.DONE, Effect.DONE, Effect.REPEATED]
    assert draft.orders[order.order_id].state is OrderState.PENDING_CANCEL
    assert draft.before == {order.order_id: None}


def test_command_that_raises_fails_alone(copy: Copy) -> None:
    def broken(account: Account, order: Order) -> Approved:
        raise ZeroDivisionError

    draft = Draft(copy, 5)
    first, last = make_order("acc"), make_order("acc")
    for command in (reserve(first), reserve(make_order("acc"), broken), reserve(last)):
        draft.apply(command)
    assert isinstance(draft.results[1], ZeroDivisionError)
    assert set(draft.orders) == {first.order_id, last.order_id}
    assert draft.account is not None
    assert draft.account.open_orders == 2


def test_second_order_with_the_same_client_id_meets_the_first(copy: Copy) -> None:
    draft = Draft(copy, 5)
    first = make_order("acc", client_order_id="c")
    draft.apply(reserve(first))
    draft.apply(reserve(make_order("acc", client_order_id="c")))
    draft.apply(reserve(make_order("acc", client_order_id="c", digest="other")))
    assert _effects(draft) == [Effect.DONE, Effect.REPEATED, Effect.CONFLICT]
    assert draft.client_guards == [("c", first.order_id)]


def test_order_whose_client_id_another_one_holds_is_taken_to_be_new_only_under_a_guard(copy: Copy) -> None:
    """It may have been given up: then its own tombstone is what a late reservation meets."""
    held, late = make_order("acc", client_order_id="c"), make_order("acc", client_order_id="c")
    copy.clients["c"], copy.orders[held.order_id] = held.order_id, held
    draft = Draft(copy, 5)
    draft.apply(reserve(late))
    assert _effects(draft) == [Effect.REPEATED]
    assert draft.order_guards == [late.order_id]


def test_denial_is_remembered_under_its_client_id(copy: Copy) -> None:
    draft = Draft(copy, 5)
    draft.apply(reserve(make_order("acc", client_order_id="c"), refuse))
    draft.apply(reserve(make_order("acc", client_order_id="c"), hold_price))
    result = draft.results[1]
    assert isinstance(result, Outcome)
    assert (result.effect, result.state) == (Effect.REPEATED, OrderState.DENIED)


def test_abandoned_order_frees_its_client_id(copy: Copy) -> None:
    draft = Draft(copy, 5)
    first, second = make_order("acc", client_order_id="c"), make_order("acc", client_order_id="c")
    for command in (reserve(first), abandon(first), reserve(second)):
        draft.apply(command)
    assert _effects(draft) == [Effect.DONE, Effect.DONE, Effect.DONE]
    assert draft.clients == {"c": second.order_id}
    assert {name: order.order_id for name, order in draft.given_up.items()} == {"c": first.order_id}


def test_tombstone_does_not_take_the_client_id(copy: Copy) -> None:
    draft = Draft(copy, 5)
    first, second = make_order("acc", client_order_id="c"), make_order("acc", client_order_id="c")
    for command in (abandon(first), reserve(second), reserve(first)):
        draft.apply(command)
    assert _effects(draft) == [Effect.DONE, Effect.DONE, Effect.REPEATED]
    assert draft.tombstones == {first.order_id}
    assert draft.clients == {"c": second.order_id}


def test_order_that_was_given_up_keeps_its_client_id_from_older_orders_only(copy: Copy) -> None:
    draft = Draft(copy, 5)
    held_up, given_up, retried = (make_order("acc", client_order_id="c") for _ in range(3))
    for command in (abandon(given_up), reserve(held_up), abandon(held_up), reserve(retried)):
        draft.apply(command)
    assert _effects(draft) == [Effect.DONE, Effect.REPEATED, Effect.REPEATED, Effect.DONE]
    assert draft.clients == {"c": retried.order_id}
    assert set(draft.orders) == {given_up.order_id, retried.order_id}


def test_order_that_a_refused_commit_told_was_given_up_keeps_its_client_id_from_older_orders_only(
    copy: Copy,
) -> None:
    held_up, given_up, retried = (make_order("acc", client_order_id="c") for _ in range(3))
    copy.given_up["c"] = given_up
    draft = Draft(copy, 5)
    for command in (reserve(held_up), reserve(retried)):
        draft.apply(command)
    assert _effects(draft) == [Effect.REPEATED, Effect.DONE]
    assert draft.client_guards == [("c", retried.order_id)]


def test_new_orders_are_guarded_by_order_id_and_client_id(copy: Copy) -> None:
    draft = Draft(copy, 5)
    named, nameless = make_order("acc", client_order_id="c"), make_order("acc", client_order_id="")
    draft.apply(reserve(named))
    draft.apply(reserve(nameless))
    assert draft.order_guards == [named.order_id, nameless.order_id]
    assert draft.client_guards == [("c", named.order_id)]


def test_records_are_read_for_commands_that_name_an_order_unless_they_are_at_hand(copy: Copy) -> None:
    one, two = make_order("acc"), make_order("acc")
    copy.orders[one.order_id] = one
    commands: list[Command] = [
        request_cancel(one),
        request_cancel(two),
        fill(two, 1, "1"),
        reserve(make_order("acc")),
    ]
    assert preread(commands, copy) == [two.order_id]


def test_copy_keeps_a_bounded_number_of_open_orders(copy: Copy) -> None:
    draft = Draft(copy, 5)
    for _ in range(2):
        draft = Draft(copy, 5)
        for _ in range(ORDERS_KEPT):
            draft.apply(reserve(make_order("acc")))
        copy = copy.advanced("t", draft.account, {}, draft.orders)
    assert list(copy.orders) == list(draft.orders)


def test_copy_drops_orders_that_ended(copy: Copy) -> None:
    order = make_order("acc")
    draft = Draft(copy, 5)
    draft.apply(reserve(order))
    copy = copy.advanced("t", draft.account, {}, draft.orders)
    draft = Draft(copy, 6)
    draft.apply(abandon(order))
    assert copy.advanced("u", draft.account, {}, draft.orders).orders == {}
