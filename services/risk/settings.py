"""The configuration of risk: every key with its default, meaning and bounds."""

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field, field_validator

from services.instruments import DEFAULT_INSTRUMENTS, InstrumentList, instruments_of
from services.risk.checks import CHECK_NAMES, Limits, Policy
from services.runtime.settings import (
    LedgerSettings,
    MonitoringSettings,
    NatsSettings,
    Number,
    Port,
    PositiveDuration,
    QuestdbSettings,
    Section,
    ServiceConfig,
    ServiceSettings,
    ValkeySettings,
    as_tuple,
)

CheckName = Literal[
    "position_limit",
    "order_size_limit",
    "buying_power",
    "var_limit",
    "concentration_limit",
    "short_restriction",
]

NotNegative = Annotated[Number, Field(ge=0)]

_BASIS_POINTS_A_PERCENT = Decimal("0.01")


class RiskServiceSettings(ServiceSettings):
    """Section `service`."""

    name: str = Field(default="risk", min_length=1)
    """Name in logs and metrics."""
    port: Port = 8103
    """TCP port of REST and `/health`."""
    grpc_port: Port | None = 18103
    """TCP port of gRPC; null: none."""


class RiskValkey(ValkeySettings):
    """Section `valkey`: risk's own data, the last daily returns that it read."""

    db: int = Field(default=4, ge=0)
    """Database number."""
    position_cache_ttl_sec: PositiveDuration = 300.0
    """Greatest age in seconds of a copy of an account in this process, whatever tracking says."""


class RiskLedger(LedgerSettings):
    """Section `ledger`: the account ledger, shared with oms."""

    allow_unsafe: bool = False
    """Take a Valkey that may lose or evict what it confirmed. For experiments only."""


class RiskChecks(Section):
    """Section `risk_checks`. Money in USD."""

    enabled: Annotated[tuple[CheckName, ...], as_tuple] = CHECK_NAMES
    """Which of the six checks are made; every other control has its own key."""
    max_order_size_usd: NotNegative = Decimal(100_000)
    """Largest value of one order."""
    max_order_size_shares: NotNegative = Decimal(10_000)
    """Largest quantity of one order, in units of the symbol."""
    max_position_size_usd: NotNegative = Decimal(1_000_000)
    """Largest worst exposure in one symbol."""
    max_concentration_pct: NotNegative = Decimal("25.0")
    """Largest worst exposure in one symbol, in percent of the worst equity."""
    max_portfolio_var_usd: NotNegative = Decimal(50_000)
    """Largest value at risk of one day."""
    var_confidence_level: Annotated[Number, Field(gt=0, lt=1)] = Decimal("0.99")
    """Confidence of the value at risk."""
    var_lookback_days: int = Field(default=30, ge=2, le=1_000)
    """Finished UTC days whose returns are simulated; fewer deny `var_data_unavailable`."""
    initial_buying_power_usd: NotNegative = Decimal(100_000)
    """Opening cash of an account."""
    margin_requirement_pct: NotNegative = Decimal("50.0")
    """Percent of all worst exposures that the worst equity has to cover."""
    allow_short: bool = False
    """Whether a position may become negative."""

    @field_validator("enabled")
    @classmethod
    def _each_once(cls, enabled: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(enabled)) != len(enabled):
            raise ValueError("a check stands twice")
        return enabled


class MarksSettings(Section):
    """Section `marks`: prices from `ticks.{symbol}`."""

    max_age_sec: PositiveDuration = 60.0
    """An order is priced by a mark younger than this."""
    held_max_age_sec: PositiveDuration = 300.0
    """A held position is valued by a mark younger than this."""
    fallback: Literal["deny", "last"] = "deny"
    """Without a young mark: deny, or (loudly) use the last one whatever its age."""
    jump_pct: Annotated[Number, Field(gt=0)] = Decimal(10)
    """A mark that differs from the last by more percent is not believed at once."""
    jump_confirmations: int = Field(default=3, ge=1, le=1_000)
    """Consistent marks that a jump needs to be believed, the first included."""
    slippage_pct: Annotated[Number, Field(ge=0, lt=100)] = Decimal(1)
    """Percent beyond the mark at which a market or stop order may be filled at worst."""


