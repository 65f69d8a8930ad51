"""Settings of oms: every key of `config/backend/oms/config.yaml`, its default and what it does."""

from decimal import Decimal
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from services.instruments import DEFAULT_INSTRUMENTS, InstrumentList
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

RISK_GRPC_PORT: Final = 18103
"""Port of the risk service's gRPC side where `risk_service.grpc_target` does not name one."""

CHECK_PATH: Final = "/check"
"""Path of `RiskService/Check` in its contract; a test compares the two."""

OrderTypeName = Literal["market", "limit", "stop", "stop_limit"]
_TOKEN: Final = r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$"


class OmsServiceSettings(ServiceSettings):
    """Section `service`."""

    name: str = Field(default="oms", min_length=1)
    port: Port = 8099
    grpc_port: Port | None = 18099


class OmsNatsSettings(NatsSettings):
    """Section `nats`."""

    fill_subject: Annotated[str, Field(pattern=r"^fills\.(>|\*|[A-Za-z0-9_-]{1,64})$")] = "fills.>"
    """Fills that are applied: of every account, or of the one that is named."""
    order_subject_prefix: Annotated[str, Field(pattern=_TOKEN)] = "orders"
    """Orders leave as `<prefix>.<account>.new`, `.cancel` and `.replace`; a stream has to take them."""
    position_subject_prefix: Annotated[str, Field(pattern=_TOKEN)] = "positions"
    """Positions are published as `<prefix>.<account>`."""


class OmsValkeySettings(ValkeySettings):
    """Section `valkey`: where the projection `position:{account}:{symbol}` lives."""

    db: int = Field(default=5, ge=0)
    max_connections: int = Field(default=20, ge=1)
    """Connections of a worker to it for looking at it, at most; positions are written through one."""
    position_ttl_sec: PositiveDuration = 3600.0
    """Upper bound, in seconds, on the age of a copy of an account in a worker. A position never expires."""


class OmsLedgerSettings(LedgerSettings):
    """Section `ledger`: the account ledger, shared with risk."""

    opening_cash_usd: Number = Decimal(100_000)
    """Cash of an account that oms opens unchecked; where risk can be asked, it tells."""
    allow_unsafe: bool = False
    """Take a Valkey that may lose or evict what it confirmed. For experiments only."""


class OmsQuestdbSettings(QuestdbSettings):
    """Section `questdb`: where fills and the log of orders are stored."""

    batch_size: int = Field(default=1000, ge=1, le=100_000)
    """Rows that are written at once, at most."""
    flush_interval_sec: PositiveDuration = 10.0
    """Longest time that a row waits for others before it is written."""


class RiskServiceSettings(Section):
    """Section `risk_service`."""

    url: str = "http://risk:8103"
    """REST address of risk; its host is where gRPC is expected when `grpc_target` is empty."""
    grpc_target: str = ""
    """`host:port` of risk's gRPC side; empty: the host of `url` and port 18103."""
    grpc_authorities: str = ""
    """PEM file of those who may vouch for risk's certificate; empty: the connection is not encrypted."""
    timeout_sec: PositiveDuration = 0.005
    """Deadline of a reservation, counted from its sending."""
    check_endpoint: str = "/check"
    """Path of the check in risk's contract; another one than the contract's is refused."""
    enabled: bool = True
    """False: oms reserves by itself, unchecked. Trading states and the limit of open orders still hold."""
    fail_closed: bool = True
    """False: an order of which risk tells nothing in time is reserved unchecked. A denial always denies."""

    @field_validator("check_endpoint")
    @classmethod
    def _as_in_the_contract(cls, path: str) -> str:
        if path != CHECK_PATH:
            raise ValueError(f"must be {CHECK_PATH}, the path in risk's contract")
        return path

    @model_validator(mode="after")
    def _host_is_named(self) -> "RiskServiceSettings":
        if not self.grpc_target and not urlsplit(self.url).hostname:
            raise ValueError("risk_service.url: must be an address such as http://risk:8103")
        return self

    @property
    def target(self) -> str:
        """`host:port` of risk's gRPC side."""
        if self.grpc_target:
            return self.grpc_target
        host = urlsplit(self.url).hostname or ""
        return f"[{host}]:{RISK_GRPC_PORT}" if ":" in host else f"{host}:{RISK_GRPC_PORT}"


class OrderManagementSettings(Section):
    """Section `order_management`."""

    supported_order_types: Annotated[tuple[OrderTypeName, ...], as_tuple, Field(min_length=1)] = (
        "market",
        "limit",
        "stop",
        "stop_limit",
    )
    """Order types that are taken; others are refused as invalid."""
    max_open_orders_per_account: int = Field(default=1000, ge=1, le=1_000_000)
    """Open orders that an account may have; checked in the commit of each reservation."""
    order_timeout_sec: PositiveDuration = 300.0
    """Life of an order without explicit time in force."""
    update_positions_realtime: bool = True
    """False: positions are published and projected every `reconcile_positions_interval_sec` only."""
    reconcile_positions_interval_sec: PositiveDuration = 60.0
    """Seconds between two passes that publish and project every position of the accounts owned."""
    ended_orders_kept_sec: PositiveDuration = 120.0
    """Seconds that an ended order stays in the ledger at least: a late report finds it, and a repeated fill
    is recognised by it. Then it goes as soon as it is stored; its client order id is kept for 24 h."""
    publish_timeout_sec: PositiveDuration = 3.0
    """Seconds that a submission waits for the journal of orders before its outcome is told as unknown."""


class PerformanceSettings(Section):
    """Section `performance`. Milliseconds from the arrival of an order to its answer."""

    latency_sla_ms: PositiveDuration = 10.0
    """Slower submissions are logged and counted."""
    max_latency_ms: PositiveDuration = 50.0
    """Slower submissions are counted apart."""


class OmsMonitoringSettings(MonitoringSettings):
    """Section `monitoring`."""

    health_check_interval_sec: PositiveDuration = 30.0
    metrics_port: Port = 9099


class OmsSettings(ServiceConfig):
    """The whole file."""

    service: OmsServiceSettings = OmsServiceSettings()
    nats: OmsNatsSettings = OmsNatsSettings()
    valkey: OmsValkeySettings = OmsValkeySettings()
    ledger: OmsLedgerSettings = OmsLedgerSettings()
    questdb: OmsQuestdbSettings = OmsQuestdbSettings()
    risk_service: RiskServiceSettings = RiskServiceSettings()
    order_management: OrderManagementSettings = OrderManagementSettings()
    performance: PerformanceSettings = PerformanceSettings()
    monitoring: OmsMonitoringSettings = OmsMonitoringSettings()
    instruments: InstrumentList = DEFAULT_INSTRUMENTS
    """Known symbols with their increments; risk and the venue have the same ones."""
