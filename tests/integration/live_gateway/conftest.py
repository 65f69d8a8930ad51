"""A venue on real NATS."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from services.runtime.local_stack import NatsServer
from tests.integration.live_gateway.venue_process import Exchange, VenueProcess


@pytest.fixture
async def exchange(empty_nats: NatsServer) -> AsyncIterator[Exchange]:
    """A client; the streams exist and are empty."""
    exchange = await Exchange.open(empty_nats.url)
    yield exchange
    await exchange.close()


@pytest.fixture
def start_venue(
    empty_nats: NatsServer, exchange: Exchange, tmp_path: Path
) -> Iterator[Callable[..., VenueProcess]]:
    """Starts a venue with settings `SECTION__KEY="value"`; it is stopped at the test's end."""
    started: list[VenueProcess] = []

    def start(**variables: str) -> VenueProcess:
        venue = VenueProcess(tmp_path / f"venue-{len(started)}", empty_nats.url, **variables)
        started.append(venue)
        venue.start()
        return venue

    yield start
    for venue in started:
        venue.stop()
