"""Configuration of market data: `config/backend/market_data/config.yaml`."""

from datetime import date, time
from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, Field, field_validator

from services.instruments import DEFAULT_INSTRUMENTS, InstrumentList, instruments_of
from services.runtime.settings import (
    MonitoringSettings,
    NatsSettings,
    Number,
    Port,
    PositiveDuration,
    QuestdbSettings,
    Section,
    ServiceConfig,
    ServiceSettings,
)


def _text_to_date(value: object) -> object:
    return date.fromisoformat(value) if isinstance(value, str) else value


def _text_to_time(value: object) -> object:
    return time.fromisoformat(value) if isinstance(value, str) else value


class MarketDataServiceSettings(ServiceSettings):
    """Section `service`."""

    name: str = "market-data"
    """Name in logs and metrics."""
    port: Port = 8096
    """TCP port of `/health`."""
    workers: int = Field(default=1, ge=1, le=1)
    """One: a second process would publish every tick twice."""


class MarketDataQuestdbSettings(QuestdbSettings):
    """Section `questdb`: where bars and ticks are stored."""

    store_ticks: bool = True
    """Whether ticks are stored; false: they are published only."""
    flush_interval_sec: PositiveDuration = 1.0
    """Seconds between two writes of ticks."""
    batch_size: int = Field(default=500, ge=1, le=10_000)
    """Ticks written at once."""
    buffer_ticks: int = Field(default=20_000, ge=1, le=1_000_000)
    """Ticks kept while QuestDB is away; the oldest give way."""
    bars_check_interval_sec: PositiveDuration = 30.0
    """Seconds between two looks at the stored daily bars (and at a new UTC day)."""


class ReplaySettings(Section):
    """Section `replay`: what is replayed, and how."""

    day: Annotated[date, BeforeValidator(_text_to_date)] = date(2024, 1, 10)
    """The recorded UTC day whose prices are published; the days before it are the history."""
    start_time: Annotated[time, BeforeValidator(_text_to_time)] = time(11, 20)
    """Time of that day (UTC) at which every start of the service begins. At 11:20 BTCUSDT is at 45,000.00."""
    speed: Annotated[Number, Field(ge=0, le=100_000)] = Decimal(1)
    """Replayed time over real time: 1 = a day takes a day, 0 = prices stand still at `start_time`."""
    tick_interval_ms: int = Field(default=250, ge=1, le=60_000)
    """Milliseconds between two ticks of a symbol."""


class MarketDataMonitoringSettings(MonitoringSettings):
    """Section `monitoring`."""

    metrics_port: Port = 9096
    """TCP port of `GET /metrics`."""


class MarketDataConfig(ServiceConfig):
    """The whole file."""

    service: MarketDataServiceSettings = MarketDataServiceSettings()
    nats: NatsSettings = NatsSettings()
    questdb: MarketDataQuestdbSettings = MarketDataQuestdbSettings()
    replay: ReplaySettings = ReplaySettings()
    instruments: InstrumentList = DEFAULT_INSTRUMENTS
    """The published symbols; each needs recorded candles of `replay.day`."""
    monitoring: MarketDataMonitoringSettings = MarketDataMonitoringSettings()

    @field_validator("instruments")
    @classmethod
    def _each_once(cls, instruments: InstrumentList) -> InstrumentList:
        instruments_of(instruments)
        return instruments
