"""How full the streams are. They refuse new messages when they are full, so somebody has to know before."""

from typing import Final

from nats.js.errors import NotFoundError

from services.runtime.nats_client import NatsClient
from services.runtime.telemetry import gauge, get_logger

WARN_AT: Final = 0.8
"""Share of its bytes at which a stream is logged, and an alert rule tells."""
DEGRADED_AT: Final = 0.9
"""Share at which the service is degraded."""
_API_TIMEOUT_SEC: Final = 2.0

_bytes: Final = gauge("stream_bytes", "Bytes that a stream holds", ("stream",), merge="livemax")
_max_bytes: Final = gauge(
    "stream_max_bytes", "Bytes at which a stream refuses messages; 0: none", ("stream",), merge="livemax"
)
_log = get_logger("runtime.stream_watch")


class StreamFull(Exception):
    """A stream is about to refuse messages; the text names each with its share."""


class StreamWatch:
    """Looks at some streams; `check` is a health probe."""

    def __init__(self, client: NatsClient, streams: tuple[str, ...]) -> None:
        self._client = client
        self._streams = streams
        self._warned: set[str] = set()
        self.shares: dict[str, float] = {}
        """Of its bytes, what each stream held when it was measured last; 0 without a limit."""

    async def check(self) -> None:
        """Measures every stream. Raises `StreamFull` for those at 90 % or more, and the client's errors."""
        js = self._client.jetstream(timeout=_API_TIMEOUT_SEC)
        full = []
        for stream in self._streams:
            try:
                info = await js.stream_info(stream)
            except NotFoundError:
                continue  # whoever needs it says so
            size, limit = info.state.bytes, info.config.max_bytes or 0
            _bytes.labels(stream).set(size)
            _max_bytes.labels(stream).set(max(0, limit))
            share = self.shares[stream] = size / limit if limit > 0 else 0.0
            self._note(stream, share, size, limit)
            if share >= DEGRADED_AT:
                full.append(f"{stream} is {share:.0%} full")
        if full:
            raise StreamFull("; ".join(full))

    def _note(self, stream: str, share: float, size: int, limit: int) -> None:
        """One line when a stream gets full, and one when it has room again."""
        if share >= WARN_AT and stream not in self._warned:
            self._warned.add(stream)
            _log.warning("stream fills up", stream=stream, share=round(share, 3), bytes=size, max_bytes=limit)
        elif share < WARN_AT and stream in self._warned:
            self._warned.discard(stream)
            _log.info("stream has room again", stream=stream, share=round(share, 3))
