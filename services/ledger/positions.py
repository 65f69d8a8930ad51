"""What the world sees of positions: `positions.{account}` on NATS and the projection in oms's database."""

import asyncio
from collections.abc import Mapping
from typing import Protocol

from services import messages
from services.ledger import keys
from services.ledger.codec import PositionChange
from services.ledger.connection import Connection, Endpoint
from services.ledger.errors import RequestRefused
from services.ledger.store import LOAD_LIBRARY, function, load_if_lost


class CorePublisher(Protocol):
    """A NATS client, as far as plain subjects go."""

    async def publish(self, subject: str, payload: bytes = b"") -> None:
        """Sends a message; raises when there is no connection."""


class Positions:
    """Publishes and projects positions. Repeating an older one never replaces a newer one."""

    def __init__(self, client: CorePublisher, endpoint: Endpoint, subject_prefix: str = "positions") -> None:
        """`endpoint` is oms's own database, where the projection `position:{account}:{symbol}` lives."""
        self._client = client
        self._prefix = subject_prefix
        self._connection = Connection(endpoint, prepare=(LOAD_LIBRARY,))

    async def open(self) -> None:
        """Connects; raises `NotConnected`."""
        await self._connection.open()

    async def close(self) -> None:
        await self._connection.close()

    async def show(self, account: str, changes: Mapping[str, tuple[PositionChange, int]]) -> None:
        """Publishes the newest state of each changed symbol, with the time (ns) of its commit.

        Raises an error of the connections; repeating the call is harmless.
        """
        subject = f"{self._prefix}.{account}"
        project = function("project")
        projected = [
            self._connection.request(
                "FCALL", project, 1, keys.projected_position(account, change.symbol),
                change.number, format(change.quantity, "f"), format(change.price, "f"),
            )
            for change, _ in changes.values()
        ]  # fmt: skip
        for change, time_ns in changes.values():
            update = messages.PositionUpdate(
                account=account,
                symbol=change.symbol,
                quantity=change.quantity,
                price=change.price,
                timestamp=messages.timestamp(time_ns),
            )
            await self._client.publish(subject, messages.encode(update))
        for answer in await asyncio.gather(*projected, return_exceptions=True):
            if isinstance(answer, BaseException):
                if isinstance(answer, RequestRefused):
                    await load_if_lost(self._connection, answer)
                raise answer
