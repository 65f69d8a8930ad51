"""Commits for the tests to lose and to find again."""

from __future__ import annotations

from services.ledger.commands import ReportKind
from tests.integration.recovery.conftest import Scene
from tests.unit.ledger.making import abandon, fill, make_order, refuse, report, reserve

ACCOUNTS = tuple(f"acc{number}" for number in range(6))


async def traffic(scene: Scene, first: int = 1) -> int:
    """Orders in every state that leaves something stored; returns the next sequence of a report."""
    sequence = first
    for account in ACCOUNTS:
        filled, resting, partly = (make_order(account, "1") for _ in range(3))
        given_up, tombstone = make_order(account, "1"), make_order(account, "1")
        for order in (filled, resting, partly, given_up):
            await scene.ledger.execute(reserve(order))
        await scene.ledger.execute(reserve(make_order(account, "1"), refuse))
        await scene.ledger.execute(abandon(given_up))
        await scene.ledger.execute(abandon(tombstone))
        await scene.ledger.execute(fill(filled, sequence, "1"))
        await scene.ledger.execute(fill(partly, sequence + 1, "0.4"))
        await scene.ledger.execute(report(ReportKind.ACCEPTED, resting, sequence + 2))
        sequence += 3
    return sequence


async def carried_traffic(scene: Scene, first: int = 1) -> int:
    """`traffic`, all of it in LEDGER."""
    sequence = await traffic(scene, first)
    await scene.carried()
    return sequence


async def goes_on(scene: Scene, first: int) -> None:
    """The ledger takes commands, and stays what its journal folds to."""
    await scene.usable()
    await carried_traffic(scene, first)
    assert await scene.verified() == []
