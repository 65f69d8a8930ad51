"""The verdict on an order: runs the table of controls and keeps the first failure."""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from functools import lru_cache
from typing import Final, NamedTuple

from services.ledger.account import Account
from services.ledger.commands import Approved, Refused
from services.ledger.order import Reservation
from services.risk.checks.candidate import Candidate
from services.risk.checks.case import Case, NoReferencePrice
from services.risk.checks.controls import CONTROLS, ControlRule, Failure, Finding
from services.risk.checks.display import text
from services.risk.checks.limits import LimitsUnreadable, Policy
from services.risk.checks.market import Market
from services.risk.checks.valuation import UnitValuation

CHECK_ERROR: Final = Failure("risk_check_error", "the checks could not be evaluated")
EXEMPT: Final = "exempt: the order reduces the position"


class Control(NamedTuple):
    """One control of an explanation; a number is None where there is none, or it could not be measured."""

    name: str
    passed: bool
    value: Decimal | None
    limit: Decimal | None
    message: str


class Verdict(NamedTuple):
    """The outcome of the checks on one order."""

    approved: bool
    reason: str = ""
    """Published name of the first failure; empty when approved."""
    message: str = ""
    """The same as a sentence with the numbers."""
    controls: tuple[Control, ...] = ()
    """Every control in the order of evaluation, when an explanation was asked for."""
    unit: UnitValuation | None = None
    """What one unit of the order reserves; present when approved."""
    error: Exception | None = None
    """What went wrong when the reason is `risk_check_error`; for the log, never for a client."""

    def decision(self, order: Candidate) -> Approved | Refused:
        """The verdict on `order` as the ledger takes it."""
        unit = self.unit
        if not self.approved or unit is None:
            return Refused(self.reason, self.message)
        reservation = Reservation(order.terms.quantity, unit.value, unit.loss, unit.fee)
        return Approved(reservation, replace(order.terms, protection_price=unit.protection_price))


def evaluate(
    account: Account,
    order: Candidate,
    market: Market,
    policy: Policy,
    *,
    max_open_orders: int = 0,
    explain: bool = False,
) -> Verdict:
    """Evaluates `order` against `account`, which does not hold it yet.

    `max_open_orders` is the number that the account may have with this one; 0: no limit. Never raises for
    what it finds: anything unexpected denies with `risk_check_error`. Without `explain` evaluation ends at
    the first failure.
    """
    try:
        case = Case(account, order, market, policy, max_open_orders, explain)
        if explain:
            return _explained(case)
        for measure in _measures(policy.enabled, case.reducing):
            failure, value, limit = measure(case)
            if failure is not None:
                return Verdict(False, failure.reason, _sentence(failure.sentence, case, value, limit))
        return Verdict(True, unit=case.unit)
    except Exception as error:  # an order must never pass, or go unanswered, because a check broke
        return Verdict(False, CHECK_ERROR.reason, CHECK_ERROR.sentence, error=error)


def assess(
    account: Account, order: Candidate, market: Market, policy: Policy, max_open_orders: int = 0
) -> Approved | Refused:
    """`evaluate` as the ledger's `Assess`."""
    return evaluate(account, order, market, policy, max_open_orders=max_open_orders).decision(order)


@lru_cache(maxsize=16)
def _measures(enabled: frozenset[str], reducing: bool) -> tuple[Callable[[Case], Finding], ...]:
    """What is measured, in the order of the table, under these switches."""
    return tuple(
        rule.measure
        for rule in CONTROLS
        if (not rule.switch or rule.switch in enabled) and not (reducing and rule.spares_reducing)
    )


def _explained(case: Case) -> Verdict:
    first: tuple[Failure, str] | None = None
    error: Exception | None = None
    controls = []
    for rule in CONTROLS:
        if rule.switch and rule.switch not in case.policy.enabled:
            continue
        control, failure, broken = _explain(rule, case)
        controls.append(control)
        error = error or broken
        if failure is not None and first is None:
            first = failure, control.message if failure is not CHECK_ERROR else failure.sentence
    if first is None:
        return Verdict(True, controls=tuple(controls), unit=case.unit)
    return Verdict(False, first[0].reason, first[1], tuple(controls), error=error)


def _explain(rule: ControlRule, case: Case) -> tuple[Control, Failure | None, Exception | None]:
    exempt = case.reducing and rule.spares_reducing
    try:
        failure, value, limit = rule.measure(case)
    except Exception as error:  # as in `evaluate`
        if exempt:
            return Control(rule.name, True, None, None, EXEMPT), None, None
        expected = isinstance(error, NoReferencePrice | LimitsUnreadable)
        sentence = "cannot be measured" if expected else CHECK_ERROR.sentence
        return Control(rule.name, False, None, None, sentence), CHECK_ERROR, None if expected else error
    if exempt:
        return Control(rule.name, True, value, limit, EXEMPT), None, None
    message = _sentence(rule.about if failure is None else failure.sentence, case, value, limit)
    return Control(rule.name, failure is None, value, limit, message), failure, None


def _sentence(sentence: str, case: Case, value: Decimal | None, limit: Decimal | None) -> str:
    return sentence.format(value=_text(value), limit=_text(limit), symbol=case.order.symbol)


def _text(number: Decimal | None) -> str:
    return "no limit" if number is None else text(number)
