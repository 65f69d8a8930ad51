"""Wires the venue.

Start:
1. `/health` is answered: unhealthy until the end of the start;
2. the journal is opened (one process at a time can have it) and read;
3. NATS is connected, however long that takes; the streams are made to exist; a second venue is refused;
4. a new journal takes over what the reports in EXECUTIONS tell; an old copy of one is refused;
5. engine, outboxes and positions take over what was journaled, untold decisions are published;
6. marks are awaited (3 s at most), requests are answered, orders are read from the checkpoint.

Stop (SIGTERM):
1. not healthy any more, no more orders are read;
2. what was decided is journaled and published (10 s at most; the next start publishes the rest);
3. HTTP ends, NATS and the journal are closed.
"""

import asyncio
import secrets
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

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
from services.live_gateway.order_trim import OrderTrim
from services.live_gateway.outbox import Outbox
from services.live_gateway.positions import PositionTable, of_message
from services.live_gateway.queries import Queries
from services.live_gateway.recovery import recover, refuse_outdated
from services.live_gateway.settings import GatewaySettings
from services.runtime.health import HealthBoard
from services.runtime.http_server import serve
from services.runtime.nats_client import NatsClient, open_nats
from services.runtime.publisher import Publisher
from services.runtime.service import WorkerContext
from services.runtime.streams import DEADLETTER, EXECUTIONS, ORDERS, ensure_streams
from services.runtime.tasks import end
from services.runtime.telemetry import get_logger
from services.venue_queries import POSITIONS_SUBJECT

_DRAIN_SEC: Final = 10.0
_OTHER_VENUE_SEC: Final = 1.0
_POLL_SEC: Final = 0.02
_GAUGES_SEC: Final = 1.0
_SWITCH_SEC: Final = 0.0005
"""How soon the journal's thread gets the interpreter from a busy event loop: several times a transaction."""

T = TypeVar("T")
_Context = WorkerContext[GatewaySettings]
_log = get_logger("live_gateway.bootstrap")


class OtherVenue(Exception):
    """A venue answers on the same NATS already; two would execute every order twice."""


async def run(context: _Context) -> None:
    """One worker's life; see the steps above."""
    sys.setswitchinterval(_SWITCH_SEC)
    settings = context.settings
    board = HealthBoard(settings.monitoring.health_check_interval_sec)
    board.register("nats", critical=True)
    journal = Journal(Path(settings.store.path), settings.store.durability)
    http = await serve(
        _application(board), settings.service.host, settings.service.port, on_failure=context.fail
    )
    try:
        journaled = await journal.open(new_venue=secrets.token_hex(4))
        client = await _unless_stopped(context, _connect(context, board))
        if client is None:
            return
        try:
            work = await _unless_stopped(context, _start(context, board, client, journal, journaled))
            if work is None:
                return
            gateway, orders = work
            context.ready()
            await context.stop.wait()
            board.stopping()
            await _finish(context, gateway, orders)
        finally:
            context.stop.set()  # from here on a closed connection is meant
            await context.cancel_owned()
            await client.close()
    finally:
        await http.stop()
        await journal.close()