class PriceCollar(Section):
    """Section `price_collar`."""

    max_deviation_pct: NotNegative = Decimal(20)
    """Percent of the mark that a limit price may be away from it, on either side."""


class Fees(Section):
    """Section `fees`."""

    worst_fee_bps: NotNegative = Decimal(10)
    """Basis points of a trade's value that the venue charges at most."""


class History(Section):
    """Section `history`: daily bars for value at risk."""

    refresh_interval_sec: PositiveDuration = 30.0
    """Seconds between two looks at the daily bars."""


class Performance(Section):
    """Section `performance`."""

    latency_sla_ms: PositiveDuration = 1.5
    """Slower checks are logged as warnings and counted."""
    cache_positions: bool = True
    """False: every check reads the account from Valkey."""
    cache_limits: bool = True
    """False: every check reads the limits from Valkey, where they are part of the account."""
    async_var_calculation: bool = False
    """Must be false: value at risk is computed for every order before its verdict."""

    @field_validator("async_var_calculation")
    @classmethod
    def _synchronous(cls, chosen: bool) -> bool:
        if chosen:
            raise ValueError("must be false: an order is never approved before its value at risk is known")
        return chosen


class RiskMonitoring(MonitoringSettings):
    """Section `monitoring`."""

    metrics_port: Port = 9103
    """TCP port of `GET /metrics`."""
    latency_alert_threshold_ms: PositiveDuration = 2.0
    """Slower checks are counted apart, for an alert."""


class RiskSettings(ServiceConfig):
    """The whole configuration."""

    service: RiskServiceSettings = RiskServiceSettings()
    monitoring: RiskMonitoring = RiskMonitoring()
    valkey: RiskValkey = RiskValkey()
    ledger: RiskLedger = RiskLedger()
    nats: NatsSettings = NatsSettings()
    questdb: QuestdbSettings = QuestdbSettings()
    risk_checks: RiskChecks = RiskChecks()
    price_collar: PriceCollar = PriceCollar()
    fees: Fees = Fees()
    marks: MarksSettings = MarksSettings()
    history: History = History()
    performance: Performance = Performance()
    instruments: InstrumentList = DEFAULT_INSTRUMENTS
    """The symbols that are taken."""

    @field_validator("instruments")
    @classmethod
    def _each_once(cls, instruments: InstrumentList) -> InstrumentList:
        instruments_of(instruments)
        return instruments

    @field_validator("marks")
    @classmethod
    def _held_longer(cls, marks: MarksSettings) -> MarksSettings:
        if marks.held_max_age_sec < marks.max_age_sec:
            raise ValueError("held_max_age_sec must not be shorter than max_age_sec")
        return marks

    def policy(self) -> Policy:
        """The same for the checks."""
        checks = self.risk_checks
        return Policy(
            limits=Limits(
                max_order_size_usd=checks.max_order_size_usd,
                max_order_size_shares=checks.max_order_size_shares,
                max_position_size_usd=checks.max_position_size_usd,
                max_concentration_pct=checks.max_concentration_pct,
                max_portfolio_var_usd=checks.max_portfolio_var_usd,
                margin_requirement_pct=checks.margin_requirement_pct,
                max_deviation_pct=self.price_collar.max_deviation_pct,
            ),
            enabled=frozenset(checks.enabled),
            allow_short=checks.allow_short,
            slippage_pct=self.marks.slippage_pct,
            worst_fee_pct=self.fees.worst_fee_bps * _BASIS_POINTS_A_PERCENT,
            var_confidence_level=checks.var_confidence_level,
        )
