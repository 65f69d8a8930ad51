"""Wires the venue.

Start:
1. the journal is opened (one process at a time can have it) and read;
2. NATS is connected, the streams are made to exist, a second venue on them is refused;
3. engine, outboxes and positions take over what was journaled;
4. what was decided before and is not known to be published is settled, while marks are awaited (3 s at most);
5. requests and `/health` are answered, orders are read from the checkpoint.

Stop (SIGTERM):
1. not healthy any more, no more orders are read;
2. what was decided is journaled and published (10 s at most; the next start publishes the rest);
3. HTTP ends, NATS and the journal are closed.
"""

import asyncio
import copy
import secrets
from pathlib import Path
from typing import Final

from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from services.live_gateway import metrics
from services.live_gateway.engine import Engine
from services.live_gateway.gateway import LETTERS_LANE, REPORTS_LANE, Gateway
from services.live_gateway.journal import Journal, Journaled
from services.live_gateway.memory import OrderMemory
from services.live_gateway.order_feed import OrderFeed
from services.live_gateway.outbox import Outbox
from services.live_gateway.queries import POSITIONS_SUBJECT, Queries
from services.live_gateway.records import movement_of
from services.live_gateway.settings import GatewaySettings
from services.runtime.connections import NatsClient, open_nats
from services.runtime.health import HealthBoard
from services.runtime.http_server import serve
from services.runtime.publisher import Publisher
from services.runtime.service import WorkerContext
from services.runtime.streams import DEADLETTER, EXECUTIONS, ORDERS, ensure_streams
from services.runtime.telemetry import get_logger

_DRAIN_SEC: Final = 10.0
_OTHER_VENUE_SEC: Final = 1.0
_POLL_SEC: Final = 0.02
_GAUGES_SEC: Final = 1.0

_Context = WorkerContext[GatewaySettings]
_log = get_logger("live_gateway.bootstrap")


class OtherVenue(Exception):
    """A venue answers on the same NATS already; two would execute every order twice."""


async def run(context: _Context) -> None:
    """One worker's life; see the steps above."""
    journal = Journal(Path(context.settings.store.path), context.settings.store.durability)
    try:
        journaled = await journal.open(new_venue=secrets.token_hex(4))
        link = _Link(context)
        client = await open_nats(
            context.settings.nats.url,
            context.settings.service.name,
            on_disconnected=link.disconnected,
            on_closed=link.closed,
        )
        try:
            await _serve(context, journal, journaled, client, link)
        finally:
            link.closing = True
            await client.close()
    finally:
        await journal.close()


class _Link:
    """Tells the parts what becomes of the connection to NATS."""

    def __init__(self, context: _Context) -> None:
        self._context = context
        self.board = HealthBoard(context.settings.monitoring.health_check_interval_sec)
        self.feed: OrderFeed | None = None
        self.closing = False

    async def disconnected(self) -> None:
        if self.feed is not None:
            self.board.report("nats", False, "disconnected")

    async def closed(self) -> None:
        if not self.closing:
            self._context.fail(ConnectionError("the connection to NATS was given up"), "nats")


async def _serve(
    context: _Context, journal: Journal, journaled: Journaled, client: NatsClient, link: _Link
) -> None:
    settings, board = context.settings, link.board
    await ensure_streams(client.jetstream(), (ORDERS, EXECUTIONS, DEADLETTER))
    await _refuse_other_venue(client)
    publisher = Publisher(client)
    await publisher.start()
    gateway, lanes = _venue(context, journal, journaled, client, publisher)
    feed = link.feed = OrderFeed(client, gateway)
    board.register("nats", critical=True, probe=feed.check)
    board.register("marks", critical=False, probe=lambda: _fresh_marks(context, gateway))
    await feed.check()
    context.own(gateway.keep_journal(), "journal")
    for lane in lanes:
        context.own(lane.run(), "outbox")

    async def on_tick(message: Msg) -> None:
        gateway.tick(message.subject.partition(".")[2], message.data)

    await client.subscribe("ticks.*", cb=on_tick)
    await client.flush()
    await _await_marks(context, gateway)
    await Queries(client, gateway, journal, context.clock).start()
    await board.probe_once()
    http = await serve(
        _application(board), settings.service.host, settings.service.port, on_failure=context.fail
    )
    orders = context.own(feed.run(), "orders")
    context.own(board.run(), "health")
    context.own(_show(gateway), "gauges")
    context.ready()
    await context.stop.wait()
    board.stopping()
    orders.cancel()
    await asyncio.wait([orders])
    if context.failed is None:
        try:
            async with asyncio.timeout(_DRAIN_SEC):
                await gateway.drain()
        except TimeoutError:
            _log.warning("stopped with untold reports", count=gateway.untold)
    await http.stop()
    await context.cancel_owned()


