"""The chosen shift of the history, in NATS' key-value bucket, so that every start finds the same one."""

from datetime import date

import msgspec
from nats.js import JetStreamContext
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue

from services.market_data.dates import Shift, choose_shift
from services.messages import UNREADABLE
from services.runtime.streams import REPLAY_BUCKET, ensure_bucket
from services.runtime.telemetry import get_logger

_KEY = "history_shift"
_log = get_logger("market_data.shift_store")


class StoredShift(msgspec.Struct, frozen=True):
    """What the bucket holds."""

    days: int
    chosen_on: date
    """The UTC day on which it was chosen."""


class ShiftStore:
    """Chooses the shift once and keeps it until it is stale."""

    def __init__(self, js: JetStreamContext, last_recorded: date) -> None:
        """`last_recorded`: the day of the last bar of the recorded history."""
        self._js = js
        self._last_recorded = last_recorded

    async def choose(self, today: date) -> Shift:
        """The shift for the UTC day `today`; stored when it is new. Raises what NATS raises when it is
        away."""
        bucket = await ensure_bucket(self._js, REPLAY_BUCKET)
        while True:
            stored, revision = await _read(bucket)
            shift = choose_shift(None if stored is None else stored.days, self._last_recorded, today)
            if stored is not None and shift.stale is None:
                return shift
            record = msgspec.json.encode(StoredShift(shift.days, today))
            try:
                await bucket.update(_KEY, record, last=revision)
            except KeyWrongLastSequenceError:
                continue  # somebody else chose at the same moment: look again
            if stored is None:
                _log.info("history dates shifted", days=shift.days)
            else:
                _log.warning(
                    "history dates shifted anew",
                    days=shift.days,
                    before=stored.days,
                    chosen_on=stored.chosen_on,
                )
            return shift


async def _read(bucket: KeyValue) -> tuple[StoredShift | None, int]:
    try:
        entry = await bucket.get(_KEY)
    except KeyNotFoundError as error:
        # A deleted key keeps its revision, which an update has to name.
        return None, (error.entry.revision or 0) if error.entry is not None else 0
    try:
        return msgspec.json.decode(entry.value or b"", type=StoredShift), entry.revision or 0
    except UNREADABLE:
        return None, entry.revision or 0
