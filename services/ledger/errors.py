"""What can go wrong between a command and its answer."""


class LedgerError(Exception):
    """Base of this module's errors."""


class LedgerUnavailable(LedgerError):
    """The account's state cannot be trusted or reached now; the command was certainly not applied."""


class CommitUnknown(LedgerError):
    """No answer came in time: the command may have been applied, or may still be.

    Only another commit settles it: the same command again, or its `Abandon`.
    """


class UnsafeValkey(LedgerError):
    """The server may lose or evict what it confirmed; the message names the setting."""


class ForeignLedger(LedgerError):
    """The stored data belongs to another ledger, number of partitions or stream."""


class NotConnected(LedgerError):
    """There is no connection to Valkey; nothing was sent."""


class Unanswered(LedgerError):
    """A request was sent and the connection ended before its answer: it may have been carried out."""


class RequestRefused(LedgerError):
    """Valkey answered a request with an error; the message is the server's."""

    @property
    def certain(self) -> bool:
        """True when the server refused before doing anything."""
        return str(self).startswith(_REFUSED_BEFORE)


_REFUSED_BEFORE = (
    "LOADING",
    "READONLY",
    "MASTERDOWN",
    "MISCONF",
    "NOREPLICAS",
    "NOAUTH",
    "NOPERM",
    "OOM",
    "BUSY",
    "ERR Function not found",
    "CLUSTERDOWN",
    "MOVED",
)
