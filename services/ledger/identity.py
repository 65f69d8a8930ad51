"""Whether this Valkey may hold the ledger, and whose ledger it holds."""

from typing import Final

from services.ledger import keys
from services.ledger.connection import Connection
from services.ledger.errors import ForeignLedger, RequestRefused, UnsafeValkey
from services.runtime.ids import new_ulid
from services.runtime.telemetry import get_logger

_REQUIRED: Final = {"maxmemory-policy": "noeviction", "appendonly": "yes", "appendfsync": "always"}

_log = get_logger("ledger")


async def require_safe(connection: Connection, *, allow_unsafe: bool) -> None:
    """Raises `UnsafeValkey` for a server that may evict keys or confirm what it has not written to disk.

    With `allow_unsafe` it is said loudly instead.
    """
    try:
        answer = await connection.request("CONFIG", "GET", *_REQUIRED)
    except RequestRefused as error:
        found, unreadable = {}, f" ({error})"
    else:
        pairs = answer.items() if isinstance(answer, dict) else zip(answer[::2], answer[1::2], strict=True)
        found, unreadable = {name.decode(): value.decode() for name, value in pairs}, ""
    wrong = [
        f"{name} is {found.get(name, 'unknown')!r} and has to be {wanted!r}"
        for name, wanted in _REQUIRED.items()
        if found.get(name) != wanted
    ]
    if not wrong:
        return
    why = f"Valkey is not safe for the ledger: {'; '.join(wrong)}{unreadable}"
    if not allow_unsafe:
        raise UnsafeValkey(f"{why} (ledger.allow_unsafe takes it nevertheless)")
    _log.error("UNSAFE LEDGER: confirmed orders and fills may be lost", why=why)


async def identify(connection: Connection, partitions: int) -> str:
    """The identity of the stored data, given to it by whoever comes first.

    Raises `ForeignLedger` when the data is laid out in another number of partitions.
    """
    await connection.request("HSETNX", keys.IDENTITY, "id", new_ulid())
    await connection.request("HSETNX", keys.IDENTITY, "partitions", partitions)
    identity, stored = await connection.request("HMGET", keys.IDENTITY, "id", "partitions")
    if int(stored) != partitions:
        raise ForeignLedger(f"the ledger is laid out in {int(stored)} partitions, not in {partitions}")
    return str(identity.decode())


async def bind_stream(connection: Connection, name: str, created: str) -> None:
    """Ties the data to the stream `name` created at `created`; raises `ForeignLedger` for another one."""
    field = f"stream:{name}"
    await connection.request("HSETNX", keys.IDENTITY, field, created)
    bound = (await connection.request("HGET", keys.IDENTITY, field)).decode()
    if bound != created:
        raise ForeignLedger(
            f"stream {name} was created at {created}, but the ledger counts on the one of {bound}: "
            "its sequence numbers have begun anew"
        )
