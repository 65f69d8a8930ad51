"""Whether the HTTP side of QuestDB answers."""

import asyncio
from urllib.parse import urlsplit


async def ping_http(http_url: str) -> None:
    """Returns when `GET /ping` is answered well; raises `OSError` otherwise; to be bounded by a timeout."""
    parts = urlsplit(http_url)
    if not parts.hostname:
        raise OSError(f"not an address: {http_url}")
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 9000)
    try:
        writer.write(f"GET /ping HTTP/1.1\r\nHost: {parts.hostname}\r\nConnection: close\r\n\r\n".encode())
        status = (await reader.readline()).split()
        if len(status) < 2 or not status[1].startswith(b"2"):
            raise OSError(f"{http_url}/ping was answered {b' '.join(status).decode(errors='replace')!r}")
    finally:
        writer.close()
