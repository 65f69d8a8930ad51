"""Where every order of a load went, counted in four places that do not know each other.

The client counts its answers, stream ORDERS what was sent to the venue, `orders_log` in QuestDB how each
order ended, and fills are counted in the stream, in QuestDB, and in the positions.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import httpx
import nats

from perf.load import Load
from perf.platform import Platform

_ENDS: Final = ("denied", "rejected", "filled", "canceled", "expired")
_FLUSH_SEC: Final = 60.0


@dataclass(frozen=True, slots=True)
class Account:
    """The count."""

    sent: int
    """Requests of the load tool."""
    answered: Mapping[str, int]
    """HTTP 200 by what the answer said: `submitted` or the reason of a denial."""
    refused: int
    """Requests that were answered 429: of their orders nothing was done."""
    failed: int
    """Other requests without HTTP 200: their orders may or may not exist."""
    published: int
    """New orders in stream ORDERS."""
    ended: Mapping[str, int]
    """Orders in `orders_log` by how they ended; `open` for those that have not."""
    given_up: int
    """Of the canceled: reserved, then abandoned by oms before anything was published."""
    fills_stream: int
    fills_stored: int
    wrong_positions: tuple[str, ...]
    """Accounts whose position differs from Σ of their stored fills, in the service or in Valkey."""

    @property
    def submitted(self) -> int:
        return self.answered.get("submitted", 0)

    @property
    def denied(self) -> int:
        """Answered with a reason."""
        return sum(self.answered.values()) - self.submitted

    @property
    def at_venue(self) -> int:
        """Orders that reached the venue, by how they stand."""
        return sum(self.ended.get(end, 0) for end in (*_ENDS[1:], "open")) - self.given_up

    @property
    def complaints(self) -> list[str]:
        """What does not add up; nothing when all of it does."""
        found = []
        # An order whose request failed may have been sent or not.
        if not self.submitted <= self.published <= self.submitted + self.failed:
            found.append(f"{self.submitted} answered submitted, {self.published} in stream ORDERS")
        if self.published != self.at_venue:
            found.append(f"{self.published} in stream ORDERS, {self.at_venue} in the log of orders")
        answered = self.denied + self.submitted + self.refused + self.failed
        if self.sent != answered:
            found.append(f"{self.sent} sent, {answered} answered")
        if self.fills_stored != self.fills_stream:
            found.append(f"{self.fills_stream} fills in the stream, {self.fills_stored} in QuestDB")
        if self.fills_stored < self.ended.get("filled", 0):
            found.append(f"{self.ended.get('filled', 0)} orders filled by {self.fills_stored} fills")
        found.extend(f"position of {account} is not Σ of its fills" for account in self.wrong_positions)
        return found

    def spelled(self) -> str:
        """The equation."""
        ends = {**self.ended, "canceled": self.ended.get("canceled", 0) - self.given_up}
        parts = " + ".join(f"{ends.get(end, 0)} {end}" for end in (*_ENDS[1:], "open"))
        refused = f" + {self.refused} refused by 429" if self.refused else ""
        failed = f" + {self.failed} failed otherwise" if self.failed else ""
        return f"{self.sent} received = {self.denied} denied + {parts}{refused}{failed}"


def count(platform: Platform, load: Load) -> Account:
    """Counts, after waiting until everything has been stored."""
    streams, stored = asyncio.run(_subjects(platform)), 0
    published = sum(number for subject, number in streams["ORDERS"].items() if subject.endswith(".new"))
    fills = sum(number for subject, number in streams["EXECUTIONS"].items() if ".fills." in subject)
    deadline = time.monotonic() + _FLUSH_SEC
    while True:
        ended = ended_orders(platform)
        stored = first_value(platform, "SELECT count() FROM fills")
        told = sum(ended.values()) - ended["denied"]
        if (stored >= fills and not ended["open"] and told >= published) or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    given_up = first_value(
        platform,
        "SELECT count_distinct(order_id) FROM orders_log WHERE state = 'canceled' AND reason IN "
        "('risk_timeout', 'risk_error', 'not_published', 'trading_halted')",
    )
    refused = sum(number for status, number in load.outcomes.items() if status.startswith("429"))
    return Account(
        sent=load.requests,
        answered=load.answers,
        refused=refused,
        failed=load.errors - refused,
        published=published,
        ended=ended,
        given_up=given_up,
        fills_stream=fills,
        fills_stored=stored,
        wrong_positions=tuple(wrong_positions(platform)),
    )


def ended_orders(platform: Platform) -> Counter[str]:
    """Orders by their terminal event; the rest is open."""
    ends = ", ".join(f"'{end}'" for end in _ENDS)
    rows = platform.query(
        f"SELECT state, count_distinct(order_id) FROM orders_log WHERE state IN ({ends}) GROUP BY state"
    )
    found = Counter({str(state): int(number) for state, number in rows})
    known = first_value(platform, "SELECT count_distinct(order_id) FROM orders_log WHERE order_id <> ''")
    found["open"] = known - sum(found.values())
    return found


def first_value(platform: Platform, statement: str) -> int:
    """The number that a query of QuestDB answers; 0 when its table does not exist yet."""
    rows = platform.query(statement)
    return int(rows[0][0]) if rows else 0


async def _subjects(platform: Platform) -> dict[str, dict[str, int]]:
    """Messages by subject of the two streams."""
    client = await nats.connect(f"nats://{platform.stack.address('nats', 'nats')}")
    try:
        found: dict[str, dict[str, int]] = {}
        for stream in ("ORDERS", "EXECUTIONS"):
            info = await client.jetstream().stream_info(stream, subjects_filter=">")
            found[stream] = dict(info.state.subjects or {})
        return found
    finally:
        await client.close()


def wrong_positions(platform: Platform) -> list[str]:
    """Accounts whose position is not Σ of their fills."""
    rows = platform.query(
        "SELECT account, symbol, side, sum(quantity) FROM fills GROUP BY account, symbol, side"
    )
    sums: dict[tuple[str, str], Decimal] = {}
    for account, symbol, side, quantity in rows:
        signed = quantity if side == "buy" else -quantity
        sums[account, symbol] = sums.get((account, symbol), Decimal(0)) + signed
    wrong = []
    with platform.valkey(db=5) as valkey, httpx.Client(timeout=10) as client:
        for (account, symbol), quantity in sorted(sums.items()):
            answer = client.get(platform.rest("oms", f"/positions/{account}")).raise_for_status()
            shown = json.loads(answer.text, parse_float=Decimal, parse_int=Decimal).get(symbol, {})
            projected = valkey.hget(f"position:{account}:{symbol}", "quantity")
            told = Decimal(shown.get("quantity", 0)), Decimal(str(projected or 0))
            if told != (quantity, quantity):
                wrong.append(account)
    return wrong