async def _unless_stopped(context: _Context, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`; None when the worker is asked to stop before, whereupon `work` is cancelled."""
    doing = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(context.stop.wait())
    await asyncio.wait([doing, stopping], return_when=asyncio.FIRST_COMPLETED)
    await end(stopping, doing)
    return None if doing.cancelled() else doing.result()


async def _connect(context: _Context, board: HealthBoard) -> NatsClient:
    async def disconnected() -> None:
        board.report("nats", False, "disconnected")

    async def closed() -> None:
        if not context.stop.is_set():
            context.fail(ConnectionError("the connection to NATS was given up"), "nats")

    settings = context.settings
    return await open_nats(
        settings.nats.url, settings.service.name, on_disconnected=disconnected, on_closed=closed
    )


async def _start(
    context: _Context, board: HealthBoard, client: NatsClient, journal: Journal, journaled: Journaled
) -> tuple[Gateway, asyncio.Task[None]]:
    """Steps 3 (but for the connection) to 6; the gateway, and the task that reads orders."""
    await ensure_streams(client.jetstream(), (ORDERS, EXECUTIONS, DEADLETTER))
    await _refuse_other_venue(client)
    publisher = Publisher(client)
    await publisher.start()
    if not journaled.facts.executions_created:
        journaled = await recover(client, journal, journaled.facts)
    else:
        await refuse_outdated(client, journaled.facts)
    gateway, reports, letters = _venue(context, journal, journaled, client, publisher)
    feed = OrderFeed(client, gateway)
    await feed.check()
    context.own(gateway.keep_journal(), "journal")
    context.own(reports.run(), "reports")
    context.own(letters.run(), "dead letters")

    async def on_tick(message: Msg) -> None:
        gateway.tick(message.subject.partition(".")[2], message.data)

    await client.subscribe("ticks.*", cb=on_tick)
    await client.flush()
    await _await_marks(context, gateway)
    await Queries(client, gateway, journal, context.clock).start()
    board.register("nats", critical=True, probe=feed.check)
    board.register("executions", critical=True, probe=lambda: _not_blocked(reports))
    board.register("marks", critical=False, probe=lambda: _fresh_marks(context, gateway))
    await board.probe_once()
    store = context.settings.store
    context.own(board.run(), "health")
    context.own(_show(gateway, feed), "gauges")
    context.own(OrderTrim(client, gateway, store.orders_kept, store.orders_trim_interval_sec).run(), "trim")
    return gateway, context.own(feed.run(), "orders")


async def _finish(context: _Context, gateway: Gateway, orders: asyncio.Task[None]) -> None:
    await end(orders)
    if context.failed is not None:
        return
    try:
        async with asyncio.timeout(_DRAIN_SEC):
            await gateway.drain()
    except TimeoutError:
        _log.warning("stopped with untold reports", count=gateway.untold)


def _venue(
    context: _Context, journal: Journal, journaled: Journaled, client: NatsClient, publisher: Publisher
) -> tuple[Gateway, Outbox, Outbox]:
    """Engine, gateway and outboxes, as they were when the journal was last written."""
    settings, facts = context.settings, journaled.facts
    memory = OrderMemory(settings.store.recent_orders, facts.highest_ulid)
    engine = Engine(facts.venue, settings.rules(), memory, facts.next_number)
    engine.restore(journaled.working, journaled.positions, facts.marks)
    waiting = {
        lane: [(batch, [(one, of_message(one)) for one in messages]) for batch, messages in batches]
        for lane, batches in journaled.outbox.items()
    }
    published = PositionTable(journaled.positions)
    for batches in waiting.values():
        for _, messages in batches:
            for _, movement in messages:
                if movement is not None:
                    published.apply(movement, -1)
    next_batch = 1 + max((batch for batches in waiting.values() for batch, _ in batches), default=0)
    gateway = Gateway(engine, memory, journal, facts, published, context.clock, next_batch, context.fail)
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
    return gateway, reports, letters


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
        await asyncio.sleep(_POLL_SEC)


async def _fresh_marks(context: _Context, gateway: Gateway) -> None:
    missing = gateway.engine.without_mark(context.clock.now_ns())
    if missing:
        raise LookupError(f"no mark of {', '.join(missing)}")


async def _not_blocked(reports: Outbox) -> None:
    if reports.blocked:
        raise ConnectionError(f"{reports.size} reports wait: {reports.blocked}")


async def _show(gateway: Gateway, feed: OrderFeed) -> None:
    while True:
        metrics.open_orders.set(len(gateway.engine.working))
        metrics.untold.set(gateway.untold)
        metrics.pending.set(feed.pending)
        await asyncio.sleep(_GAUGES_SEC)


def _application(board: HealthBoard) -> Starlette:
    async def health(_: Request) -> JSONResponse:
        status, body = board.body()
        return JSONResponse(body, status)

    async def live(_: Request) -> JSONResponse:
        return JSONResponse({"status": "alive"})

    return Starlette(routes=[Route("/health", health), Route("/live", live)])
