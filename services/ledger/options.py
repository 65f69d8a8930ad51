"""How one worker uses the ledger."""

from dataclasses import dataclass
from decimal import Decimal

from services.ledger.partition import PARTITIONS
from services.ledger.store import REMEMBERED_DENIALS


@dataclass(frozen=True, slots=True)
class LedgerOptions:
    """Where the ledger is and how it is read. Times in seconds."""

    url: str = "redis://127.0.0.1:6379"
    db: int = 0
    partitions: int = PARTITIONS
    opening_cash: Decimal | None = Decimal(100_000)
    """Cash of an account that is opened by its first command; None: this process opens none."""
    position_cache_ttl: float = 300.0
    """Greatest age of a copy that is shown to readers, whatever tracking says."""
    cache_accounts: bool = True
    """False: every reader's look at an account reads Valkey."""
    read_ahead: bool = False
    """An account that another worker has changed is read again at once if it was used since the last time, so
    that who needs it next need not wait for it."""
    allow_unsafe: bool = False
    """Take a server that may lose or evict what it confirmed."""
    socket_timeout: float = 1.0
    """A connection that leaves a request unanswered for so long is given up."""
    max_batch: int = 128
    """Commands of one account in one commit."""
    remembered_denials: int = REMEMBERED_DENIALS
    """Denials that an account keeps for 24 h by their client order id; beyond, the oldest is forgotten."""
