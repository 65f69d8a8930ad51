"""The limits that the checks compare with: configured once, overridden per account."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from typing import Final

CHECK_NAMES: Final = (
    "position_limit",
    "order_size_limit",
    "buying_power",
    "var_limit",
    "concentration_limit",
    "short_restriction",
)
"""The checks that `risk_checks.enabled` chooses from; every other control is always on."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Every number that an account's override can replace, named as its configuration key."""

    max_order_size_usd: Decimal
    max_order_size_shares: Decimal
    max_position_size_usd: Decimal
    max_concentration_pct: Decimal
    """Percent of the worst equity."""
    max_portfolio_var_usd: Decimal
    margin_requirement_pct: Decimal
    """Percent of the exposure that equity has to cover."""
    max_deviation_pct: Decimal
    """Price collar: percent of the mark that a limit price may be away from it."""


LIMIT_KEYS: Final = tuple(field.name for field in fields(Limits))


@dataclass(frozen=True, slots=True)
class Policy:
    """What is the same for every account of a process."""

    limits: Limits
    """As configured."""
    enabled: frozenset[str]
    """Those of `CHECK_NAMES` that are switched on."""
    allow_short: bool
    slippage_pct: Decimal
    """Percent of the mark that a market or stop order may be filled beyond it; 0 ≤ slippage < 100."""
    worst_fee_pct: Decimal
    """Percent of a trade's value that the venue charges at most; ≥ 0."""
    var_confidence_level: Decimal
    """0 < c < 1."""


class LimitsUnreadable(Exception):
    """An account's override is not a limit; the message names the key."""


def limits_in_force(configured: Limits, overrides: Mapping[str, Decimal]) -> Limits:
    """The configured limits with an account's overrides over them.

    Raises `LimitsUnreadable` for an unknown key, or a value that is no finite number ≥ 0: guessing what such
    an override meant could let an order pass that it was made to stop.
    """
    if not overrides:
        return configured
    for key, value in overrides.items():
        if key not in LIMIT_KEYS:
            raise LimitsUnreadable(f"{key} is not a limit")
        if not value.is_finite() or value < 0:
            raise LimitsUnreadable(f"{key} has no usable value")
    return replace(configured, **overrides)
