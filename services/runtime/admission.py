"""The bound on calls that are open at once."""

from services.runtime.errors import ResourceExhausted


class Admission:
    """Bounds the calls that are open at once in this worker; shared by gRPC and REST."""

    __slots__ = ("in_flight", "limit", "refused")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_flight = 0
        self.refused = 0

    def refusal(self) -> ResourceExhausted:
        """Counts a refused call and makes its error."""
        self.refused += 1
        return ResourceExhausted(f"more than {self.limit} calls are open")
