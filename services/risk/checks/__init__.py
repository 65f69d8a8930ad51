"""Pre-trade checks: pure functions of account, order, marks and limits, on the domain alone."""

from services.risk.checks.candidate import Candidate, DryOrder
from services.risk.checks.evaluate import Control, Verdict, assess, evaluate
from services.risk.checks.exposure import AccountRisk, SymbolExposure, appraise
from services.risk.checks.groups import evaluate_group
from services.risk.checks.limits import (
    CHECK_NAMES,
    LIMIT_KEYS,
    Limits,
    LimitsUnreadable,
    Policy,
    limits_in_force,
)
from services.risk.checks.market import Market, Quote, Returns
from services.risk.checks.value_at_risk import VarDataUnavailable, value_at_risk

__all__ = [
    "CHECK_NAMES",
    "LIMIT_KEYS",
    "AccountRisk",
    "Candidate",
    "Control",
    "DryOrder",
    "Limits",
    "LimitsUnreadable",
    "Market",
    "Policy",
    "Quote",
    "Returns",
    "SymbolExposure",
    "VarDataUnavailable",
    "Verdict",
    "appraise",
    "assess",
    "evaluate",
    "evaluate_group",
    "limits_in_force",
    "value_at_risk",
]
