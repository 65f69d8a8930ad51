"""Settings of the venue: what stands in config/backend/live_gateway/config.yaml."""

from decimal import Decimal
from typing import Final, Literal

from pydantic import Field, field_validator, model_validator

from services.instruments import DEFAULT_INSTRUMENTS, InstrumentList, instruments_of
from services.live_gateway.rules import FillModel, Instrument, Rules, SelfMatch
from services.runtime.settings import (
    Duration,
    MonitoringSettings,
    NatsSettings,
    Number,
    Port,
    PositiveDuration,
    Section,
    ServiceConfig,
    ServiceSettings,
)

_NS_PER_MS: Final = 1_000_000
_NS_PER_SEC: Final = 1_000_000_000


class GatewayService(ServiceSettings):
    """Section `service`."""

    name: str = Field(default="live-gateway", min_length=1)
    port: Port = 8095
    workers: int = Field(default=1, ge=1, le=64)
    """Always 1: the venue is one matching engine with one journal."""

    @field_validator("workers")
    @classmethod
    def _one_engine(cls, workers: int) -> int:
        if workers != 1:
            raise ValueError("must be 1: the venue is one matching engine with one journal")
        return workers


class StoreSettings(Section):
    """Section `store`: the venue's own journal."""

    path: str = Field(default="data/live_gateway/journal.sqlite3", min_length=1)
    """SQLite file, created with its folder; a relative path counts from the working directory."""
    durability: Literal["process", "strict"] = "process"
    """What a decision survives: the death of the process, or (`strict`) loss of power too."""
    recent_orders: int = Field(default=50_000, ge=1_000)
    """Ended orders kept in memory; older ones are looked up in the journal."""

    orders_kept: int = Field(default=100_000, ge=0)
    """Newest messages of stream ORDERS that stay there although they are decided on and journaled; older
    ones are removed. They are for people and tools that look at the stream; the venue needs none."""

    orders_trim_interval_sec: PositiveDuration = 10.0
    """Seconds between two removals of what is decided on from stream ORDERS."""


class VenueSettings(Section):
    """Section `venue`: how orders are executed."""

    fill_model: Literal["instant", "market"] = "instant"
    """`instant`: limits are executed at once at their own price; `market`: when the mark reaches them."""
    limit_band_pct: Number = Field(default=Decimal(20), gt=0)
    """`instant` refuses a limit further from the mark than this, in percent of the mark."""
    partial_fills: int = Field(default=1, ge=1, le=100)
    """`market`: in how many equal trades an order is executed."""
    fill_delay_ms: Duration = 0.0
    """`market`: milliseconds before an order's first trade and between its trades."""
    taker_fee_bps: Number = Field(default=Decimal(1), ge=-100, le=100)
    """Fee of a trade of an order that did not wait, in basis points of its value; negative = rebate."""
    maker_fee_bps: Number = Field(default=Decimal(1), ge=-100, le=100)
    """Fee of a trade of an order that waited in the book."""
    self_match: Literal["cancel_newest", "cancel_oldest", "allow"] = "cancel_newest"
    """Which of two limits of one account and symbol is canceled when their prices cross: the one that comes,
    the one that rests, or none."""

    @model_validator(mode="after")
    def _of_the_model(self) -> "VenueSettings":
        if self.fill_model == "instant" and (self.partial_fills != 1 or self.fill_delay_ms):
            raise ValueError("partial_fills and fill_delay_ms have no effect without fill_model: market")
        return self


class MarksSettings(Section):
    """Section `marks`: prices from `ticks.{symbol}`."""

    max_age_sec: PositiveDuration = 60.0
    """An older mark counts as none."""
    startup_wait_sec: Duration = 3.0
    """How long the start waits for a mark of every instrument before it reads orders."""


class GatewayMonitoring(MonitoringSettings):
    """Section `monitoring`."""

    metrics_port: Port = 9095


class GatewaySettings(ServiceConfig):
    """The whole configuration."""

    service: GatewayService = GatewayService()
    monitoring: GatewayMonitoring = GatewayMonitoring()
    nats: NatsSettings = NatsSettings()
    store: StoreSettings = StoreSettings()
    venue: VenueSettings = VenueSettings()
    marks: MarksSettings = MarksSettings()
    instruments: InstrumentList = DEFAULT_INSTRUMENTS
    """What the venue trades; an order in anything else is rejected `unknown_symbol`."""

    @field_validator("instruments")
    @classmethod
    def _each_once(cls, instruments: InstrumentList) -> InstrumentList:
        instruments_of(instruments)
        return instruments

    def rules(self) -> Rules:
        """The same for the engine."""
        return Rules(
            instruments={
                one.symbol: Instrument(one.price_increment, one.quantity_increment)
                for one in self.instruments
            },
            fill_model=FillModel(self.venue.fill_model),
            taker_fee_bps=self.venue.taker_fee_bps,
            maker_fee_bps=self.venue.maker_fee_bps,
            limit_band_pct=self.venue.limit_band_pct,
            mark_max_age_ns=round(self.marks.max_age_sec * _NS_PER_SEC),
            slices=self.venue.partial_fills,
            delay_ns=round(self.venue.fill_delay_ms * _NS_PER_MS),
            self_match=SelfMatch(self.venue.self_match),
        )