def _venue(
    context: _Context, journal: Journal, journaled: Journaled, client: NatsClient, publisher: Publisher
) -> tuple[Gateway, list[Outbox]]:
    """Engine, gateway and outboxes, as they were when the journal was last written."""
    settings, facts = context.settings, journaled.facts
    memory = OrderMemory(settings.store.recent_orders, facts.highest_ulid)
    engine = Engine(facts.venue, settings.rules(), memory, facts.next_number)
    engine.restore(journaled.working, journaled.positions, facts.marks)
    waiting = {
        lane: [(batch, [(one, movement_of(one)) for one in messages]) for batch, messages in batches]
        for lane, batches in journaled.outbox.items()
    }
    published = copy.deepcopy(journaled.positions)
    for batches in waiting.values():
        for _, messages in batches:
            for _, movement in messages:
                if movement is not None:
                    movement.apply(published, -1)
    next_batch = 1 + max((batch for batches in waiting.values() for batch, _ in batches), default=0)
    gateway = Gateway(engine, memory, journal, facts, published, context.clock, next_batch)
    reports = Outbox(
        client,
        publisher,
        EXECUTIONS,
        created=facts.executions_created,
        sequence=facts.executions_seq,
        on_settled=gateway.settled,
    )
    letters = Outbox(client, publisher, DEADLETTER, created="", sequence=0, on_settled=gateway.settled)
    for name, lane in ((REPORTS_LANE, reports), (LETTERS_LANE, letters)):
        for batch, messages in waiting.get(name, []):
            lane.add(batch, messages)
    gateway.attach(reports, letters)
    _log.info(
        "journal read",
        venue=facts.venue,
        orders_seq=facts.orders_seq,
        working=len(journaled.working),
        untold=gateway.untold,
    )
    return gateway, [reports, letters]


async def _refuse_other_venue(client: NatsClient) -> None:
    try:
        answer = await client.request(POSITIONS_SUBJECT, b'{"page_size":1}', timeout=_OTHER_VENUE_SEC)
    except (NoRespondersError, NatsTimeoutError):
        return  # nobody there, or one whose process is gone and whose connection is not yet
    raise OtherVenue(f"another venue answers on this NATS: {answer.data[:100]!r}")


async def _await_marks(context: _Context, gateway: Gateway) -> None:
    """Returns when every instrument has a mark, or the configured time is over."""
    deadline = context.clock.monotonic() + context.settings.marks.startup_wait_sec
    while gateway.engine.without_mark(context.clock.now_ns()) and context.clock.monotonic() < deadline:
        if context.stop.is_set():
            return
        await asyncio.sleep(_POLL_SEC)


async def _fresh_marks(context: _Context, gateway: Gateway) -> None:
    missing = gateway.engine.without_mark(context.clock.now_ns())
    if missing:
        raise LookupError(f"no mark of {', '.join(missing)}")


async def _show(gateway: Gateway) -> None:
    while True:
        metrics.open_orders.set(len(gateway.engine.working))
        metrics.untold.set(gateway.untold)
        await asyncio.sleep(_GAUGES_SEC)


def _application(board: HealthBoard) -> Starlette:
    async def health(_: Request) -> JSONResponse:
        status, body = board.body()
        return JSONResponse(body, status)

    async def live(_: Request) -> JSONResponse:
        return JSONResponse({"status": "alive"})

    return Starlette(routes=[Route("/health", health), Route("/live", live)])
