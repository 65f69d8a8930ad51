"""Whether QuestDB answers, on the side that fills are written to and on the one that people look at."""

import asyncio
from urllib.parse import urlsplit

from services.runtime.connections import QuestdbPool


async def ping_questdb(pool: QuestdbPool, http_url: str) -> None:
    """Returns when both sides answer; raises what went wrong. To be bounded by a timeout."""
    await pool.ping()
    parts = urlsplit(http_url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 9000)
    try:
        writer.write(f"GET /ping HTTP/1.1\r\nHost: {parts.hostname}\r\nConnection: close\r\n\r\n".encode())
        status = (await reader.readline()).split()
        if len(status) < 2 or not status[1].startswith(b"2"):
            raise OSError(f"{http_url}/ping was answered {b' '.join(status).decode(errors='replace')!r}")
    finally:
        writer.close()
